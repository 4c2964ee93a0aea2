"""Figure 1: both scores by hand, arrows, the paper's points."""

from __future__ import annotations

import numpy as np
import pytest

from grace.paper import numbers
from grace.report import figures
from grace.report.plots import scatter
from grace.report.plots.marks import PAPER
from tests.report.plots import made

SIX = dict.fromkeys(numbers.GENERAL.values(), 0.4)


def filled(spec, general=None, without=()):
    """Results of all runs but some; the embedding score grows by one point from run to run."""
    for place, cell in enumerate(spec.cells):
        if cell.run not in without:
            made.evaluate(cell, spec.tasks, 0.3 + 0.01 * place)
    for cell in spec.general:
        made.general(cell, general or {"docstring_perplexity": 80.0, "docstring_choice": 0.5}, 0.9)
    return figures.build(spec)


def test_in_the_demo_generation_is_multiple_choice_and_well_formed_rate(tmp_path):
    results, marks = filled(made.spec("figure1", tmp_path))
    found = {one.run: one for one in marks}
    assert list(found) == list(results.spec.figure.rows)
    assert found["base"].x == pytest.approx(70)  # of 50 and 90 percent; a perplexity is none
    assert found["base"].ours == pytest.approx(30) and found["reasoning"].x == found["base"].x
    assert found["base"].x_low < 70 < found["base"].x_high
    figure = scatter.draw(results, marks)
    [axes] = figure.axes
    assert axes.get_xlabel() == "generative score: mean of multiple choice accuracy and well-formed rate (%)"
    assert len(axes.lines) == 6 and len(axes.collections) == 12  # points; intervals of both scores
    [arrow] = axes.texts
    assert arrow.arrow_patch and arrow.xy == pytest.approx((found["grace"].x, found["grace"].ours))


def test_the_papers_points_stand_on_the_same_axes(tmp_path):
    spec = made.spec("figure1", tmp_path, "paper", backbones=["qwen2.5-3b"])
    results, marks = filled(spec, SIX)
    ours = {one.run: one for one in marks if one.series != PAPER}
    papers = {one.run: one for one in marks if one.series == PAPER}
    assert ours["grace"].x == pytest.approx(40) and set(papers) == {"base", "reasoning", "cl", "grace"}
    row = [numbers.printed("table1", "qwen2.5-3b", "grace", name) for name in numbers.COUNTS]
    assert papers["grace"].paper == pytest.approx(np.average(row, weights=[15, 4, 11, 3, 12, 10, 1]))
    assert papers["grace"].ours is None and "54.74" in papers["grace"].note
    assert papers["grace"].x == numbers.printed("table5", "qwen2.5-3b", "grace_sup", "Avg")
    assert papers["reasoning"].x == papers["base"].x
    [axes] = scatter.draw(results, marks).axes
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert len(hollow) == 4 and len(axes.lines) == 10 and len(axes.texts) == 2


def test_other_tasks_than_the_papers_are_not_set_beside_it(tmp_path):
    spec = made.spec("figure1", tmp_path, "paper", backbones=["qwen2.5-3b"])
    results, marks = filled(spec, {"gsm8k": 0.4})
    assert not [one for one in marks if one.series == PAPER]
    assert marks[0].x == pytest.approx(65)  # of 40 and 90
    assert any("left out" in note for note in scatter.notes(results, marks))


def test_a_point_without_one_of_its_scores_is_left_out(tmp_path):
    results, marks = filled(made.spec("figure1", tmp_path), without=("grace",))
    grace = next(one for one in marks if one.run == "grace")
    assert grace.left_out and grace.ours is None and grace.x is not None
    assert not scatter.draw(results, marks).axes[0].texts  # no arrow
