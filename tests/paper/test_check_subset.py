"""Averages over the subset and the grid of weights, also with altered numbers."""

import pytest

from grace.paper.check_subset import averages, between, grid_of_lambdas, spread
from tests.paper.altered import printed


def used(lambda1, lambda2):
    return {("claims", "training", "weight", name): v for name, v in (("lambda1", lambda1), ("lambda2", lambda2))}


def test_averages_over_the_subset_agree():
    finding = averages(printed())
    assert finding.verdict == "confirmed" and "3/2/3/1/3/3/1" in finding.claim
    # By hand: (3 x 44.72 + 2 x 65.71 + 3 x 38.99 + 70.87 + 3 x 64.35 + 3 x 72.53 + 30.09) / 16 = 55.884375.
    assert "| grpo | 55.89 | 55.884 | -0.006 |" in finding.arithmetic
    finding = averages(printed({("table4", "grace-3b", "dapo", "Avg"): 55.98}))
    assert finding.verdict == "contradicted" and "3 of 4" in finding.found and "dapo" in finding.found


def test_the_weights_used_are_not_on_the_grid():
    finding = grid_of_lambdas(printed(), 0.1, 0.2)
    assert finding.verdict == "cannot be checked" and "not on the grid" in finding.found
    assert "supervised 56.0 at lambda1 = 0.5, lambda2 = 0.5" in finding.found
    assert "unsupervised 51.9 at lambda1 = 0.5, lambda2 = 0.5" in finding.found
    assert "This study trains with lambda1 = 0.1, lambda2 = 0.2." in finding.arithmetic
    assert "unsupervised at lambda2 = 0.3" in finding.arithmetic


@pytest.mark.parametrize(("lambda1", "lambda2", "verdict"), [(0.5, 0.5, "confirmed"), (0.7, 0.7, "contradicted")])
def test_weights_on_the_grid_are_judged(lambda1, lambda2, verdict):
    assert grid_of_lambdas(printed(used(lambda1, lambda2)), 0.2, 0.2).verdict == verdict


def test_a_higher_cell_is_the_best_one():
    finding = grid_of_lambdas(printed({("figure3", "supervised", "0.7", "0.3"): 57.0}), 0.2, 0.2)
    assert "supervised 57.0 at lambda1 = 0.3, lambda2 = 0.7" in finding.found


def test_the_spread_is_that_of_the_rows():
    # Row means by hand: 248.3 / 5 and 278.3 / 5.
    assert spread(printed(), "supervised") == "from 49.66 (lambda2 = 0) to 55.66 (lambda2 = 0.5)"


def test_table_4_lies_outside_of_the_cells_around_its_weights():
    finding = between(printed())
    assert finding.verdict == "cannot be checked" and "between 49.5 and 53.1" in finding.found
    assert between(printed({("table4", "grace-3b", "grpo", "Avg"): 52.0})).verdict == "confirmed"
    on_a_point = between(printed(used(0.5, 0.5)))
    assert "between 56.0 and 56.0" in on_a_point.found and on_a_point.verdict == "cannot be checked"
    assert between(printed(used(2.0, 0.5))).verdict == "cannot be checked"  # beyond the grid


def test_without_the_figure_nothing_is_checked():
    for check in (between(printed(without=("figure3",))), grid_of_lambdas(printed(without=("figure3",)), 0.2, 0.2)):
        assert check.verdict == "cannot be checked" and "figure3" in check.found
