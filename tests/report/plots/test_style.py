"""Colours that readers can tell apart, and text that stays within the figure."""

from __future__ import annotations

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from grace.report.plots import style

# Machado, Oliveira and Fernandes (2009), severity 1.0, of linear RGB.
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
SHOWN_TOGETHER = (
    ("base", "reasoning", "cl", "grace", "grace-rollout", "grace-random"),
    ("base", "simcse", "grace-unsup"),
    ("grace", "grace-unsup"),
)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB, D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    f = np.cbrt(np.clip(xyz / [0.9505, 1.0, 1.089], 1e-6, None))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["all cones", "no green", "no red"])
def test_runs_of_a_figure_can_be_told_apart(sight):
    for runs in SHOWN_TOGETHER:
        seen = {run: lab(np.clip(np.array(sight) @ (np.array(to_rgb(style.RUNS[run])) ** 2.2), 0, 1)) for run in runs}
        for one, other in combinations(runs, 2):
            assert np.linalg.norm(seen[one] - seen[other]) > 14, (one, other)


def test_unknown_runs_get_colours_of_their_own():
    found = style.colours(["grace", "mine", "other"])
    assert found["grace"] == style.RUNS["grace"] and len(set(found.values())) == 3


def test_a_long_legend_gets_several_lines_and_notes_make_room():
    with matplotlib.rc_context(style.RC):
        figure, _ = style.canvas(2)
        style.legend(figure, [Line2D([], [], label="a label of many letters " * 2) for _ in range(5)])
        style.annotate(figure, ["word " * 60, "another sentence"])
        figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    assert figure.get_size_inches()[1] > 2.3
    for box in [figure.legends[0].get_window_extent(), figure._supxlabel.get_window_extent()]:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
