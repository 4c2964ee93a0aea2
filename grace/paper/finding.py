"""What a check of the printed numbers says, and the frame of such a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, NamedTuple

import pandas as pd

from grace import tasks
from grace.paper import numbers

Verdict = Literal["contradicted", "confirmed", "cannot be checked"]
COLUMNS = list(tasks.CATEGORIES)


@dataclass(frozen=True)
class Finding:
    """claim: what the paper prints; found: what the arithmetic gives; arithmetic: Markdown; where: table or figure."""

    id: str
    title: str
    claim: str
    found: str
    verdict: Verdict
    arithmetic: str
    where: str


class Outcome(NamedTuple):
    """A finding but for its name and place."""

    claim: str
    found: str
    verdict: Verdict
    arithmetic: str


class Missing(Exception):
    """A number that a check needs is not among the printed ones."""


class Row(NamedTuple):
    """A row of a table as printed: where it stands, its seven scores in percent, its average."""

    table: str
    backbone: str
    name: str
    scores: list[float]
    average: float

    @property
    def label(self) -> str:
        return " ".join(
            [self.table.replace("table", "table "), *([self.backbone] * (self.backbone != "open")), self.name]
        )


class Printed:
    """The printed numbers in the form of `numbers.load`, which may be other ones than the paper's."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.numbers = numbers.index(frame)

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

    def row(self, table: str, backbone: str, name: str) -> Row:
        """Raises: Missing."""
        scores = [self.value(table, backbone, name, column) for column in COLUMNS]
        return Row(table, backbone, name, scores, self.value(table, backbone, name, "Avg"))

    def own(self) -> list[Row]:
        """The rows of tables 1 and 2 that are the paper's own. Raises: Missing."""
        return [self.row(t, b, r) for t in ("table1", "table2") for b, r in self.names(t) if b != "open"]

    def quoted(self) -> list[Row]:
        """The rows of table 2 that the paper quotes. Raises: Missing."""
        return [self.row("table2", b, r) for b, r in self.names("table2", "open")]


def check(name: str, title: str, where: str) -> Callable[[Callable[..., Outcome]], Callable[..., Finding]]:
    """Make a function of printed numbers a check; a missing number is its finding, not its end."""

    def wrap(function: Callable[..., Outcome]) -> Callable[..., Finding]:
        @wraps(function)
        def run(printed: Printed, *more: Any) -> Finding:
            try:
                outcome = function(printed, *more)
            except Missing as missing:
                found = f"A number that the check needs is missing: {missing}."
                outcome = Outcome("not among the printed numbers", found, "cannot be checked", found)
            return Finding(id=name, title=title, where=where, **outcome._asdict())

        return run

    return wrap


def grid(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table; its first column is text, the others are numbers, floats with two decimals."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    return "\n".join(lines)


def listed(names: Iterable[str]) -> str:
    """`a, b and c`; `none` when there is nothing to list."""
    *first, last = list(names) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last
