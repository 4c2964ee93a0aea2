"""Figure 5: from step 0 to the end."""

from __future__ import annotations

import pytest

from grace.report import figures
from grace.report.plots import progression
from grace.section import UserError
from tests.report.plots import made

SCORES = {"reasoning": 0.30, "grace.step-20": 0.35, "grace.step-40": 0.40, "grace.step-60": 0.42, "grace": 0.45}


def filled(spec, without=()):
    for place, cell in enumerate(spec.cells):
        if cell.run in SCORES and cell.run not in without:
            made.evaluate(cell, spec.tasks, SCORES[cell.run], tokens=20.0 + place)
    return figures.build(spec)


def of(marks, panel, series="grace"):
    return [one for one in marks if (one.panel, one.series) == (panel, series)]


def test_steps_lead_from_the_backbone_to_the_end(tmp_path):
    spec = made.spec("figure5", tmp_path)
    _, marks = filled(spec)
    scores, lengths = of(marks, progression.SCORE), of(marks, progression.LENGTH)
    assert [(one.run, one.x) for one in scores] == [
        ("reasoning", 0), ("grace.step-20", 20), ("grace.step-40", 40), ("grace.step-60", 60), ("grace", 80),
    ]  # fmt: skip
    assert [one.ours for one in scores] == pytest.approx([30, 35, 40, 42, 45])
    place = [cell.run for cell in spec.cells].index("grace.step-40")
    assert lengths[2].ours == pytest.approx(20 + place) and lengths[2].interval is None
    assert of(marks, progression.SCORE, "grace-random")[0].ours == pytest.approx(30)  # step 0 is shared


def test_an_end_without_number_is_called_end(tmp_path):
    spec = made.spec("figure5", tmp_path).model_copy(update={"ends": {}})
    results, marks = filled(spec)
    assert of(marks, progression.SCORE)[-1].x == "end"
    axes = progression.draw(results, marks).axes[0]
    assert axes.get_xticklabels()[-1].get_text() == "end" and axes.get_xticks()[-1] > 60
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [list(line.get_xdata()) for line in dotted if len(line.get_xdata())] == [[60.0, axes.get_xticks()[-1]]]


def test_a_missing_checkpoint_has_no_point(tmp_path):
    results, marks = filled(made.spec("figure5", tmp_path), without=("grace.step-40",))
    axes = progression.draw(results, marks).axes[0]
    points = next(line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 4)
    assert list(points.get_xdata()) == [0, 20, 60, 80]
    assert {one.run for one in marks if one.left_out and one.series == "grace"} == {"grace.step-40"}
    assert len(axes.collections) == 3  # a band for each run; the other two have step 0 alone


def test_a_study_without_reasoning_has_no_step_0(tmp_path):
    spec = made.spec("figure5", tmp_path)
    cells = [cell for cell in spec.cells if cell.run != "reasoning"]
    results, marks = filled(spec.model_copy(update={"cells": cells}))
    start = of(marks, progression.SCORE)[0]
    assert start.x == 0 and start.note == "not part of this study" and not start.left_out
    assert "Run grace (4 points) on tiny" in figures.sentence(results, marks)


def test_an_ablation_without_steps_is_refused(tmp_path):
    spec = made.spec("figure5", tmp_path)
    other = made.spec("figure6", tmp_path).points
    with pytest.raises(UserError, match=r"figures\.figure5\.ablations.*'progression' shows step.*'pooling'"):
        figures.build(spec.model_copy(update={"points": other}))
