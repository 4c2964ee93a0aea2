"""A score as bars (figure 6): a panel for each run, a group for each backbone, a bar for each point."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from grace.report.plots import style
from grace.report.plots.marks import Mark, Results, among, label, names

WIDTH = 0.8  # of a group
LABEL: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 7}
NUMBERED = 20  # bars of a panel that still have room for their numbers


def marks(results: Results) -> list[Mark]:
    """x is the point, the series too; the panel is the run that the points are of."""
    found = []
    for backbone, point in results.points():
        series = ", ".join(str(value) for value in point.at.values())
        found.append(results.scored(Mark(panel=point.of, series=series, backbone=backbone, run=point.run, x=series)))
    return found


def notes(results: Results, marks: list[Mark]) -> list[str]:
    """What a reader of the figure must know."""
    return ["Bars start at zero. Lines are 95 % intervals."]


def draw(results: Results, marks: list[Mark]) -> Figure:
    """The panels below one another."""
    panels, series = names(marks, "panel"), names(marks, "series")
    beside = len(names(marks, "backbone")) == 1
    if beside:
        figure, axes = style.tiled(len(panels), 2.3, sharey=True)
    else:
        figure, axes = style.canvas(0.35 + 1.75 * len(panels), len(panels), sharey=True)
    colours = dict(zip(series, style.LEVELS * (1 + len(series) // len(style.LEVELS)), strict=False))
    for one, panel in zip([one for row in axes for one in row], panels, strict=False):
        own = among(marks, panel=panel)
        one.set_title(panel, loc="left")
        if not any(mark.drawn for mark in own):
            style.nothing(one)
            continue
        _panel(one, own, colours)
    highest = max(mark.ours if mark.high is None else mark.high for mark in marks if mark.ours is not None)
    axes[0][0].set_ylim(0, 1.16 * highest)
    for row in axes:
        row[0].set_ylabel(style.score_label(len(results.spec.tasks)))
    handles = [Patch(facecolor=colours[name], edgecolor=style.INK, linewidth=0.5, label=name) for name in series]
    style.legend(figure, handles)
    return figure


def _panel(axes: Axes, marks: list[Mark], colours: dict[str, str]) -> None:
    backbones = names(marks, "backbone")
    width = WIDTH / len(colours)
    for mark in marks:
        x = backbones.index(mark.backbone) + width * (list(colours).index(mark.series) - (len(colours) - 1) / 2)
        if mark.ours is None:
            axes.annotate("no result", (x, 0), (0, 3), rotation=90, **{**LABEL, "color": style.MUTED})
            continue
        colour = colours[mark.series]
        axes.bar(x, mark.ours, width * 0.92, color=colour, edgecolor=style.INK, linewidth=0.5)
        style.error_bar(axes, x, mark.ours, mark.interval, style.INK)
        if len(backbones) * len(colours) <= NUMBERED:
            top = mark.high if mark.high is not None else mark.ours
            axes.annotate(f"{mark.ours:.1f}", (x, top), (0, 2), **LABEL)
    axes.set_xticks(range(len(backbones)), [label(name) for name in backbones])
    axes.set_xlim(-0.5, len(backbones) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(False, axis="x")
