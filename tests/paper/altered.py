"""The printed numbers with some of them changed."""

import pandas as pd

from grace.paper import numbers
from grace.paper.numbers import Printed

Key = tuple[str, str, str, str]
ORDER = ("Retrieval", "Reranking", "Clustering", "PairClassification", "Classification", "STS", "Summarization")


def frame(changes: dict[Key, float] | None = None, without: tuple[str, ...] = ()) -> pd.DataFrame:
    """changes: (table, backbone, row, column) -> value; without: tables that are left out."""
    found = {**numbers.index(numbers.load()), **(changes or {})}
    rows = [(*key, value) for key, value in found.items() if key[0] not in without]
    return pd.DataFrame(rows, columns=["table", "backbone", "row", "column", "value"])


def printed(changes: dict[Key, float] | None = None, without: tuple[str, ...] = ()) -> Printed:
    return Printed(frame(changes, without))


def straightened(*names: str) -> dict[Key, float]:
    """The changes that put quoted rows of table 2, printed by the alphabet, under their columns."""
    return {
        ("table2", "open", name, category): numbers.printed("table2", "open", name, column)
        for name in names
        for column, category in zip(ORDER, sorted(ORDER), strict=True)
    }
