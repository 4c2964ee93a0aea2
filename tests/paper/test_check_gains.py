"""The gains that the text names, repeated rows and the order of methods, also with altered numbers."""

import pytest

from grace.paper import numbers
from grace.paper.check_gains import above, gain, repeated
from tests.paper.altered import ORDER, printed

# By hand: sum of counts x (GRACE - base) / 56, mean of the four backbones.
TRUE = {"supervised": 12.957, "unsupervised": 7.601}


@pytest.mark.parametrize(("kind", "table"), [("supervised", "table1"), ("unsupervised", "table2")])
def test_gains_are_those_of_a_loop(kind, table):
    total = 0.0
    for backbone in numbers.BACKBONES:
        for c in ORDER:
            change = numbers.printed(table, backbone, "grace", c) - numbers.printed(table, backbone, "base", c)
            total += numbers.COUNTS[c] * change / 56 / 4
    assert total == pytest.approx(TRUE[kind], abs=5e-4)
    finding = gain(kind)(printed())
    assert finding.verdict == "contradicted" and f"gains {total:.2f}" in finding.found
    assert "is the mean of the gains of the printed averages" in finding.arithmetic


def test_each_backbones_gain_is_named():
    assert "16.93 (qwen2.5-1.5b), 10.41 (llama3.2-3b), 11.70 (qwen2.5-3b), 12.78" in gain("supervised")(printed()).found


@pytest.mark.parametrize(("claimed", "verdict"), [(12.96, "confirmed"), (12.93, "contradicted"), (7.6, "contradicted")])
def test_another_claim_gets_its_own_verdict(claimed, verdict):
    finding = gain("supervised")(printed({("claims", "supervised", "gain", "Avg"): claimed}))
    assert finding.verdict == verdict and f"{claimed:.2f}" in finding.claim
    assert "is not the mean of the gains of the printed averages" in finding.arithmetic


def test_without_the_claim_nothing_is_checked():
    assert gain("supervised")(printed(without=("claims",))).verdict == "cannot be checked"


def test_base_rows_stand_twice_alike():
    assert repeated(printed()).verdict == "confirmed"
    finding = repeated(printed({("table2", "qwen3-4b", "base", "STS"): 66.12}))
    assert finding.verdict == "contradicted" and finding.found == "1 of 32 numbers differ."


def test_grace_is_above_on_average_and_behind_in_sts():
    finding = above(printed())
    assert finding.verdict == "confirmed" and "8 of 8" in finding.found and "5 of 56 (STS 5)" in finding.found
    lower = {("table1", "llama3.2-3b", "grace", c): 40.0 for c in ORDER}
    finding = above(printed(lower))
    assert finding.verdict == "contradicted" and "7 of 8" in finding.found
