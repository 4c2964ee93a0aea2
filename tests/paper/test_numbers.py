"""The printed numbers against the project's own record of the paper, and their arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from grace import tasks
from grace.paper import numbers

RECORD = Path(__file__).parents[3] / "shared/spec/paper_results.yaml"


def record() -> dict:
    if not RECORD.exists():
        pytest.skip(f"no {RECORD}: the record of the paper's numbers is not part of a clone")
    return yaml.safe_load(RECORD.read_text())


def expected(found: dict) -> dict:
    """The record as {(table, backbone, row, column): value}, null cells left out."""
    columns = [*found["categories"], "Avg"]
    out = {}
    for table, key in (("table1", "table1_supervised"), ("table2", "table2_unsupervised")):
        for backbone, block in found[key].items():
            where = "open" if backbone == "other_open_models" else backbone
            for row, values in block.items():
                out |= {(table, where, row, c): v for c, v in zip(columns, values, strict=True)}
    for row, values in found["table4_rl_algorithms"].items():
        out |= {("table4", "grace-3b", row, c): v for c, v in zip(columns, values, strict=True)}
    general = dict(found["table5_general"])
    names = general.pop("columns")
    for backbone, block in general.items():
        for row, values in block.items():
            out |= {("table5", backbone, row, c): v for c, v in zip(names, values, strict=True)}
    grid = found["figure3"]
    for kind in ("supervised", "unsupervised"):
        for lambda2, values in zip(grid["lambda2"], grid[kind], strict=True):
            for lambda1, value in zip(grid["lambda1"], values or [], strict=False):
                out["figure3", kind, str(lambda2), str(lambda1)] = value
    return {key: value for key, value in out.items() if value is not None}


def test_every_printed_number_is_the_records():
    assert numbers._index() == expected(record())
    assert len(numbers.load()) == len(numbers._index()), "a cell is entered twice"


def test_names_and_counts_are_the_records():
    found = record()
    assert list(found["categories"]) == list(tasks.CATEGORIES)
    assert found["datasets_per_category"] == [numbers.COUNTS[c] for c in tasks.CATEGORIES]
    assert {k: v["printed_as"] for k, v in found["backbones"].items()} == numbers.BACKBONES
    assert [*numbers.GENERAL, "Avg", "Delta"] == found["table5_general"]["columns"]


def test_lookup():
    assert numbers.printed("table1", "qwen3-4b", "grace", "Avg") == 56.64
    assert numbers.printed("table5", "qwen3-4b", "base", "Delta") is None
    assert numbers.printed("table1", "tiny", "base", "Avg") is None
    assert numbers.rows("table2", "qwen2.5-3b") == ["base", "simcse", "grace"]


@pytest.mark.parametrize("table", ["table1", "table2"])
@pytest.mark.parametrize("backbone", numbers.BACKBONES)
def test_printed_averages_count_summarization_ten_times(table, backbone):
    for row in numbers.rows(table, backbone):
        scores = {c: numbers.printed(table, backbone, row, c) for c in tasks.CATEGORIES}
        mean = numbers.printed(table, backbone, row, "Avg")
        assert numbers.average(scores, numbers.PAPER_WEIGHTS) == pytest.approx(mean, abs=0.0101)
        assert abs(numbers.average(scores, numbers.COUNTS) - mean) > 0.02


def test_quoted_rows_average_over_56_once_their_columns_are_in_order():
    for row in numbers.rows("table2", "open"):
        order = numbers.SHUFFLED.get(row, tasks.CATEGORIES)
        printed = [numbers.printed("table2", "open", row, c) for c in tasks.CATEGORIES]
        scores = dict(zip(order, printed, strict=True))
        assert numbers.average(scores, numbers.COUNTS) == pytest.approx(
            numbers.printed("table2", "open", row, "Avg"), abs=0.0101
        )
