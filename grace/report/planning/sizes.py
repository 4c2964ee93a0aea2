"""How much text there is: the sources' rows, the items of the general tasks, the texts of the MTEB tasks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

TASK_SIZES = Path(__file__).with_name("task_sizes.csv")  # made by grace.evaluation.task_sizes


class Texts(NamedTuple):
    """Rows of a source, and mean characters of a query and of a positive, a negative or a text."""

    rows: int
    query: float
    passage: float


# By id. Rows: paper 4.1, of AllNLI those of its card. Characters: of wiki1m the mean of its first 11,914 lines, of
# AllNLI that of 5,711 rows of its kind, of E5 assumed.
SOURCES = {
    "1YqgaJIzmBIH37XBxpRPCVzV_CLh6aOI4": Texts(1_500_000, 60, 500),
    "princeton-nlp/datasets-for-simcse": Texts(1_000_000, 0, 106),
    "sentence-transformers/all-nli": Texts(557_850, 74, 36),
}
UNKNOWN = Texts(100_000, 60, 500)


class Items(NamedTuple):
    """A general task: items, parts that `limit` applies to, and assumed tokens of a prompt and of an answer."""

    items: int
    parts: int
    prompt: int
    written: int


GENERAL = {
    "gsm8k": Items(1319, 1, 1000, 200),
    "mmlu": Items(14042, 57, 700, 8),
    "triviaqa": Items(17944, 1, 200, 16),
    "fever": Items(9999, 1, 300, 0),  # the claim with each of three labels
    "bbh": Items(6511, 27, 1100, 250),
    "humaneval": Items(164, 1, 200, 250),
}


class Field(NamedTuple):
    """Texts of one kind in an MTEB task: asked for, distinct, and mean characters."""

    task: str
    name: str
    texts: int
    distinct: int
    mean: float
    same_as: str  # the task that holds the same texts, or ""


def task_sizes() -> list[Field]:
    with open(TASK_SIZES, encoding="utf-8", newline="") as handle:
        return [
            Field(
                r["task"],
                r["field"],
                int(r["texts"]),
                int(r["distinct"]),
                int(r["characters"]) / int(r["texts"]),
                r["same_as"],
            )
            for r in csv.DictReader(handle)
        ]
