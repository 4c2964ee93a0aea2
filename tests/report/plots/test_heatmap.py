"""Figure 3: cells, the best, what cannot be separated from it, what is missing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grace.report import figures
from grace.report.plots import heatmap
from grace.report.plots.marks import PAPER
from grace.section import UserError
from tests.report.plots import made


def filled(spec, scores, own=()):
    """Results of the points of `grace`: (lambda1, lambda2) -> score; `own`: those with noise of their own."""
    points = {point.run: (point.at["lambda1"], point.at["lambda2"]) for point in spec.points if point.of == "grace"}
    for cell in spec.cells:
        if points.get(cell.run) in scores:
            noise = 7 if points[cell.run] in own else 0
            made.evaluate(cell, spec.tasks, scores[points[cell.run]], own=noise)
    return figures.build(spec)


SCORES = {(0.5, 0.5): 0.5, (1.0, 0.5): 0.5, (0.0, 0.5): 0.499, (0.5, 1.0): 0.499, (0.0, 0.0): 0.3}


def test_cells_are_compared_with_the_best_in_pairs(tmp_path):
    """The items of two models differ by a constant, so their difference is certain, unless one has noise of its own."""
    _, marks = filled(made.spec("figure3", tmp_path), SCORES, own={(0.5, 1.0)})
    found = {(one.x, one.y): one for one in marks if one.series == "grace"}
    assert found[0.5, 0.5].ours == pytest.approx(50) and found[0.5, 0.5].note == heatmap.BEST
    assert found[1.0, 0.5].note == heatmap.INSIDE  # the same
    assert found[0.0, 0.5].note == heatmap.OUTSIDE  # 0.1 points below, for certain
    assert found[0.5, 1.0].note == heatmap.INSIDE  # 0.1 points below, lost in noise
    assert found[1.0, 1.0].ours is None and found[1.0, 1.0].left_out


def test_the_papers_grids_follow_and_hold_their_gap(tmp_path):
    _, marks = filled(made.spec("figure3", tmp_path), SCORES)
    papers = {(one.run, one.x, one.y): one for one in marks if one.series == PAPER}
    assert len(papers) == 50 and sum(one.paper is not None for one in papers.values()) == 45
    assert papers["supervised", 0.3, 1.0].paper == 51.0 and papers["unsupervised", 0.5, 0.5].paper == 51.9
    assert papers["unsupervised", 0.5, 0.3].paper is None and not papers["unsupervised", 0.5, 0.3].left_out


def test_values_frames_and_gaps_are_drawn(tmp_path):
    results, marks = filled(made.spec("figure3", tmp_path), SCORES, own={(0.5, 1.0)})
    figure = heatmap.draw(results, marks)
    panels = {one.get_title(): one for one in figure.axes if one.get_title()}
    assert list(panels) == ["grace, tiny", "grace-unsup, tiny", "the paper, supervised", "the paper, unsupervised"]
    ours = panels["grace, tiny"]
    assert sorted(one.get_text() for one in ours.texts) == ["30.0", "49.9", "49.9", "50.0", "50.0"]
    assert sum(one.get_hatch() is not None for one in ours.patches) == 4
    assert sorted(one.get_linewidth() for one in ours.patches if not one.get_hatch()) == [0.9, 0.9, 1.6]
    assert sum(one.get_hatch() is not None for one in panels["grace-unsup, tiny"].patches) == 9
    assert len(panels["the paper, supervised"].texts) == 25 and len(panels["the paper, unsupervised"].texts) == 20
    assert (ours.get_xlabel(), ours.get_ylabel()) == ("λ₁", "λ₂")
    colours = ours.collections[0].get_array()  # [lambda2, lambda1]
    assert colours[2, 1] == pytest.approx(49.9) and colours[1, 2] == pytest.approx(50) and colours[0, 2] is np.ma.masked
    # lambda1 grows to the right, lambda2 upwards: the cell at (0, 0) is the lowest on the left
    assert next(one for one in ours.texts if one.get_text() == "30.0").get_position() == (0, 0)


def test_an_ablation_of_one_setting_is_refused(tmp_path):
    content = json.loads(made.spec("figure3", tmp_path).model_dump_json())
    content["points"][0]["at"] = {"lambda1": 0.0}
    with pytest.raises(UserError, match=r"figures\.figure3\.ablations.*two settings.*'lambda'"):
        figures.build(type(made.spec("figure3", tmp_path))(**content))
