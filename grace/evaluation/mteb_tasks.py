"""The tasks as mteb runs them: MTEB(eng, v1)'s, and the demo's own from the task-data file.

The demo's tasks are mteb's classes with mteb's metrics; only their data is local. They exercise the
pipeline: their scores are not comparable with any MTEB score.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTaskClassification,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata

from grace import tasks
from grace.evaluation import local_data, scale
from grace.evaluation import sample as sampling
from grace.evaluation.items import leaves
from grace.section import UserError

SOURCE = "docstrings of the installed Python packages, object names masked"


def _metadata(name: str, kind: str, main_score: str, description: str, **more: Any) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        type=kind,  # type: ignore[arg-type]
        description=f"{description} Data: {SOURCE}; made by this workflow, comparable with no published score.",
        dataset={"path": "local", "revision": "local"},
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        domains=["Programming", "Written"],
        annotations_creators="derived",
        sample_creation="found",
        license="not specified",
        is_public=False,
        bibtex_citation="",
        **more,
    )


class _Local:
    """Takes its data from the parsed task-data file instead of a hub."""

    dataset: Any
    data_loaded: bool

    def __init__(self, data: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data = data

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        if not self.data_loaded:
            self.dataset = self.build()
            self.data_loaded = True

    def build(self) -> Any:
        raise NotImplementedError

    def text(self, index: int) -> str:
        return self.data["test"][index]["positive"]


def _retrieval(data: dict[str, Any], top_ranked: dict[str, list[str]] | None) -> dict[str, Any]:
    rows = data["test"]
    queries = [i for i in range(len(rows)) if top_ranked is None or f"q{i}" in top_ranked]
    split = {
        "corpus": Dataset.from_list([{"id": f"d{i}", "title": "", "text": r["positive"]} for i, r in enumerate(rows)]),
        "queries": Dataset.from_list([{"id": f"q{i}", "text": rows[i]["query"]} for i in queries]),
        "relevant_docs": {f"q{i}": {f"d{i}": 1} for i in queries},
        "top_ranked": top_ranked,
    }
    return {"default": {"test": split}}


class DocstringRetrieval(_Local, AbsTaskRetrieval):
    metadata = _metadata(
        "DocstringRetrieval",
        "Retrieval",
        "ndcg_at_10",
        "Find the description that belongs to a summary line, among all descriptions of the test split.",
    )
    k_values = (1, 3, 5, 10, 100)  # mteb's depth of 1,000 costs seconds and changes no nDCG@10

    def build(self) -> Any:
        return _retrieval(self.data, None)


class DocstringReranking(_Local, AbsTaskRetrieval):
    metadata = _metadata(
        "DocstringReranking",
        "Reranking",
        "map_at_1000",
        "Rank a summary line's description above up to 20 descriptions from the same package.",
    )

    def build(self) -> Any:
        items = self.data["reranking"].items()
        return _retrieval(self.data, {f"q{i}": [f"d{i}", *(f"d{n}" for n in negatives)] for i, negatives in items})


class DocstringClassification(_Local, AbsTaskClassification):
    metadata = _metadata(
        "DocstringClassification",
        "Classification",
        "accuracy",
        "Tell the package of a description; the classifier is trained on the validation split.",
    )

    def build(self) -> Any:
        task = self.data["classification"]
        number = {label: i for i, label in enumerate(task["labels"])}

        def part(split: str, indices: list[int]) -> Dataset:
            rows = [self.data[split][i] for i in indices]
            return Dataset.from_list([{"text": row["positive"], "label": number[row["label"]]} for row in rows])

        return DatasetDict({"train": part("validation", task["train"]), "test": part("test", task["test"])})


class DocstringClustering(_Local, AbsTaskClusteringLegacy):
    metadata = _metadata(
        "DocstringClustering", "Clustering", "v_measure", "Cluster descriptions by package, in disjoint sets."
    )

    def build(self) -> Any:
        rows, sets = self.data["test"], self.data["clustering"]
        table = [
            {"sentences": [self.text(i) for i in part], "labels": [rows[i]["label"] for i in part]} for part in sets
        ]
        return DatasetDict({"test": Dataset.from_list(table)})


class DocstringPairs(_Local, AbsTaskPairClassification):
    metadata = _metadata(
        "DocstringPairs",
        "PairClassification",
        "max_ap",
        "Does the description belong to the summary line, or to another one of the same package?",
    )

    def build(self) -> Any:
        rows = self.data["test"]
        table = [
            {"sentence1": rows[i]["query"], "sentence2": self.text(j), "labels": label}
            for i, j, label in self.data["pairs"]
        ]
        return DatasetDict({"test": Dataset.from_list(table)})


class DocstringSTS(_Local, AbsTaskSTS):
    metadata = _metadata(
        "DocstringSTS",
        "STS",
        "cosine_spearman",
        "A weak proxy of semantic similarity that nobody annotated: the nearness of two descriptions in the module "
        "tree (0 another package, 1 the same package, 2 the same module).",
    )
    min_score = 0
    max_score = 2

    def build(self) -> Any:
        table = [
            {"sentence1": self.text(i), "sentence2": self.text(j), "score": float(score)}
            for i, j, score in self.data["sts"]
        ]
        return DatasetDict({"test": Dataset.from_list(table)})


OWN: dict[str, Any] = {
    cls.metadata.name: cls
    for cls in (
        DocstringRetrieval,
        DocstringReranking,
        DocstringClustering,
        DocstringPairs,
        DocstringClassification,
        DocstringSTS,
    )
}


def get_tasks(
    names: list[str],
    data: dict[str, Any] | None = None,
    local: dict[str, str] | None = None,
    sample: dict[str, int] | None = None,
) -> list[AbsTask]:
    """The task objects called `names`, in that order, ready for large data (`scale.fit`).

    Args:
        names: names of `grace.tasks.CATEGORY`.
        data: the parsed task-data file (`grace.evaluation.tasks.build`), needed by the demo's tasks.
        local: task -> folder that holds its data instead of the hub (`local_data`).
        sample: task -> number of its items that are drawn (`grace.evaluation.sample`).

    Raises:
        UserError: for an unknown name, a demo task without data, or a folder without the task's data.
    """
    # Filtering the benchmark's own list is what keeps its splits and subsets (MSMARCO on dev).
    wanted = [name for name in names if name not in OWN]
    hub = {task.metadata.name: task for task in mteb.get_benchmark("MTEB(eng, v1)").tasks} if wanted else {}
    found: list[AbsTask] = []
    for name in names:
        if name not in tasks.CATEGORY or (name not in OWN and name not in hub):
            raise UserError(f"task {name!r} is neither in MTEB(eng, v1) nor one of the demo's own.")
        if name in OWN and data is None:
            raise UserError(f"task {name!r} needs --data with the file that the rule `tasks` makes.")
        found.append(OWN[name](data) if name in OWN else _own(hub[name]))
        if name in (local or {}):
            local_data.use(found[-1], (local or {})[name])
        for leaf in leaves(found[-1]):
            if name in (sample or {}):
                sampling.use(leaf, (sample or {})[name])
            scale.fit(leaf)
    return found


def _own(task: AbsTask) -> AbsTask:
    """A copy: the benchmark's objects are the same for every caller, and remember what is set on them."""
    task = copy(task)
    if members := getattr(task.metadata, "tasks", None):
        task.metadata = task.metadata.model_copy(update={"tasks": [copy(member) for member in members]})
    return task
