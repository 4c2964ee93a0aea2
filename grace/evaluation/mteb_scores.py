"""Runs mteb's tasks on an embedder, and keeps the per-item scores behind each main score, for a paired bootstrap.

Every task's items are `{"statistic": ..., "parts": [{"values": [...], "gold": [...]}, ...]}`: the score is
the mean over the parts (splits, subsets, the 12 forums of CQADupstack) of the statistic of a part,

    mean               the mean of `values` (queries, classified texts, sets of a clustering, documents);
    average_precision  of `values` as scores against `gold` in {0, 1};
    spearman           rank correlation of `values` with `gold`.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mteb
import numpy as np
import pytrec_eval
from mteb._create_dataloaders import _corpus_to_dict
from mteb.abstasks import (
    AbsTaskClassification,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskSummarization,
)
from mteb.abstasks.abstask import AbsTask
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from scipy.stats import spearmanr
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import average_precision_score

from grace.config import tasks
from grace.evaluation.local_data import leaves
from grace.evaluation.mteb_tasks import SUBQUERIES, load_data, query_groups, sampled

if TYPE_CHECKING:
    from grace.evaluation.evaluate import Embedder

# Of mteb's loader only: the encoder makes its own batches and shows its own progress.
LOADER: Any = {"batch_size": 1024, "show_progress_bar": False}
SUBQUERIES_AT_ONCE = 50_000
STATISTICS: dict[type[AbsTask], str] = {AbsTaskPairClassification: "average_precision", AbsTaskSTS: "spearman"}
Items = dict[str, Any]
Part = dict[str, list[float]]
log = logging.getLogger(__name__)


def run(embedder: Embedder, todo: list[AbsTask], name: str, revision: str) -> dict[str, Any]:
    """Evaluate the tasks of `mteb_tasks.find`; their data are unloaded one after the other.

    Args:
        name, revision: of the model, for mteb.

    Returns:
        {task: {"category", "main_score" (0 to 1, or None where undefined), "metric", "items" (None where undefined)}},
        of a retrieval also "tied": the share of queries whose score equal scores of documents decide; of a task of
        which a part was drawn also "sample" (see `mteb_tasks.sampled`).

    Raises:
        UserError: for data that cannot be loaded, or a disk too small for a corpus's embeddings.
        RuntimeError: when the per-item scores do not add up to mteb's main score.
    """
    # mteb computes a dozen metrics beside the main one; those of unpredicted labels warn on each experiment.
    warnings.filterwarnings("ignore", category=UndefinedMetricWarning)
    model = _Model(embedder, name, revision)
    found: dict[str, Any] = {}
    for number, task in enumerate(todo, 1):
        title, metric = task.metadata.name, task.metadata.main_score
        log.info("task %d of %d: %s", number, len(todo), title)
        for leaf in leaves(task):  # loaded here, so that mteb leaves the data loaded for the items
            load_data(leaf)
            embedder.check_room(documents(leaf), corpus_size(leaf))
        main, items = _joined([_evaluate(model, task) for _ in pieces(task)])
        if not math.isfinite(main):  # a correlation without spread: all embeddings are one
            log.warning("%s: %s is undefined for this model", title, metric)
        found[title] = {
            "category": tasks.CATEGORY[title],
            "main_score": main if math.isfinite(main) else None,
            "metric": metric,
            "items": items,
        }
        if tied := [flag for part in (items or {"parts": []})["parts"] for flag in part.pop("tied", [])]:
            found[title]["tied"] = float(np.mean(tied))
        if part := sampled(task):
            found[title]["sample"] = part
        log.info("%s: %s %.4f", title, metric, main)
        for leaf in leaves(task):
            leaf.unload_data()
    return found


class _Model(AbsEncoder):
    """An embedder as mteb wants it. A document's text comes from mteb as title + " " + text."""

    def __init__(self, embedder: Embedder, name: str, revision: str) -> None:
        self.model = embedder
        about = {"name": name, "revision": revision, "similarity_fn_name": ScoringFunction.COSINE}
        self.mteb_model_meta = ModelMeta.create_empty(overwrites=about)

    def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
        return self.model.encode([text for batch in inputs for text in batch["text"]])


def _evaluate(model: Any, task: AbsTask) -> tuple[float, Items | None]:
    """Main score and items of a task with the data it now holds."""
    means: list[float] = []
    parts: list[Part] = []
    for leaf in leaves(task):
        with tempfile.TemporaryDirectory() as folder:
            result = mteb.evaluate(
                model,
                leaf,
                cache=None,
                prediction_folder=Path(folder),
                show_progress_bar=False,
                co2_tracker=False,
                encode_kwargs=LOADER,
            )
            saved = json.loads((Path(folder) / leaf.prediction_file_name).read_text(encoding="utf-8"))
        rows = [(split, row) for split, rows in result.task_results[0].scores.items() for row in rows]
        means.append(float(np.mean([row["main_score"] for _, row in rows])))
        if math.isfinite(means[-1]):
            parts += [_part(leaf, split, row["hf_subset"], saved[row["hf_subset"]][split], row) for split, row in rows]
    main = float(np.mean(means))  # mteb's, over splits and subsets, and over the members of an aggregate task
    if not math.isfinite(main):
        return main, None
    items = {
        "statistic": next((name for kind, name in STATISTICS.items() if isinstance(task, kind)), "mean"),
        "parts": parts,
    }
    # mteb rounds retrieval scores to five decimals.
    if abs(aggregate(items) - main) > 1e-5:
        raise RuntimeError(f"{task.metadata.name}: items give {aggregate(items):.7f}, mteb {main:.7f}")
    return main, items


def aggregate(items: Items) -> float:
    """The score that items stand for, computed with scikit-learn and scipy."""
    statistic = {
        "mean": lambda part: np.mean(part["values"]),
        "average_precision": lambda part: average_precision_score(part["gold"], part["values"]),
        "spearman": lambda part: spearmanr(part["gold"], part["values"]).statistic,
    }[items["statistic"]]
    return float(np.mean([float(statistic(part)) for part in items["parts"]]))


# ---- large data ----------------------------------------------------------------------------


def pieces(task: AbsTask) -> Iterator[None]:
    """Put the data of a loaded task before mteb in pieces that fit in memory; the task is changed at each step.

    Only MindSmallReranking has more than one: its 2.4 million sub-queries have 97 million candidates, whose scores
    mteb holds as Python objects. The main score is a mean over queries, and a query's sub-queries stay together,
    so that the mean over all pieces' queries is the score.
    """
    if not task.metadata.main_score.startswith(SUBQUERIES):
        yield
        return
    (split,) = task.eval_splits
    whole: Any = (task.dataset or {})["default"][split]
    candidates = whole["top_ranked"]
    share = {name: name for name in whole["corpus"]["id"]}  # one string per document, not one per candidate
    for query, found in candidates.items():
        candidates[query] = [share.get(doc, doc) for doc in found]
    groups = query_groups(whole, task.metadata.main_score)
    rows: list[int] = []
    for number, group in enumerate(groups, 1):
        rows += group
        if len(rows) >= SUBQUERIES_AT_ONCE or number == len(groups):
            queries = whole["queries"].select(rows)
            own = set(queries["id"])
            part = {key: {q: whole[key][q] for q in own} for key in ("relevant_docs", "top_ranked")}
            task.dataset = {"default": {split: {**whole, **part, "queries": queries}}}
            yield
            rows = []
    task.dataset = {"default": {split: whole}}


def _joined(pieces: list[tuple[float, Items | None]]) -> tuple[float, Items | None]:
    """Score and items of a task that was evaluated in pieces: a mean over the items of all."""
    if len(pieces) == 1:
        return pieces[0]
    if not all(math.isfinite(main) for main, _ in pieces):
        return math.nan, None
    parts = [part for _, items in pieces if items for part in items["parts"]]
    whole = {key: [value for part in parts for value in part[key]] for key in parts[0]}
    return float(np.mean(whole["values"])), {"statistic": "mean", "parts": [whole]}


def corpus_size(task: AbsTask) -> int:
    """Number of documents of a loaded retrieval task; 0 for any other."""
    if not isinstance(task, AbsTaskRetrieval):
        return 0
    return sum(len(data["corpus"]) for subset in task.dataset.values() for data in subset.values())


def documents(task: AbsTask) -> Iterator[list[str]]:
    """The documents of a loaded retrieval task as mteb gives them to the encoder, in batches; nothing of another."""
    for subset in task.dataset.values() if isinstance(task, AbsTaskRetrieval) else ():
        for data in subset.values():
            for batch in data["corpus"].iter(batch_size=50_000):
                rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
                yield [_corpus_to_dict(row)["text"] for row in rows]


# ---- items ---------------------------------------------------------------------------------


def _part(task: AbsTask, split: str, subset: str, saved: Any, scores: Any) -> Part:
    """The items of a split and subset that has just been evaluated and whose data are still loaded.

    A part of a retrieval also has `tied`: per query, whether equal scores decide its value.

    Args:
        saved: predictions. scores: mteb's.
    """
    data: Any = task.dataset
    if isinstance(task, AbsTaskRetrieval):
        return _queries(task, data[subset][split], saved)
    if isinstance(task, AbsTaskClusteringLegacy):
        return {"values": [float(value) for value in scores["v_measures"]]}
    if isinstance(task, AbsTaskSummarization):  # SummEval of MTEB v1 averages a correlation with its p-value
        pairs = zip(saved["human_scores"], saved["cosine_scores"], strict=True)
        return {"values": [float(np.mean(spearmanr(human, score))) for human, score in pairs]}
    rows = data.get(subset, data)[split]
    if isinstance(task, AbsTaskSTS):
        return {"values": saved["cosine_scores"], "gold": [float(score) for score in rows["score"]]}
    if isinstance(task, AbsTaskPairClassification):
        rows = rows[0] if len(rows) == 1 else rows  # some v1 data sets hold all pairs in one row
        return {"values": _best(saved, scores), "gold": list(rows[task.label_column_name])}
    assert isinstance(task, AbsTaskClassification)
    gold = np.asarray(rows[task.label_column_name])
    right = np.mean([np.asarray(guess) == gold for guess in saved], axis=0)  # over the experiments
    return {"values": [round(value, 9) for value in right.tolist()]}


def _queries(task: AbsTaskRetrieval, data: Any, saved: dict[str, dict[str, float]]) -> Part:
    """Per query (in the order of their ids) the measure that mteb averages, by the same trec_eval, and `tied`."""
    metric = task.metadata.main_score
    name, _, depth = metric.removeprefix(SUBQUERIES).rpartition("_at_")
    relevant = data["relevant_docs"]
    if task.ignore_identical_ids:
        saved = {query: {doc: s for doc, s in found.items() if doc != query} for query, found in saved.items()}
    if metric.startswith(SUBQUERIES):
        saved, relevant = _merged(saved, relevant)
    scores = pytrec_eval.RelevanceEvaluator(relevant, {f"{name}_cut.{depth}"}).evaluate(saved)
    return {
        "values": [round(scores[query][f"{name}_cut_{depth}"], 9) for query in sorted(scores)],
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
        query = name.rpartition("_")[0]
        ranking = merged.setdefault(query, {})
        for doc, score in saved[name].items():
            ranking[doc] = max(score, ranking.get(doc, score))
        judged[query] = relevant[name]
    return merged, judged


def _best(saved: dict[str, list[float]], scores: dict[str, float]) -> list[float]:
    """The similarity that gives mteb's `max_ap`, negated where it is a distance."""
    names = {
        "cosine": "cosine_scores",
        "similarity": "similarity_scores",
        "dot": "dot_scores",
        "euclidean": "euclidean_distances",
        "manhattan": "manhattan_distances",
    }
    best = names[max(names, key=lambda kind: scores[f"{kind}_ap"])]
    return [-value if best.endswith("distances") else value for value in saved[best]]
