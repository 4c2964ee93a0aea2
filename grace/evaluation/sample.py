"""A part of a large task (`evaluation.sample: {task: n}`): n of its items, the same for every model.

STS, pair classification    n pairs
summarization               n documents
classification              n test texts; the training texts are drawn as mteb draws them
clustering                  n texts in all, of each set its share
retrieval, reranking        n queries with the documents that are judged for them or are their candidates; where a
                            retrieval's corpus is larger than that, 10 n other documents, so it is easier than the whole

Of several subsets or forums n are drawn from each. The seed is fixed, and a smaller draw is a part of a larger one, so
that the store serves both. Metrics and per-item scores are those of any task.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from mteb.abstasks import (
    AbsTaskClassification,
    AbsTaskClusteringLegacy,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskSummarization,
)
from mteb.abstasks.abstask import AbsTask

from grace.evaluation.items import SUBQUERIES
from grace.section import UserError
from grace.tasks import OTHER_DOCUMENTS

SEED = 0
# What is drawn, and the column without whose spread no score is defined.
KINDS: dict[type[AbsTask], tuple[str, str | None]] = {
    AbsTaskClassification: ("texts", "label"),
    AbsTaskClusteringLegacy: ("texts", "labels"),
    AbsTaskPairClassification: ("pairs", "labels"),
    AbsTaskSTS: ("pairs", "score"),
    AbsTaskSummarization: ("documents", None),
}
Drawn = dict[str, list[int]]  # {"queries": [100, 300], "documents": [1108, 5183]}: so many of so many


def use(task: AbsTask, count: int) -> None:
    """Keep a draw of `count` items of `task`, which is no aggregate, whenever its data are loaded.

    Raises:
        UserError: from `task.load_data()`, where so few items give no score.
    """
    load: Any = task.load_data

    def load_data(*arguments: Any, **named: Any) -> None:
        if not task.data_loaded:
            load(*arguments, **named)
            task.drawn = _cut(task, count)  # type: ignore[attr-defined]

    task.load_data = load_data  # type: ignore[method-assign]


def drawn(leaves: list[AbsTask]) -> Drawn:
    """What was drawn of a task whose data are loaded, without what is whole."""
    found: Drawn = {}
    for leaf in leaves:
        for what, part, of in getattr(leaf, "drawn", []):
            have = found.setdefault(what, [0, 0])
            have[0] += part
            have[1] += of
    return {what: numbers for what, numbers in found.items() if numbers[0] < numbers[1]}


def _cut(task: AbsTask, count: int) -> list[tuple[str, int, int]]:
    """Cuts each split of each subset; returns what was drawn, how many, and of how many."""
    found: list[tuple[str, int, int]] = []
    for subset in task.hf_subsets:
        for split in task.eval_splits:
            data: Any = task.dataset
            data = data.get(subset, data)
            rng = np.random.default_rng([SEED, *f"{task.metadata.name}/{subset}/{split}".encode()])
            if isinstance(task, AbsTaskRetrieval):
                whole, data[split] = data[split], _asked(task, data[split], count, rng)
                sizes = {name: (len(data[split][name]), len(whole[name])) for name in ("queries", "corpus")}
                found += [("queries", *sizes["queries"]), ("documents", *sizes["corpus"])]
            else:
                what = next(what for kind, (what, _) in KINDS.items() if isinstance(task, kind))
                data[split], part, of = _rows(task, data[split], count, rng)
                found.append((what, part, of))
    return found


def _draw(size: int, count: int, rng: np.random.Generator) -> list[int]:
    return np.sort(rng.permutation(size)[:count]).tolist()


def _rows(task: AbsTask, rows: Any, count: int, rng: np.random.Generator) -> tuple[Dataset, int, int]:
    """The drawn rows, the number of items in them, and that of all."""
    if isinstance(task, AbsTaskClusteringLegacy):
        return _sets(task, rows, count, rng)
    if isinstance(task, AbsTaskPairClassification) and len(rows) == 1:  # some v1 data sets hold all pairs in one row
        rows = Dataset.from_dict(rows[0])
    column = next(column for kind, (_, column) in KINDS.items() if isinstance(task, kind))
    part = rows.select(_draw(len(rows), count, rng))
    if column is not None:
        if len(set(part[column][:])) < 2:
            raise _too_few(task, count, f"have the same {column!r}, so that no score is defined")
        known = len(set(rows[column][:])) if isinstance(task, AbsTaskClassification) else 0
        if count < known:
            raise _too_few(task, count, f"cannot hold the {known} labels of the task")
    return part, len(part), len(rows)


def _sets(task: AbsTaskClusteringLegacy, rows: Any, count: int, rng: np.random.Generator) -> tuple[Dataset, int, int]:
    """Of each set of a clustering its share; as many sets as there are, since each has a score."""
    sets = list(rows)
    ends = np.cumsum([len(one["labels"]) for one in sets])
    size = int(ends[-1])
    count = min(count, size)
    shares = np.diff(np.round(ends * count / size).astype(int), prepend=0)
    cut = []
    for one, share in zip(sets, shares.tolist(), strict=True):
        chosen = _draw(len(one["labels"]), share, rng)
        cut.append({name: [one[name][i] for i in chosen] for name in ("sentences", "labels")})
        if len(set(cut[-1]["labels"])) in (0, 1, len(chosen)):
            raise _too_few(
                task, count, f"leave a set of {share} whose labels are all the same or all different, so that any "
                "clustering of it is perfect"
            )  # fmt: skip
    return Dataset.from_list(cut), count, size


def _asked(task: AbsTaskRetrieval, whole: Any, count: int, rng: np.random.Generator) -> Any:
    """A split of a retrieval or reranking with `count` of its judged queries and their documents, and others."""
    relevant, ranked = whole["relevant_docs"], whole["top_ranked"]
    # The sub-queries `<query>_<n>` of one query stay together: the best of them is its score.
    apart = task.metadata.main_score.startswith(SUBQUERIES)
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(whole["queries"]["id"][:]):
        if relevant.get(name):
            groups.setdefault(name.rpartition("_")[0] if apart else name, []).append(row)
    every = list(groups.values())
    queries = whole["queries"].select([row for i in _draw(len(every), count, rng) for row in every[i]])
    names = queries["id"][:]
    need = {document for name in names for document in [*relevant[name], *(ranked[name] if ranked else [])]}
    ids = whole["corpus"]["id"][:]
    others = [] if ranked else [row for row, name in enumerate(ids) if name not in need]
    kept = {others[i] for i in _draw(len(others), OTHER_DOCUMENTS * count, rng)}
    corpus = whole["corpus"].select([row for row, name in enumerate(ids) if name in need or row in kept])
    return {
        **whole,
        "queries": queries,
        "corpus": corpus,
        "relevant_docs": {name: relevant[name] for name in names},
        "top_ranked": ranked and {name: ranked[name] for name in names},
    }


def _too_few(task: AbsTask, count: int, why: str) -> UserError:
    name = task.metadata.name
    return UserError(f"config: evaluation.sample.{name}: {count} drawn items {why}; raise it.")
