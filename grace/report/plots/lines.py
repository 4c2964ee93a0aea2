"""A score against one setting (figure 7): a panel for each ablation and backbone, a line for each run."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from grace.report.plots import style
from grace.report.plots.marks import Mark, Results, among, label, names
from grace.specs import Point

LOGARITHMIC = 8  # of numbers that span at least this factor the axis is logarithmic
APART = 0.012  # of the axis, between the lines of a panel, so that intervals do not cover one another
AXES = {
    "batch": "instances of a batch",
    "rollouts": "rollouts for an instance",
    "max_new_tokens": "most tokens of a rationale",
    "layer": "blocks of the backbone",
}


def marks(results: Results) -> list[Mark]:
    """x is what the ablation varies first, a number where it is one; the series says the run and all else."""
    return [
        results.scored(Mark(panel=point.ablation, series=_series(point), backbone=backbone, run=point.run, x=_x(point)))
        for backbone, point in results.points()
    ]


def _x(point: Point) -> float | str:
    value = str(next(iter(point.at.values())))
    try:
        return float(value) if math.isfinite(float(value)) else value
    except ValueError:
        return value


def _series(point: Point) -> str:
    return ", ".join([point.of, *(f"{key} {value}" for key, value in list(point.at.items())[1:])])


def notes(results: Results, marks: list[Mark]) -> list[str]:
    """What a reader of the figure must know."""
    said = ["Vertical lines are 95 % intervals."]
    several = len(names(marks, "series")) > 1
    return [*said, "Runs are moved a little sideways, so that one does not cover another."] if several else said


def draw(results: Results, marks: list[Mark]) -> Figure:
    """The panels in two columns; the runs of a backbone in one of them."""
    panels = list(dict.fromkeys((mark.backbone, mark.panel) for mark in marks))
    figure, axes = style.tiled(len(panels), 2.3, sharey=True)
    looks = _looks(names(marks, "series"))
    varied = {point.ablation: next(iter(point.at)) for point in results.spec.points}
    for one, (backbone, panel) in zip([one for row in axes for one in row], panels, strict=False):
        own = among(marks, backbone=backbone, panel=panel)
        one.set_title(label(backbone), loc="left")
        one.set_xlabel(AXES.get(varied[panel], varied[panel]))
        if not any(mark.drawn for mark in own):
            style.nothing(one, f"{AXES.get(varied[panel], varied[panel])}:\nno result")
            continue
        positions, series = _axis(one, own), names(own, "series")
        for number, name in enumerate(series):
            shift = APART * (number - (len(series) - 1) / 2)
            shown = [mark for mark in among(own, series=name) if mark.drawn]
            _line(one, shown, positions, shift, looks[name])
    for row in axes:
        row[0].set_ylabel(style.score_label(len(results.spec.tasks)))
    style.legend(figure, [Line2D([], [], label=name, **look) for name, look in looks.items()])
    return figure


Look = dict[str, Any]


def _looks(series: list[str]) -> dict[str, Look]:
    colours, dashes, shapes = style.colours(series), style.dashes(series), style.markers(series)
    return {
        name: {"color": colours[name], "linestyle": dashes[name], "marker": shapes[name], "markersize": 4.5}
        for name in series
    }


Positions = dict[float | str, float]


def _axis(axes: Axes, marks: list[Mark]) -> Positions:
    """Where each x stands on the axis: at its number, or its logarithm, or one after another."""
    values = list(dict.fromkeys(one.x for one in marks if one.x is not None))
    numeric = [value for value in values if isinstance(value, float)]
    if len(numeric) < len(values):
        positions: Positions = {value: float(place) for place, value in enumerate(values)}
    elif min(numeric) > 0 and max(numeric) / min(numeric) >= LOGARITHMIC:
        positions = {value: math.log2(value) for value in numeric}
    else:
        positions = {value: value for value in numeric}
    axes.set_xticks(list(positions.values()), [f"{v:g}" if isinstance(v, float) else v for v in positions])
    return positions


def _line(axes: Axes, marks: list[Mark], positions: Positions, shift: float, look: Look) -> None:
    span = (max(positions.values()) - min(positions.values())) or 1.0
    marks = sorted(marks, key=lambda one: positions[one.x or 0.0])
    xs = [positions[one.x or 0.0] + shift * span for one in marks]
    axes.plot(xs, [float(one.ours or 0) for one in marks], **look)
    for x, one in zip(xs, marks, strict=True):
        style.error_bar(axes, x, float(one.ours or 0), one.interval, look["color"])
