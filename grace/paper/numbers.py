"""Every number that the paper prints (arXiv 2510.04506v1), from `printed.csv` beside this file.

The csv has one row per number: table (table1, table2, table4, table5, figure3), backbone, row, column,
value. Scores are in percent, as printed. In table2 the quoted models stand under the backbone `open`; in
figure3 `backbone` is supervised or unsupervised, `row` lambda2 and `column` lambda1.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import pandas as pd

from grace import tasks

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
# times (a test redoes the arithmetic).
PAPER_WEIGHTS = {**COUNTS, "Summarization": 10}
# Columns of table 5, as printed -> our task.
GENERAL = {
    "GSM8K": "gsm8k",
    "MMLU": "mmlu",
    "TriviaQA": "triviaqa",
    "FEVER": "fever",
    "BBH": "bbh",
    "HumanEval": "humaneval",
}
# Rows of table 2 whose columns the paper prints in another order: what its n-th column really holds.
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


@cache
def _index() -> dict[tuple[str, str, str, str], float]:
    frame = load()
    keys = zip(frame["table"], frame["backbone"], frame["row"], frame["column"], strict=True)
    return dict(zip(keys, frame["value"].tolist(), strict=True))


def printed(table: str, backbone: str, row: str, column: str) -> float | None:
    """The number in percent as printed; None when the paper prints none there."""
    return _index().get((table, backbone, row, column))


def rows(table: str, backbone: str) -> list[str]:
    """The rows that a table prints for a backbone, in its order."""
    return list(dict.fromkeys(row for t, b, row, _ in _index() if (t, b) == (table, backbone)))


def average(scores: dict[str, float], weights: dict[str, int]) -> float:
    """Mean of category scores, each weighted with its number of data sets. Raises: KeyError when one is missing."""
    return sum(weights[category] * scores[category] for category in weights) / sum(weights.values())
