"""What a paired bootstrap needs of a task: the per-item scores behind mteb's main score.

Every task's items are `{"statistic": ..., "parts": [{"values": [...], "gold": [...]}, ...]}`: the score is
the mean over the parts (splits, subsets, the 12 forums of CQADupstack) of the statistic of a part,
    mean               the mean of `values` (queries, classified texts, sets of a clustering, documents);
    average_precision  of `values` as scores against `gold` in {0, 1};
    spearman           rank correlation of `values` with `gold`.
A part of a retrieval also has `tied`: per query, whether equal scores decide its value.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mteb.abstasks import (
    AbsTaskClassification,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskSummarization,
)
from mteb.abstasks.abstask import AbsTask
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

Part = dict[str, list[float]]
SUBQUERIES = "max_over_subqueries_"  # MindSmallReranking's main score


def leaves(task: AbsTask) -> list[AbsTask]:
    """The tasks that really run: a task itself, or the members of an aggregate (CQADupstackRetrieval)."""
    return list(getattr(task.metadata, "tasks", None) or [task])


def items(task: AbsTask, scores: dict[str, dict[str, dict[str, Any]]], predictions: Path) -> dict[str, Any] | None:
    """The items of a task that has just been evaluated; its data must still be loaded.

    Args:
        task: a task of `mteb_tasks.get_tasks`.
        scores: of each leaf, split -> subset -> mteb's scores, as {leaf name: {"split/subset": scores}}.
        predictions: folder that `mteb.evaluate` saved predictions to.

    Returns:
        None when the main score is none of those that can be rebuilt from items.
    """
    parts: list[Part] = []
    statistic = "mean"
    for leaf in leaves(task):
        saved = json.loads((predictions / leaf.prediction_file_name).read_text(encoding="utf-8"))
        for where, result in scores[leaf.metadata.name].items():
            split, _, subset = where.partition("/")
            found = _part(leaf, split, subset, saved[subset][split], result)
            if found is None:
                return None
            statistic, part = found
            parts.append(part)
    return {"statistic": statistic, "parts": parts}


def aggregate(found: dict[str, Any]) -> float:
    """The score that `items` stand for, computed with scikit-learn and scipy."""
    return float(np.mean([_statistic(found["statistic"], part) for part in found["parts"]]))


def _statistic(name: str, part: Part) -> float:
    if name == "mean":
        return float(np.mean(part["values"]))
    if name == "average_precision":
        return float(average_precision_score(part["gold"], part["values"]))
    if name == "spearman":
        return float(spearmanr(part["gold"], part["values"]).statistic)
    raise ValueError(name)


def _part(task: AbsTask, split: str, subset: str, saved: Any, scores: Any) -> tuple[str, Part] | None:
    metric = task.metadata.main_score
    if isinstance(task, AbsTaskRetrieval):
        return ("mean", _queries(task, task.dataset[subset][split], saved, metric))
    if isinstance(task, AbsTaskClusteringLegacy) and metric == "v_measure":
        return ("mean", {"values": [float(value) for value in scores["v_measures"]]})
    data: Any = task.dataset
    rows = data.get(subset, data)[split]
    if isinstance(task, AbsTaskClassification) and metric == "accuracy" and not task.is_cross_validation:
        gold = np.asarray(rows[task.label_column_name])
        right = np.mean([np.asarray(guess) == gold for guess in saved], axis=0)  # over the experiments
        return ("mean", {"values": [round(value, 9) for value in right.tolist()]})
    if isinstance(task, AbsTaskPairClassification) and metric == "max_ap":
        rows = rows[0] if len(rows) == 1 else rows  # some v1 data sets hold all pairs in one row
        return ("average_precision", {"values": _best(saved, scores), "gold": list(rows[task.label_column_name])})
    if isinstance(task, AbsTaskSTS) and metric == "cosine_spearman":
        return ("spearman", {"values": saved["cosine_scores"], "gold": [float(score) for score in rows["score"]]})
    if isinstance(task, AbsTaskSummarization) and metric == "cosine_spearman":
        return ("mean", {"values": _summaries(task, saved)})
    return None


def _queries(task: AbsTaskRetrieval, data: Any, saved: dict[str, dict[str, float]], metric: str) -> Part:
    """Per query (in the order of their ids) the measure that mteb averages, by the same trec_eval, and `tied`."""
    import pytrec_eval

    name, _, depth = metric.removeprefix(SUBQUERIES).rpartition("_at_")
    measure = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P"}[name]
    relevant = data["relevant_docs"]
    if task.ignore_identical_ids:
        saved = {query: {doc: s for doc, s in found.items() if doc != query} for query, found in saved.items()}
    if metric.startswith(SUBQUERIES):
        saved, relevant = _merged(saved, relevant)
    scores = pytrec_eval.RelevanceEvaluator(relevant, {f"{measure}.{depth}"}).evaluate(saved)
    return {
        "values": [round(scores[query][f"{measure}_{depth}"], 9) for query in sorted(scores)],
        "tied": [_tied(saved[query], relevant[query], int(depth)) for query in sorted(scores)],
    }


def _tied(found: dict[str, float], relevant: dict[str, int], depth: int) -> bool:
    """Whether equal scores decide a query's measure: of such documents trec_eval puts the larger id first.

    They do where documents of one score and different relevance reach into the first `depth`, or where one score goes
    on from there to the end of a longer ranking: what else has it is not known.
    """
    scores = np.fromiter(found.values(), np.float32, len(found))  # as trec_eval holds them
    gains = np.array([relevant.get(document, 0) for document in found])
    order = np.lexsort((gains, scores))[::-1]
    scores, gains = scores[order], gains[order]
    first = np.searchsorted(-scores, -scores)  # rank of the first document of the same score
    apart = (scores[1:] == scores[:-1]) & (gains[1:] != gains[:-1]) & (first[1:] < depth)
    return bool(apart.any() or (first[depth:][-1:] < depth).any())


def _merged(saved: dict[str, dict[str, float]], relevant: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """One ranking per query from those of its sub-queries `<query>_<n>`: a document's best score counts."""
    merged: dict[str, dict[str, float]] = {}
    judged: dict[str, Any] = {}
    for name in relevant:
        query = "_".join(name.split("_")[:-1])
        ranking = merged.setdefault(query, {})
        for doc, score in saved[name].items():
            ranking[doc] = max(score, ranking.get(doc, score))
        judged[query] = relevant[name]
    return merged, judged


def _best(saved: dict[str, list[float]], scores: dict[str, float]) -> list[float]:
    """The similarity that gives mteb's `max_ap`, negated where it is a distance."""
    kinds = {
        "cosine": ("cosine_scores", 1.0),
        "similarity": ("similarity_scores", 1.0),
        "dot": ("dot_scores", 1.0),
        "euclidean": ("euclidean_distances", -1.0),
        "manhattan": ("manhattan_distances", -1.0),
    }
    best = max(kinds, key=lambda kind: scores[f"{kind}_ap"])
    name, sign = kinds[best]
    return [sign * value for value in saved[name]]


def _summaries(task: AbsTaskSummarization, saved: dict[str, list[list[float]]]) -> list[float]:
    """Per document the correlation with the human scores; SummEval of MTEB v1 averages it with its p-value."""
    both = "Deprecated" in task.evaluator.__name__
    values = []
    for human, score in zip(saved["human_scores"], saved["cosine_scores"], strict=True):
        found = spearmanr(human, score)
        values.append(float(np.mean(found)) if both else float(found.statistic))
    return values
