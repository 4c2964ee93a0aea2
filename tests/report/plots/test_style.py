"""Colours that readers can tell apart, text that stays within the figure, SVG that stands in a page."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

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
    found = [look["color"] for look in style.looks(["grace", "mine", "other"]).values()]
    assert found[0] == style.RUNS["grace"] and len(set(found)) == 3


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


def drawn() -> str:
    with matplotlib.rc_context({**style.RC, "svg.hashsalt": "a"}):
        figure, [[axes]] = style.canvas(2)
        axes.plot([0, 1], [0, 1], "o-", label="A & B <c>")
        axes.bar([0], [1], hatch="//")
        axes.set_xlabel("λ₁ of $x$")
        style.legend(figure, axes.lines)
        return style.svg(figure, "figure3", 'A "title"', "Said of it.")


def test_svg_has_text_as_text_and_ids_of_its_own_that_every_reference_meets():
    text = drawn()
    root = ElementTree.fromstring(text)
    assert "λ₁ of $x$" in "".join(root.itertext()) and "A & B <c>" in "".join(root.itertext())
    assert [child.tag.rpartition("}")[2] for child in root][:2] == ["title", "desc"]
    assert (root[0].text, root[1].text, root.get("aria-label")) == ('A "title"', "Said of it.", 'A "title"')
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids)) and all(one.startswith("figure3-") for one in ids)
    used = [value[1:] for node in root.iter() for key, value in node.items() if key.endswith("href")]
    used += [value[5:-1] for node in root.iter() for value in node.attrib.values() if value.startswith("url(#")]
    assert used and set(used) <= set(ids)
    assert drawn() == text  # the same each time


def test_svg_needs_nothing_from_outside():
    text = drawn().replace(f'"{style.SVG}"', "").replace(f'"{style.XLINK}"', "")
    for outside in ("http://", "https://", "<style", "<metadata", "<!DOCTYPE", "<?xml"):
        assert outside not in text
