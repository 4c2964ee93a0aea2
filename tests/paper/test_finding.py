"""The frame of the checks."""

import pytest

from grace.paper.finding import Missing, Outcome, check, grid, listed
from tests.paper.altered import printed


def test_a_missing_number_is_the_finding():
    @check("one", "One", "Table 1")
    def one(numbers):
        return Outcome("c", str(numbers.value("table1", "qwen3-4b", "base", "Speed")), "confirmed", "")

    finding = one(printed())
    assert (finding.id, finding.title, finding.where) == ("one", "One", "Table 1")
    assert finding.verdict == "cannot be checked" and "table1, qwen3-4b, base, Speed" in finding.found


def test_rows_come_in_the_papers_order():
    assert [row.name for row in printed().quoted()] == ["BERT", "RoBERTa", "LLM2Vec-LLaMA-3-8B", "Echo-Mistral-7B"]
    own = printed().own()
    assert len(own) == 28 and own[0].label == "table 1 qwen2.5-1.5b base" and own[-1].average == 51.03
    with pytest.raises(Missing):
        printed(without=("table2",)).quoted()


def test_a_grid_is_markdown():
    assert grid(["row", "x"], [["a", 1.0], ["b", 2]]) == "| row | x |\n|---|---:|\n| a | 1.00 |\n| b | 2 |"


def test_lists_are_words():
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c" and listed([]) == "none"
