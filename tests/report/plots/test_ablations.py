"""Figures 3, 5, 6 and 7: cells, steps, bars and lines that stand where they should."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grace.config.section import UserError
from grace.report import figures
from grace.report.plots import ablations
from grace.report.plots.ablations import Progression
from grace.report.plots.marks import PAPER, among
from tests.report.plots.made import filled, spec


def texts(some) -> list[str]:
    return [one.get_text() for one in some]


def refused(made, content, match) -> None:
    with pytest.raises(UserError, match=match):
        figures.build(type(made)(**content))


# ---- bars (figure 6) --------------------------------------------------------------------------------


def test_each_point_is_a_bar_from_zero(tmp_path):
    plot, marks = filled(spec("figure6", tmp_path), without=("grace.pooling-max",))
    own = among(marks, panel="grace")
    assert [one.x for one in own] == ["eos", "max", "mean-last", "mean-penultimate"]
    left, right = plot.draw(marks).axes
    heights = [one.ours for one in own if one.ours is not None]
    assert [one.get_height() for one in left.patches] == pytest.approx(heights)
    assert left.get_ylim()[0] == 0 and len(left.collections) == 3  # intervals
    assert sorted(texts(left.texts)) == sorted([*(f"{one:.1f}" for one in heights), "no result"])
    assert len(right.patches) == 4 and right.get_title(loc="left") == "grace-unsup"


def test_backbones_are_groups_of_bars(tmp_path):
    plot, marks = filled(spec("figure6", tmp_path, "paper", backbones=["qwen2.5-3b", "qwen3-4b"]))
    panel = plot.draw(marks).axes[0]
    assert texts(panel.get_xticklabels()) == ["Qwen2.5-3B-Instruct", "Qwen3-4B-Instruct-2507"]
    middles = [one.get_x() + one.get_width() / 2 for one in panel.patches]
    assert sum(middles[:4]) == pytest.approx(0) and sum(middles[4:]) / 4 == pytest.approx(1)


# ---- lines (figure 7) -------------------------------------------------------------------------------


def test_names_that_are_numbers_are_numbers(tmp_path):
    plot, marks = filled(spec("figure7", tmp_path))
    assert [one.run for one in marks] == [
        *("grace.batch-4", "grace.batch-8", "grace"),
        *("grace.rollouts-2", "grace.rollouts-4", "grace"),
    ]
    assert [(one.panel, one.x) for one in marks] == [
        *(("batch", x) for x in (4.0, 8.0, 16.0)),
        *(("rollouts", x) for x in (2.0, 4.0, 8.0)),
    ]
    left, right = plot.draw(marks).axes
    assert list(left.lines[0].get_xdata()) == [4, 8, 16] and list(left.get_xticks()) == [4, 8, 16]
    assert list(right.lines[0].get_ydata()) == pytest.approx([one.ours for one in marks[3:]])
    assert len(left.collections) == 3 and right.get_xlabel() == "rollouts for an instance"


def test_a_wide_axis_is_logarithmic(tmp_path):
    plot, marks = filled(spec("figure7", tmp_path, "paper"))
    left, _ = plot.draw(marks).axes
    assert list(left.get_xticks()) == [0, 1, 2, 3, 4, 5, 6]  # of 1, 2, ... 64
    assert texts(left.get_xticklabels()) == ["1", "2", "4", "8", "16", "32", "64"]


def test_runs_are_lines_that_do_not_cover_one_another(tmp_path):
    plot, marks = filled(spec("budget", tmp_path), without=("grace.max_new_tokens-20",))
    [axes] = plot.draw(marks).axes
    reasoning, grace = axes.lines
    assert list(reasoning.get_xdata()) == pytest.approx([9.82, 19.82, 39.82])  # 0.6 % of the axis to the left
    assert list(grace.get_xdata()) == pytest.approx([10.18, 40.18])
    assert any("sideways" in note for note in plot.notes(marks))


def test_names_stand_one_after_another(tmp_path):
    made = spec("figure6", tmp_path)
    plot, marks = filled(made.model_copy(update={"figure": made.figure.model_copy(update={"kind": "lines"})}))
    [axes] = plot.draw(marks).axes
    assert texts(axes.get_xticklabels()) == ["eos", "max", "mean-last", "mean-penultimate"]


# ---- progression (figure 5) -------------------------------------------------------------------------

STEPS = {"reasoning": 0.30, "grace.step-20": 0.35, "grace.step-40": 0.40, "grace.step-60": 0.42, "grace": 0.45}


def test_steps_lead_from_the_backbone_to_the_end(tmp_path):
    made = spec("figure5", tmp_path)
    _, marks = filled(made, STEPS)
    scores, lengths = (among(marks, panel=panel, series="grace") for panel in (Progression.SCORE, Progression.LENGTH))
    assert [(one.run, one.x) for one in scores] == list(zip(STEPS, (0, 20, 40, 60, 80), strict=True))
    assert [one.ours for one in scores] == pytest.approx([30, 35, 40, 42, 45])
    place = [cell.run for cell in made.cells].index("grace.step-40")
    assert lengths[2].ours == pytest.approx(20 + place) and lengths[2].interval is None
    shared = among(marks, panel=Progression.SCORE, series="grace-random")[0]
    assert shared.x == 0 and shared.ours == pytest.approx(30)


def test_an_end_without_number_is_called_end(tmp_path):
    plot, marks = filled(spec("figure5", tmp_path).model_copy(update={"ends": {}}), STEPS)
    assert among(marks, panel=Progression.SCORE, series="grace")[-1].x == "end"
    axes = plot.draw(marks).axes[0]
    assert axes.get_xticklabels()[-1].get_text() == "end" and axes.get_xticks()[-1] > 60
    [dotted] = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert list(dotted.get_xdata()) == [60.0, axes.get_xticks()[-1]]


def test_a_missing_checkpoint_has_no_point(tmp_path):
    plot, marks = filled(spec("figure5", tmp_path), STEPS, without=("grace.step-40",))
    axes = plot.draw(marks).axes[0]
    points = next(line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 4)
    assert list(points.get_xdata()) == [0, 20, 60, 80]
    assert {one.run for one in marks if one.left_out and one.series == "grace"} == {"grace.step-40"}
    assert len(axes.collections) == 3  # a band for each run; the other two have step 0 alone


def test_a_study_without_reasoning_has_no_step_0(tmp_path):
    made = spec("figure5", tmp_path)
    cells = [cell for cell in made.cells if cell.run != "reasoning"]
    plot, marks = filled(made.model_copy(update={"cells": cells}), STEPS)
    start = among(marks, panel=Progression.SCORE, series="grace")[0]
    assert start.x == 0 and start.note == "not part of this study" and not start.left_out
    assert "Run grace (4 points) on tiny" in figures.sentence(plot, marks)


def test_a_progression_without_steps_is_refused(tmp_path):
    made = spec("figure5", tmp_path)
    content = made.model_dump() | {"points": spec("figure6", tmp_path).points}
    refused(made, content, r"figures\.figure5\.ablations.*'progression' shows step.*'pooling'")


# ---- heat map (figure 3) ----------------------------------------------------------------------------

SCORES = {(0.5, 0.5): 0.5, (1.0, 0.5): 0.5, (0.0, 0.5): 0.499, (0.5, 1.0): 0.499, (0.0, 0.0): 0.3}


@pytest.fixture(scope="module")
def heatmap(tmp_path_factory):
    """(lambda1, lambda2) -> score, of `grace`; one has noise of its own."""
    made = spec("figure3", tmp_path_factory.mktemp("heatmap"))
    runs = {(at.at["lambda1"], at.at["lambda2"]): at.run for at in made.points if at.of == "grace"}
    return filled(made, {runs[at]: score for at, score in SCORES.items()}, own=(runs[0.5, 1.0],))


def test_cells_are_compared_with_the_best_in_pairs(heatmap):
    """The items of two models differ by a constant, so their difference is certain, unless one has noise of its own."""
    found = {(one.x, one.y): one for one in heatmap[1] if one.series == "grace"}
    assert found[0.5, 0.5].ours == pytest.approx(50) and found[0.5, 0.5].note == ablations.BEST
    assert found[1.0, 0.5].note == ablations.INSIDE  # the same
    assert found[0.0, 0.5].note == ablations.OUTSIDE  # 0.1 points below, for certain
    assert found[0.5, 1.0].note == ablations.INSIDE  # 0.1 points below, lost in noise
    assert found[1.0, 1.0].ours is None and found[1.0, 1.0].left_out


def test_the_papers_grids_follow_and_hold_their_gap(heatmap):
    papers = {(one.run, one.x, one.y): one for one in heatmap[1] if one.series == PAPER}
    assert len(papers) == 50 and sum(one.paper is not None for one in papers.values()) == 45
    assert papers["supervised", 0.3, 1.0].paper == 51.0 and papers["unsupervised", 0.5, 0.5].paper == 51.9
    assert papers["unsupervised", 0.5, 0.3].paper is None and not papers["unsupervised", 0.5, 0.3].left_out


def test_values_frames_and_gaps_are_drawn(heatmap):
    plot, marks = heatmap
    panels = {one.get_title(): one for one in plot.draw(marks).axes if one.get_title()}
    assert list(panels) == ["grace, tiny", "grace-unsup, tiny", "the paper, supervised", "the paper, unsupervised"]
    ours = panels["grace, tiny"]
    assert sorted(texts(ours.texts)) == ["30.0", "49.9", "49.9", "50.0", "50.0"]
    assert sum(one.get_hatch() is not None for one in ours.patches) == 4
    assert sorted(one.get_linewidth() for one in ours.patches if not one.get_hatch()) == [0.9, 0.9, 1.6]
    assert sum(one.get_hatch() is not None for one in panels["grace-unsup, tiny"].patches) == 9
    assert len(panels["the paper, supervised"].texts) == 25 and len(panels["the paper, unsupervised"].texts) == 20
    assert (ours.get_xlabel(), ours.get_ylabel()) == ("λ₁", "λ₂")
    colours = ours.collections[0].get_array()  # [lambda2, lambda1]
    assert colours[2, 1] == pytest.approx(49.9) and colours[1, 2] == pytest.approx(50) and colours[0, 2] is np.ma.masked
    # lambda1 grows to the right, lambda2 upwards: the cell at (0, 0) is the lowest on the left
    assert next(one for one in ours.texts if one.get_text() == "30.0").get_position() == (0, 0)


def test_settings_of_a_heat_map_may_be_words(tmp_path):
    made = spec("figure3", tmp_path)
    points = [at.model_copy(update={"at": {"a": f"word {at.at['lambda1']}", "b": 2}}) for at in made.points]
    plot, marks = filled(made.model_copy(update={"points": points}))
    assert not among(marks, series=PAPER)
    axes = plot.draw(marks).axes[0]
    assert texts(axes.get_xticklabels()) == ["word 0.0", "word 0.5", "word 1.0"] and texts(axes.get_yticklabels()) == [
        "2"
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("a", "b")


def test_a_heat_map_of_one_setting_is_refused(tmp_path):
    made = spec("figure3", tmp_path)
    content = json.loads(made.model_dump_json())
    content["points"][0]["at"] = {"lambda1": 0.0}
    refused(made, content, r"figures\.figure3\.ablations.*two settings.*'lambda'")
