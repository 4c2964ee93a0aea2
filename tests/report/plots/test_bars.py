"""Figure 6: a bar for each point."""

from __future__ import annotations

import pytest

from grace.report import figures
from grace.report.plots import bars
from tests.report.plots import made


def filled(spec, without=()):
    for place, cell in enumerate(spec.cells):
        if cell.run not in without:
            made.evaluate(cell, spec.tasks, 0.3 + 0.01 * place)
    return figures.build(spec)


def test_each_point_is_a_bar_from_zero(tmp_path):
    results, marks = filled(made.spec("figure6", tmp_path), without=("grace.pooling-max",))
    assert [one.x for one in marks if one.panel == "grace"] == ["eos", "max", "mean-last", "mean-penultimate"]
    left, right = bars.draw(results, marks).axes
    heights = [one.ours for one in marks if one.panel == "grace" and one.ours is not None]
    assert [one.get_height() for one in left.patches] == pytest.approx(heights)
    assert left.get_ylim()[0] == 0 and len(left.collections) == 3  # intervals
    assert sorted(one.get_text() for one in left.texts) == sorted([*(f"{one:.1f}" for one in heights), "no result"])
    assert len(right.patches) == 4 and right.get_title(loc="left") == "grace-unsup"


def test_backbones_are_groups(tmp_path):
    spec = made.spec("figure6", tmp_path, "paper", backbones=["qwen2.5-3b", "qwen3-4b"])
    results, marks = filled(spec)
    panel = bars.draw(results, marks).axes[0]
    assert [one.get_text() for one in panel.get_xticklabels()] == ["Qwen2.5-3B-Instruct", "Qwen3-4B-Instruct-2507"]
    middles = [one.get_x() + one.get_width() / 2 for one in panel.patches]
    assert sum(middles[:4]) == pytest.approx(0) and sum(middles[4:]) / 4 == pytest.approx(1)
