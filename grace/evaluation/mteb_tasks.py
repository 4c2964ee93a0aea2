"""The tasks as mteb runs them: those of MTEB(eng, v1), and the demo's own.

The demo's tasks are mteb's classes with mteb's metrics on data of the workflow; their scores are comparable with no
MTEB score.

A part of a large task (`evaluation.sample: {task: n}`) is n of its items, the same for every model:

    STS, pair classification    n pairs
    summarization               n documents
    classification              n test texts; the training texts are drawn as mteb draws them
    clustering                  n texts in all, of each set its share
    retrieval, reranking        n queries with the documents that are judged for them or are their candidates; where a
                                retrieval's corpus is larger than that, 10 n other documents, so it is easier than
                                the whole

Of several subsets or forums n are drawn from each. The seed is fixed, and a smaller draw is a part of a larger one, so
that the store serves both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import copy
from typing import Any

import datasets
import mteb
import numpy as np
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HTTPError  # of the HTTP library that the hub's client uses
from mteb.abstasks import (
    AbsTaskClassification,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskSummarization,
)
from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata

from grace.config import tasks
from grace.config.section import UserError
from grace.config.tasks import OTHER_DOCUMENTS
from grace.encoder import hub
from grace.evaluation import local_data
from grace.evaluation.local_data import leaves, load_with
from grace.jobs.stage import refused

SEED = 0
DEPTH = 100  # documents kept per query where only nDCG@10 counts; mteb keeps 1,000
SUBQUERIES = "max_over_subqueries_"  # MindSmallReranking's main score
Data = dict[str, Any]  # the parsed task-data file (`grace.evaluation.tasks.build`)
log = logging.getLogger(__name__)


def find(
    names: list[str],
    data: Data | None,
    local: dict[str, str] | None = None,
    sample: dict[str, int] | None = None,
) -> list[AbsTask]:
    """The tasks as of `get_tasks`, so that what is missing stops a job before its model is loaded.

    Every local folder is looked into, and the first task's data are loaded. Those of the others are when their turn
    comes, and not kept: all at once need not fit in memory.

    Raises:
        UserError: as `get_tasks`, or for data that cannot be loaded.
    """
    datasets.disable_progress_bars()
    found = get_tasks(names, data, local, sample)
    if not {*tasks.DEMO.values(), *(local or {})}.issuperset(names):
        hub.offline_if_unreachable()
    for task in found[:1]:
        log.info("%s: loading its data", task.metadata.name)
        load_data(leaves(task)[0])
    return found


def get_tasks(
    names: list[str],
    data: Data | None = None,
    local: dict[str, str] | None = None,
    sample: dict[str, int] | None = None,
) -> list[AbsTask]:
    """The task objects called `names`, in that order, ready for large data.

    Args:
        names: of `grace.config.tasks.CATEGORY`.
        data: needed by the demo's tasks.
        local: task -> folder that holds its data instead of the hub (`local_data`).
        sample: task -> number of its items that are drawn.

    Raises:
        UserError: for an unknown name, a demo task without data, or a folder without the task's data.
    """
    # Filtering the benchmark's own list is what keeps its splits and subsets (MSMARCO on dev).
    wanted = [name for name in names if name not in DEMO]
    known = {task.metadata.name: task for task in mteb.get_benchmark("MTEB(eng, v1)").tasks} if wanted else {}
    found: list[AbsTask] = []
    for name in names:
        if name not in tasks.CATEGORY or (name not in DEMO and name not in known):
            raise UserError(f"task {name!r} is neither in MTEB(eng, v1) nor one of the demo's own.")
        if name not in DEMO:
            found.append(_copy(known[name]))
        elif data is None:
            raise UserError(f"task {name!r} needs --data with the file that the rule `tasks` makes.")
        else:
            found.append(_demo_task(name, data))
        if name in (local or {}):
            local_data.use(found[-1], (local or {})[name])
        for leaf in leaves(found[-1]):
            if name in (sample or {}):
                _sample(leaf, (sample or {})[name])
            _fit(leaf)
    return found


def load_data(task: AbsTask) -> None:
    """Load the data of a task that is no aggregate. Raises: UserError when they cannot be loaded from the hub."""
    try:
        task.load_data()
    except (OSError, HTTPError, DatasetsError, ValueError) as error:  # the hub's own errors are OSErrors
        if refused(error):
            raise
        if type(error) is ValueError and "Couldn't find cache" not in str(error):  # which only says that it is offline
            raise
        reason = str(error).strip().split("\n")[0]
        name = task.metadata.name
        raise UserError(
            f"task {name}: its data cannot be loaded from the hub ({reason}); try again with a connection, or name a "
            f"folder that holds it in evaluation.local.{name}."
        ) from None


def _copy(task: AbsTask) -> AbsTask:
    """The benchmark's objects are the same for every caller, and remember what is set on them."""
    task = copy(task)
    if members := getattr(task.metadata, "tasks", None):
        task.metadata = task.metadata.model_copy(update={"tasks": [copy(member) for member in members]})
    return task


# ---- the demo's tasks ----------------------------------------------------------------------


def _demo_task(name: str, data: Data) -> AbsTask:
    kind, main_score, read, more = DEMO[name]
    metadata = TaskMetadata(
        name=name,
        type=tasks.CATEGORY[name],  # type: ignore[arg-type]
        description="Docstrings of the installed Python packages; made by this workflow, comparable with no score.",
        dataset={"path": "local", "revision": "local"},
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        is_public=False,
    )
    task: AbsTask = type(name, (kind,), {"metadata": metadata, **more})()
    load_with(task, lambda: read(data))
    return task


def _test(rows: list[dict[str, Any]]) -> DatasetDict:
    return DatasetDict({"test": Dataset.from_list(rows)})


def _retrieval(data: Data, top_ranked: dict[str, list[str]] | None = None) -> dict[str, Any]:
    rows = data["test"]
    queries = [i for i in range(len(rows)) if top_ranked is None or f"q{i}" in top_ranked]
    split = {
        "corpus": Dataset.from_list([{"id": f"d{i}", "title": "", "text": r["positive"]} for i, r in enumerate(rows)]),
        "queries": Dataset.from_list([{"id": f"q{i}", "text": rows[i]["query"]} for i in queries]),
        "relevant_docs": {f"q{i}": {f"d{i}": 1} for i in queries},
        "top_ranked": top_ranked,
    }
    return {"default": {"test": split}}


def _reranking(data: Data) -> dict[str, Any]:
    items = data["reranking"].items()
    return _retrieval(data, {f"q{i}": [f"d{i}", *(f"d{n}" for n in negatives)] for i, negatives in items})


def _classification(data: Data) -> DatasetDict:
    task = data["classification"]
    number = {label: i for i, label in enumerate(task["labels"])}

    def part(split: str, indices: list[int]) -> Dataset:
        rows = [data[split][i] for i in indices]
        return Dataset.from_list([{"text": row["positive"], "label": number[row["label"]]} for row in rows])

    return DatasetDict({"train": part("validation", task["train"]), "test": part("test", task["test"])})


def _clustering(data: Data) -> DatasetDict:
    sets = [[data["test"][i] for i in part] for part in data["clustering"]]
    columns = {"sentences": "positive", "labels": "label"}
    return _test([{name: [row[key] for row in rows] for name, key in columns.items()} for rows in sets])


def _pairs(data: Data) -> DatasetDict:
    rows, names = data["test"], ("sentence1", "sentence2", "labels")
    pairs = [(rows[i]["query"], rows[j]["positive"], label) for i, j, label in data["pairs"]]
    return _test([dict(zip(names, pair, strict=True)) for pair in pairs])


def _sts(data: Data) -> DatasetDict:
    rows, names = data["test"], ("sentence1", "sentence2", "score")
    pairs = [(rows[i]["positive"], rows[j]["positive"], float(score)) for i, j, score in data["sts"]]
    return _test([dict(zip(names, pair, strict=True)) for pair in pairs])


# name -> (mteb's class, main score, its data from the task-data file, attributes of the class)
DEMO: dict[str, tuple[type[AbsTask], str, Callable[[Data], Any], dict[str, Any]]] = {
    # mteb's depth of 1,000 costs seconds and changes no nDCG@10.
    "DocstringRetrieval": (AbsTaskRetrieval, "ndcg_at_10", _retrieval, {"k_values": (1, 3, 5, 10, 100)}),
    "DocstringReranking": (AbsTaskRetrieval, "map_at_1000", _reranking, {}),
    "DocstringClustering": (AbsTaskClusteringLegacy, "v_measure", _clustering, {}),
    "DocstringPairs": (AbsTaskPairClassification, "max_ap", _pairs, {}),
    "DocstringClassification": (AbsTaskClassification, "accuracy", _classification, {}),
    "DocstringSTS": (AbsTaskSTS, "cosine_spearman", _sts, {"min_score": 0, "max_score": 2}),
}


# ---- a part of a large task ----------------------------------------------------------------

# What is drawn, and the column without whose spread no score is defined.
SAMPLED: dict[type[AbsTask], tuple[str, str | None]] = {
    AbsTaskClassification: ("texts", "label"),
    AbsTaskClusteringLegacy: ("texts", "labels"),
    AbsTaskPairClassification: ("pairs", "labels"),
    AbsTaskSTS: ("pairs", "score"),
    AbsTaskSummarization: ("documents", None),
}


def sampled(task: AbsTask) -> dict[str, list[int]]:
    """What was drawn of a task whose data are loaded, without what is whole: {"queries": [100, 300]}, 100 of 300."""
    found: dict[str, list[int]] = {}
    for leaf in leaves(task):
        for what, part, whole in getattr(leaf, "drawn", []):
            counts = found.setdefault(what, [0, 0])
            counts[0] += part
            counts[1] += whole
    return {what: counts for what, counts in found.items() if counts[0] < counts[1]}


def query_groups(split: Any, main_score: str) -> list[list[int]]:
    """Row numbers of each judged query; the sub-queries `<query>_<n>` of one query together."""
    apart = main_score.startswith(SUBQUERIES)
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(split["queries"]["id"][:]):
        if split["relevant_docs"].get(name):
            groups.setdefault(name.rpartition("_")[0] if apart else name, []).append(row)
    return list(groups.values())


def _sample(task: AbsTask, count: int) -> None:
    """Draw `count` items of `task`, which is no aggregate, whenever its data are loaded.

    Raises:
        UserError: from `task.load_data()`, where so few items give no score.
    """
    load: Any = task.load_data

    def load_data(*arguments: Any, **named: Any) -> None:
        if not task.data_loaded:
            load(*arguments, **named)
            task.drawn = _cut(task, count)  # type: ignore[attr-defined]

    task.load_data = load_data  # type: ignore[method-assign]


def _cut(task: AbsTask, count: int) -> list[tuple[str, int, int]]:
    """Cuts each split of each subset; returns what was drawn, how many, and of how many."""
    found: list[tuple[str, int, int]] = []
    for subset in task.hf_subsets:
        for split in task.eval_splits:
            data: Any = task.dataset
            data = data.get(subset, data)
            rng = np.random.default_rng([SEED, *f"{task.metadata.name}/{subset}/{split}".encode()])
            if isinstance(task, AbsTaskRetrieval):
                whole, data[split] = data[split], _draw_queries(task, data[split], count, rng)
                for what, name in (("queries", "queries"), ("documents", "corpus")):
                    found.append((what, len(data[split][name]), len(whole[name])))
            else:
                what, column = next(entry for kind, entry in SAMPLED.items() if isinstance(task, kind))
                draw = _draw_sets if isinstance(task, AbsTaskClusteringLegacy) else _draw_rows
                data[split], part, of = draw(task, data[split], column, count, rng)
                found.append((what, part, of))
    return found


def _draw(size: int, count: int, rng: np.random.Generator) -> list[int]:
    return np.sort(rng.permutation(size)[:count]).tolist()


def _draw_rows(
    task: AbsTask, rows: Any, column: str | None, count: int, rng: np.random.Generator
) -> tuple[Dataset, int, int]:
    """The drawn rows, their number, and that of all."""
    if isinstance(task, AbsTaskPairClassification) and len(rows) == 1:  # some v1 data sets hold all pairs in one row
        rows = Dataset.from_dict(rows[0])
    part = rows.select(_draw(len(rows), count, rng))
    if column is not None:
        if len(set(part[column][:])) < 2:
            raise _too_few(task, count, f"have the same {column!r}, so that no score is defined")
        labels = len(set(rows[column][:])) if isinstance(task, AbsTaskClassification) else 0
        if count < labels:
            raise _too_few(task, count, f"cannot hold the {labels} labels of the task")
    return part, len(part), len(rows)


def _draw_sets(
    task: AbsTask, rows: Any, column: str | None, count: int, rng: np.random.Generator
) -> tuple[Dataset, int, int]:
    """Of each set of a clustering its share of the texts: each set has a score. Counts are of texts."""
    ends = np.cumsum([len(one["labels"]) for one in rows])
    size = int(ends[-1])
    count = min(count, size)
    shares = np.diff(np.round(ends * count / size).astype(int), prepend=0)
    sets = []
    for one, share in zip(rows, shares.tolist(), strict=True):
        chosen = _draw(len(one["labels"]), share, rng)
        sets.append({name: [one[name][i] for i in chosen] for name in ("sentences", "labels")})
        if len(set(sets[-1]["labels"])) in (0, 1, len(chosen)):
            why = "whose labels are all the same or all different, so that any clustering of it is perfect"
            raise _too_few(task, count, f"leave a set of {share} {why}")
    return Dataset.from_list(sets), count, size


def _draw_queries(task: AbsTaskRetrieval, whole: Any, count: int, rng: np.random.Generator) -> dict[str, Any]:
    """A split of a retrieval or reranking with `count` of its judged queries and their documents, and others."""
    relevant, ranked = whole["relevant_docs"], whole["top_ranked"]
    groups = query_groups(whole, task.metadata.main_score)
    queries = whole["queries"].select([row for i in _draw(len(groups), count, rng) for row in groups[i]])
    names = queries["id"][:]
    needed = {document for name in names for document in [*relevant[name], *(ranked[name] if ranked else [])]}
    ids = whole["corpus"]["id"][:]
    others = [] if ranked else [row for row, name in enumerate(ids) if name not in needed]
    drawn = {others[i] for i in _draw(len(others), OTHER_DOCUMENTS * count, rng)}
    corpus = whole["corpus"].select([row for row, name in enumerate(ids) if name in needed or row in drawn])
    return {
        **whole,
        "queries": queries,
        "corpus": corpus,
        "relevant_docs": {name: relevant[name] for name in names},
        "top_ranked": ranked and {name: ranked[name] for name in names},
    }


def _too_few(task: AbsTask, count: int, why: str) -> UserError:
    return UserError(f"config: evaluation.sample.{task.metadata.name}: {count} drawn items {why}; raise it.")


# ---- large data ----------------------------------------------------------------------------


def _fit(task: AbsTask) -> None:
    """Let mteb's classes bear the benchmark's largest data, without a change to any main score.

    Retrieval: MSMARCO's 6,980 queries with 1,000 documents each are gigabytes of Python objects, and of no use to
    nDCG@10. Classification: mteb reads each label from a lazy column of `datasets`, at 0.005 ms and more, for each
    score and each draw of training texts: five hours for AmazonPolarity's 400,000 texts.
    """
    if isinstance(task, AbsTaskRetrieval) and task.metadata.main_score == "ndcg_at_10":
        task.k_values = [k for k in task.k_values if k <= DEPTH]
        task._top_k = max(task.k_values)
    if isinstance(task, AbsTaskClassification):
        undersample, calculate = task._undersample_data, task._calculate_scores

        def faster(dataset: Any, *arguments: Any, **named: Any) -> Any:
            return undersample(_Columns(dataset), *arguments, **named)

        def scores(labels: Any, predicted: Any) -> Any:
            # mteb takes the average precision of any two labels, and it is defined for 0 and 1 alone. No other score
            # depends on what labels are called.
            gold = np.asarray(labels[:])
            known = np.unique(gold)
            order = np.concatenate([known, np.setdiff1d(predicted, known)])
            codes = {label: code for code, label in enumerate(order.tolist())}
            return calculate(*(np.array([codes[label] for label in at.tolist()]) for at in (gold, predicted)))

        task._undersample_data = faster  # type: ignore[method-assign]
        task._calculate_scores = scores  # type: ignore[method-assign, assignment]


class _Columns:
    """A data set whose columns are lists."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, column: str) -> list[Any]:
        return self.dataset[column][:]

    def select(self, indices: list[int]) -> Dataset:
        return self.dataset.select(indices)
