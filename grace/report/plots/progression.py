"""Score and length of the rationales during training (figure 5), one row for each backbone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from grace.report.plots import style
from grace.report.plots.marks import Mark, Results, among, label, measured, names
from grace.report.scoring.scores import tokens

SCORE, LENGTH = "score", "rationale length"
START = "reasoning"  # the run with the backbone's own rationales: step 0 of every training
END = "end"  # where the number of the last step is not known


def marks(results: Results) -> list[Mark]:
    """x is the training step, or `end`; the length is in tokens, without an interval.

    Raises:
        UserError: for an ablation without steps.
    """
    found = []
    for backbone, run in dict.fromkeys((name, point.of) for name, point in results.points("step")):
        steps: list[tuple[str, float | str]] = [(START, 0.0)]
        steps += [(at.run, float(at.at["step"])) for name, at in results.points() if (name, at.of) == (backbone, run)]
        end = results.spec.ends.get(run)
        for name, step in [*steps, (run, float(end) if end else END)]:
            place = Mark(panel=SCORE, series=run, backbone=backbone, run=name, x=step)
            seeds = results.models.get((backbone, name), [])
            found += [
                results.scored(place),
                measured(replace(place, panel=LENGTH), tokens(seeds), seeds, []),
            ]
    return found


def notes(results: Results, marks: list[Mark]) -> list[str]:
    """What a reader of the figure must know."""
    said = ["Step 0 is the backbone with the rationale prompt. Bands are 95 % intervals; a length has none."]
    if among(marks, x=END):
        said.append("The end of training has no number where the settings fix none; a dotted line leads to it.")
    return said


def draw(results: Results, marks: list[Mark]) -> Figure:
    """Score on the left, length on the right."""
    backbones = names(marks, "backbone")
    figure, axes = style.canvas(0.35 + 2.05 * len(backbones), len(backbones), 2)
    colours, dashes = style.colours(names(marks, "series")), style.dashes(names(marks, "series"))
    shapes = style.markers(names(marks, "series"))
    for row, backbone in zip(axes, backbones, strict=True):
        own = among(marks, backbone=backbone)
        for one, panel in zip(row, (SCORE, LENGTH), strict=True):
            shown = [mark for mark in among(own, panel=panel) if mark.drawn]
            if not shown:
                style.nothing(one)
                continue
            for run in names(shown, "series"):
                _line(one, among(shown, series=run), _last(own), colours[run], dashes[run], shapes[run])
            _steps(one, shown, _last(own))
            score = style.score_label(len(results.spec.tasks))
            one.set_ylabel(score if panel == SCORE else "rationale length (tokens)")
        row[0].set_title(label(backbone), loc="left")
    for one in axes[-1]:
        one.set_xlabel("training step")
    handles = [
        Line2D([], [], color=colours[run], linestyle=dashes[run], marker=shapes[run], markersize=4, label=run)
        for run in colours
    ]
    style.legend(figure, handles)
    return figure


def _last(marks: list[Mark]) -> float:
    return max([float(one.x) for one in marks if isinstance(one.x, float)], default=0.0)


def _place(mark: Mark, last: float) -> float:
    """x of a mark; that of an end without number lies past the last step."""
    return mark.x if isinstance(mark.x, float) else (last or 1.0) * 1.15


def _line(axes: Axes, marks: list[Mark], last: float, colour: str, dashes: Any, shape: str) -> None:
    marks = sorted(marks, key=lambda one: _place(one, last))
    for some, style_ in ((among_steps(marks), dashes), (marks[-2:] if marks[-1].x == END else [], ":")):
        xs, ys = [_place(one, last) for one in some], [float(one.ours or 0) for one in some]
        axes.plot(xs, ys, color=colour, linestyle=style_)
    xs = [_place(one, last) for one in marks]
    axes.plot(xs, [float(one.ours or 0) for one in marks], shape, color=colour, markersize=3.8)
    bands = [(x, *one.interval) for x, one in zip(xs, marks, strict=True) if one.interval]
    if bands:
        x, low, high = zip(*bands, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def among_steps(marks: list[Mark]) -> list[Mark]:
    """The marks whose step is known."""
    return [one for one in marks if one.x != END]


def _steps(axes: Axes, marks: list[Mark], last: float) -> None:
    """The axis: numbers, and the end where it has none."""
    if any(one.x == END for one in marks):
        ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= last]
        axes.set_xticks([*ticks, (last or 1.0) * 1.15], [*(f"{tick:g}" for tick in ticks), END])
