"""The columns of a table of scores: what each is made of, and which printed number stands beside it."""

from __future__ import annotations

from typing import NamedTuple

from grace import tasks
from grace.config import Table
from grace.paper import numbers
from grace.report.scoring import results
from grace.report.scoring.models import Models

AVG_TASKS, AVG_PAPER = "Avg (tasks)", "Avg (paper)"
COSINE, TOKENS = "Random-pair cosine", "Rationale tokens"
ALIGNMENT = "Alignment"


class Column(NamedTuple):
    """A column: the weights of its tasks (empty: it cannot be computed here), its scale and printed name.

    comparable: whether ours is the same quantity as the paper's. digits: of a number, and of its interval.
    tokens: the mean length of the rationales, which is no score.
    """

    name: str
    weights: dict[str, float]
    scale: float = 100.0
    printed: str | None = None
    comparable: bool = True
    digits: tuple[int, int] = (2, 1)
    tokens: bool = False
    category: str | None = None


def columns(table: Table, models: Models, planned: list[str]) -> list[Column]:
    """Of a table's kind.

    Args:
        models: of `scores.load`. planned: the MTEB tasks of the study; empty: those of the results.
    """
    if table.kind == "general":
        return general(limited=any(one.limited for seeds in models.values() for one in seeds))
    if table.kind == "geometry":
        return geometry()
    members = categories(models, planned)
    if table.kind == "tasks":
        return by_task(members)
    return by_category(members, table.subset or bool(table.ablations), set(models.samples))


def categories(models: Models, planned: list[str]) -> dict[str, list[str]]:
    """Category -> the study's tasks in it: those planned, or else those that any result holds."""
    found = {name: c for seeds in models.values() for one in seeds for name, c in one.categories.items()}
    known = {name: tasks.CATEGORY[name] for name in planned} or found
    return {c: sorted(name for name in known if known[name] == c) for c in tasks.CATEGORIES}


def by_category(members: dict[str, list[str]], subset: bool, sampled: set[str]) -> list[Column]:
    """The seven categories, their averages, and two figures that say how a score came about.

    Args:
        members: category -> tasks. subset: whether the paper's table is of its 16 tasks (table 4), whose average is
            the mean over tasks. sampled: tasks of which a part was drawn, which compare with nothing.
    """
    full = {c: set(members[c]) == set((tasks.SUBSET if subset else tasks.MTEB)[c].split()) for c in tasks.CATEGORIES}
    every = [name for names in members.values() for name in names]
    found = [
        Column(c, names, printed=c, comparable=full[c] and not sampled & names.keys(), category=c)
        for c in tasks.CATEGORIES
        for names in [dict.fromkeys(members[c], 1.0)]
    ]
    whole, same = all(full.values()), not sampled.intersection(every)
    average = Column(AVG_TASKS, dict.fromkeys(every, 1.0), printed="Avg" if subset else None)
    found.append(average._replace(comparable=subset and whole and same))
    if not subset:
        factor = {c: numbers.PAPER_WEIGHTS[c] / numbers.COUNTS[c] for c in tasks.CATEGORIES}
        weights = {name: factor[c] for c, names in members.items() for name in names}
        found.append(Column(AVG_PAPER, weights if whole else {}, printed="Avg", comparable=same))
    cosine = {results.geometry("random_pair_cosine"): 1.0}
    return [*found, Column(COSINE, cosine, scale=1.0, digits=(2, 2)), Column(TOKENS, {}, tokens=True, digits=(1, 1))]


def by_task(members: dict[str, list[str]]) -> list[Column]:
    """One for each task, and their mean."""
    every = [(c, name) for c, names in members.items() for name in names]
    found = [Column(name, {name: 1.0}, category=c) for c, name in every]
    return [*found, Column(AVG_TASKS, dict.fromkeys((name for _, name in every), 1.0))]


def general(limited: bool) -> list[Column]:
    """The six of table 5 and their mean, then the demo's own. limited: to some items, which compares with nothing."""
    names = numbers.GENERAL
    found = [Column(printed, {task: 1.0}, printed=printed, comparable=not limited) for printed, task in names.items()]
    return [
        *found,
        Column("Avg", dict.fromkeys(names.values(), 1.0), printed="Avg", comparable=not limited),
        Column("Perplexity", {"docstring_perplexity": 1.0}, scale=1.0),
        Column("Multiple choice", {"docstring_choice": 1.0}),
        Column("Well-formed", {results.WELL_FORMED: 1.0}),
    ]


def geometry() -> list[Column]:
    """Whether embeddings collapse (`grace.evaluation.geometry`)."""
    shown = {
        COSINE: ("random_pair_cosine", 3),
        "Uniformity": ("uniformity", 3),
        ALIGNMENT: ("alignment", 3),
        "Effective rank": ("effective_rank", 1),
        "Width": ("width", 0),
    }
    return [
        Column(name, {results.geometry(key): 1.0}, scale=1.0, digits=(digits, digits))
        for name, (key, digits) in shown.items()
    ]
