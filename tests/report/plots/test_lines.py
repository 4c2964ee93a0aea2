"""Figure 7: numbers on the axis, a line for each run."""

from __future__ import annotations

import pytest

from grace.report import figures
from grace.report.plots import lines
from tests.report.plots import made


def filled(spec, without=()):
    for place, cell in enumerate(spec.cells):
        if cell.run not in without:
            made.evaluate(cell, spec.tasks, 0.3 + 0.01 * place)
    return figures.build(spec)


def test_names_that_are_numbers_are_numbers(tmp_path):
    results, marks = filled(made.spec("figure7", tmp_path))
    assert [(one.panel, one.x, one.run) for one in marks] == [
        ("batch", 4.0, "grace.batch-4"), ("batch", 8.0, "grace.batch-8"), ("batch", 16.0, "grace"),
        ("rollouts", 2.0, "grace.rollouts-2"), ("rollouts", 4.0, "grace.rollouts-4"), ("rollouts", 8.0, "grace"),
    ]  # fmt: skip
    left, right = lines.draw(results, marks).axes
    assert list(left.lines[0].get_xdata()) == [4, 8, 16] and list(left.get_xticks()) == [4, 8, 16]
    assert list(right.lines[0].get_ydata()) == pytest.approx([one.ours for one in marks[3:]])
    assert len(left.collections) == 3 and right.get_xlabel() == "rollouts for an instance"


def test_a_wide_axis_is_logarithmic(tmp_path):
    spec = made.spec("figure7", tmp_path, "paper")
    results, marks = filled(spec)
    left, _ = lines.draw(results, marks).axes
    assert list(left.get_xticks()) == [0, 1, 2, 3, 4, 5, 6]  # of 1, 2, ... 64
    assert [one.get_text() for one in left.get_xticklabels()] == ["1", "2", "4", "8", "16", "32", "64"]


def test_runs_are_lines_that_do_not_cover_one_another(tmp_path):
    results, marks = filled(made.spec("budget", tmp_path), without=("grace.max_new_tokens-20",))
    [axes] = lines.draw(results, marks).axes
    reasoning, grace = axes.lines
    assert list(reasoning.get_xdata()) == pytest.approx([9.82, 19.82, 39.82])  # 0.6 % of the axis to the left
    assert list(grace.get_xdata()) == pytest.approx([10.18, 40.18])
    assert any("sideways" in note for note in lines.notes(results, marks))


def test_names_stand_one_after_another(tmp_path):
    spec = made.spec("figure6", tmp_path)
    results, marks = filled(spec.model_copy(update={"figure": spec.figure.model_copy(update={"kind": "lines"})}))
    [axes] = lines.draw(results, marks).axes
    assert [one.get_text() for one in axes.get_xticklabels()] == ["eos", "max", "mean-last", "mean-penultimate"]
