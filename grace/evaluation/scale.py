"""What makes mteb's classes bear the benchmark's largest data, without a change to any main score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import Dataset
from mteb._create_dataloaders import _corpus_to_dict
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval
from mteb.abstasks.abstask import AbsTask

from grace.evaluation.items import SUBQUERIES

DEPTH = 100  # documents kept per query where only nDCG@10 counts; mteb keeps 1,000
SUBQUERIES_AT_ONCE = 50_000


def fit(task: AbsTask) -> None:
    """Set up a task that is no aggregate.

    Retrieval: MSMARCO's 6,980 queries with 1,000 documents each are gigabytes of Python objects, and of no use to
    nDCG@10. Classification: its labels are read from a lazy column of `datasets`, at 0.005 ms and more each, some fifty
    times in the scores of each experiment (five hours for AmazonPolarity's 400,000); and see `_Columns`.
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
    """A data set whose columns are lists.

    mteb draws its training samples by looking at the label of each of AmazonPolarity's 3.6 million rows, ten times,
    and each look into a lazy column of `datasets` costs 0.05 ms or more: half an hour, or 35 s with a list.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, column: str) -> list[Any]:
        return self.dataset[column][:]

    def select(self, indices: list[int]) -> Dataset:
        return self.dataset.select(indices)


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
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(whole["queries"]["id"]):
        if name in whole["relevant_docs"]:
            groups.setdefault(name.rpartition("_")[0], []).append(row)
    rows: list[int] = []
    left = sum(map(len, groups.values()))
    for group in groups.values():
        rows += group
        left -= len(group)
        if len(rows) >= SUBQUERIES_AT_ONCE or not left:
            queries = whole["queries"].select(rows)
            own = set(queries["id"])
            part = {key: {q: whole[key][q] for q in own} for key in ("relevant_docs", "top_ranked")}
            task.dataset = {"default": {split: {**whole, **part, "queries": queries}}}
            yield
            rows = []
    task.dataset = {"default": {split: whole}}


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
