"""Every number that the paper prints (arXiv 2510.04506v1), from `printed.csv` beside this file.

The csv has one row per number: table (table1, table2, table4, table5, figure3, claims), backbone, row, column,
value. Scores are in percent, as printed. In table2 the quoted models stand under the backbone `open`; in
figure3 `backbone` is supervised or unsupervised, `row` lambda2 and `column` lambda1, and the unsupervised row of
lambda2 = 0.3 is left out, since it cannot be read with certainty. `claims` are numbers of the text, in points:

- supervised or unsupervised, gain, Avg: of GRACE over base, mean of the four backbones;
- general, difference, Delta: the largest between GRACE and its base in table 5, up or down;
- training, weight, lambda1 and lambda2: of the reward (A.2.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

import pandas as pd

from grace.config import tasks

# Backbones of the paper, in its order, as it prints their names (section 4.1).
BACKBONES = {
    "qwen2.5-1.5b": "Qwen2.5-1.5B-Instruct",
    "llama3.2-3b": "LLaMA-3.2-3B-Instruct",
    "qwen2.5-3b": "Qwen2.5-3B-Instruct",
    "qwen3-4b": "Qwen3-4B-Instruct-2507",
}
# Data sets per category: what an average over MTEB(eng, v1)'s 56 data sets weighs a category with.
COUNTS = {category: len(names.split()) for category, names in tasks.MTEB.items()}
# What the paper's own 28 averages of tables 1 and 2 were computed with: Summarization, one data set, counts ten
# times (`averages.search` finds it, and a test compares).
PAPER_WEIGHTS = {**COUNTS, "Summarization": 10}
# The same for an average over the 16 tasks of the ablations (table 3).
SUBSET_COUNTS = {category: len(names.split()) for category, names in tasks.SUBSET.items()}
# Columns of table 5, as printed -> our task.
GENERAL = {
    "GSM8K": "gsm8k",
    "MMLU": "mmlu",
    "TriviaQA": "triviaqa",
    "FEVER": "fever",
    "BBH": "bbh",
    "HumanEval": "humaneval",
}
# Rows of table 2 whose columns the paper prints in another order: what its n-th column really holds
# (`averages.orders` finds it, and a test compares).
SHUFFLED = {
    name: ("Classification", "Clustering", "PairClassification", "Reranking", "Retrieval", "STS", "Summarization")
    for name in ("RoBERTa", "Echo-Mistral-7B")
}


@cache
def load() -> pd.DataFrame:
    """All printed numbers: columns table, backbone, row, column (str) and value (float)."""
    with resources.files("grace.paper").joinpath("printed.csv").open(encoding="utf-8") as handle:
        text = dict.fromkeys(("table", "backbone", "row", "column"), str)
        return pd.read_csv(handle, dtype={**text, "value": float}, keep_default_na=False)


def index(frame: pd.DataFrame) -> dict[tuple[str, str, str, str], float]:
    """Numbers in the form of `load` by (table, backbone, row, column). Raises: ValueError when one is there twice."""
    keys = list(zip(frame["table"], frame["backbone"], frame["row"], frame["column"], strict=True))
    found = dict(zip(keys, frame["value"].tolist(), strict=True))
    if len(found) < len(keys):
        raise ValueError(f"entered twice: {next(key for key in found if keys.count(key) > 1)}")
    return found


@cache
def _index() -> dict[tuple[str, str, str, str], float]:
    return index(load())


def printed(table: str, backbone: str, row: str, column: str) -> float | None:
    """The number in percent as printed; None when the paper prints none there."""
    return _index().get((table, backbone, row, column))


def value(table: str, backbone: str, row: str, column: str) -> float:
    """The number in percent as printed. Raises: KeyError when the paper prints none there."""
    return _index()[table, backbone, row, column]


def rows(table: str, backbone: str) -> list[str]:
    """The rows that a table prints for a backbone, in its order."""
    return list(dict.fromkeys(row for t, b, row, _ in _index() if (t, b) == (table, backbone)))


def average(scores: dict[str, float], weights: dict[str, int]) -> float:
    """Mean of category scores, each weighted with its number of data sets. Raises: KeyError when one is missing."""
    return sum(weights[category] * scores[category] for category in weights) / sum(weights.values())


class Missing(Exception):
    """A number that a check needs is not among the printed ones."""


class PrintedRow(NamedTuple):
    """A row of a table as printed: where it stands, its scores in percent, its average."""

    table: str
    backbone: str
    name: str
    scores: tuple[float, ...]
    average: float

    @property
    def label(self) -> str:
        if self.table == "table5":
            return f"{self.backbone} {self.name}"
        backbone = f"{self.backbone} " if self.backbone != "open" else ""
        return f"{self.table.replace('table', 'table ')} {backbone}{self.name}"


class Printed:
    """The printed numbers in the form of `numbers.load`, which may be other ones than the paper's."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.numbers = index(frame)

    def value(self, table: str, backbone: str, row: str, column: str) -> float:
        """Raises: Missing."""
        try:
            return self.numbers[table, backbone, row, column]
        except KeyError:
            raise Missing(f"{table}, {backbone}, {row}, {column}") from None

    def names(self, table: str, backbone: str | None = None) -> list[tuple[str, str]]:
        """(backbone, row) of a table, in its order. Raises: Missing when there is none."""
        found = [(b, r) for t, b, r, _ in self.numbers if t == table and backbone in (None, b)]
        if not found:
            raise Missing(f"{table}, {backbone or 'all of it'}")
        return list(dict.fromkeys(found))

    def row(self, table: str, backbone: str, name: str, columns: Sequence[str] = tuple(tasks.CATEGORIES)) -> PrintedRow:
        """Raises: Missing."""
        scores = tuple(self.value(table, backbone, name, column) for column in columns)
        return PrintedRow(table, backbone, name, scores, self.value(table, backbone, name, "Avg"))

    def own(self) -> list[PrintedRow]:
        """The rows of tables 1 and 2 that are the paper's own. Raises: Missing."""
        return [self.row(t, b, r) for t in ("table1", "table2") for b, r in self.names(t) if b != "open"]

    def quoted(self) -> list[PrintedRow]:
        """The rows of table 2 that the paper quotes. Raises: Missing."""
        return [self.row("table2", b, r) for b, r in self.names("table2", "open")]

    def general(self) -> list[PrintedRow]:
        """The rows of table 5. Raises: Missing."""
        return [self.row("table5", b, r, list(GENERAL)) for b, r in self.names("table5")]

    def heatmap(self, kind: str) -> dict[tuple[float, float], float]:
        """(lambda2, lambda1) -> average, of a heat map of figure 3. Raises: Missing."""
        cells = {
            (float(row), float(column)): value
            for (table, backbone, row, column), value in self.numbers.items()
            if (table, backbone) == ("figure3", kind)
        }
        if not cells:
            raise Missing(f"figure3, {kind}")
        return cells
