"""Efficiency (figure 4): time per text by its parts, and the score against that time, one row for each backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from grace.report.plots import style
from grace.report.plots.marks import Mark, Results, among, label, names
from grace.report.plots.times import PARTS, System

TIME, SCORE = "time per text", "score against time"
ENCODER, DIRECT, BASE = "encoder", "direct", "base"  # systems that write no rationale, and the run of the second
LABELS = {ENCODER: "encoder only"}
TICKS = ((300, (1.0,)), (10, (1.0, 3.0)), (1, (1.0, 2.0, 5.0)))  # factor that an axis spans -> digits at its ticks
COLOURS = {"encode": "#0d2c54", "generate": "#E69F00", "match": "#56B4E9"}


def marks(results: Results) -> list[Mark]:
    """Times in seconds: `ours` is the median, low and high the 10th and 90th percentile; then scores against them."""
    found = []
    for backbone in results.backbones:
        for system in results.times.systems.get(backbone, []):
            found += [_time(results, backbone, system, part) for part in (*PARTS, "total")]
    for backbone in results.backbones:
        found += _scores(results, backbone)
    return found


def _time(results: Results, backbone: str, system: System, part: str) -> Mark:
    at = system.parts[part]
    return Mark(
        panel=TIME, series=_name(system), backbone=backbone, run=_run(system), x=part, ours=at.p50, low=at.p10,
        high=at.p90, note="median, 10th and 90th percentile in seconds", source=results.times.files[backbone],
    )  # fmt: skip


def _name(system: System) -> str:
    name = LABELS.get(system.name, system.name)
    return name if system.budget is None else f"{name}, {system.budget} tokens"


def _run(system: System) -> str:
    return BASE if system.name == DIRECT else system.name


def _scores(results: Results, backbone: str) -> Iterator[Mark]:
    """The score of each timed system: that of the run with its budget."""
    budgets = {
        (point.of, point.at["max_new_tokens"]): point.run
        for name, point in results.points("max_new_tokens")
        if name == backbone
    }
    systems = results.times.systems.get(backbone, [])
    for system in systems:
        run = _run(system) if system.budget is None else budgets.get((system.name, system.budget))
        at = system.parts["total"]
        mark = Mark(
            panel=SCORE, series=_name(system), backbone=backbone, run=run, x=at.p50, x_low=at.p10, x_high=at.p90
        )
        if run is None:
            note = f"not evaluated with {system.budget} tokens in this study"
            yield replace(mark, run=system.name, planned=False, note=note)
        else:
            yield results.scored(mark)
    if not systems:
        yield Mark(panel=TIME, series="all systems", backbone=backbone, note="no time measured")


def notes(results: Results, marks: list[Mark]) -> list[str]:
    """What a reader of the figure must know."""
    said = [
        "Left: bars are medians of the parts, which need not add up to the median of the total (tick, with the "
        "number); whiskers lead from its 10th to its 90th percentile. Right: vertical lines are 95 % intervals of the "
        "score, horizontal ones the same percentiles; numbers are the most tokens of a rationale."
    ]
    if unknown := names([one for one in marks if one.panel == SCORE and not one.planned and one.run], "series"):
        said.append(f"Not evaluated in this study: {', '.join(unknown)}.")
    return said


def draw(results: Results, marks: list[Mark]) -> Figure:
    """Bars on the left, points on the right."""
    backbones = results.backbones
    bars = max([len(names(among(marks, panel=TIME, backbone=one), "series")) for one in backbones] or [1])
    figure, axes = style.canvas(
        0.3 + len(backbones) * max(1.9, 0.75 + 0.24 * bars), len(backbones), 2, width_ratios=[1.15, 1]
    )
    for (left, right), backbone in zip(axes, backbones, strict=True):
        own = [one for one in among(marks, backbone=backbone) if one.drawn]
        _bars(left, among(own, panel=TIME))
        _points(right, among(own, panel=SCORE), _colours(among(marks, panel=SCORE)))
        left.set_title(label(backbone), loc="left")
    axes[-1][0].set_xlabel("seconds per text")
    axes[-1][1].set_xlabel("median time per text")
    runs = _colours(among(marks, panel=SCORE))
    handles: list[Any] = [Patch(facecolor=colour, label=part) for part, colour in COLOURS.items()]
    handles += [Line2D([], [], marker="o", color=colour, label=run) for run, colour in runs.items()]
    style.legend(figure, handles)
    return figure


def _bars(axes: Axes, marks: list[Mark]) -> None:
    if not marks:
        style.nothing(axes)
        return
    systems = names(marks, "series")
    for place, system in enumerate(systems):
        parts = {one.x: one for one in among(marks, series=system)}
        start = 0.0
        for part in PARTS:
            width = parts[part].ours or 0.0
            axes.barh(place, width, left=start, height=0.62, color=COLOURS[part], edgecolor="white", linewidth=0.3)
            start += width
        total = parts["total"]
        assert total.ours is not None and total.low is not None and total.high is not None
        axes.hlines(place, total.low, total.high, color=style.INK, linewidth=0.9)
        axes.vlines(total.ours, place - 0.2, place + 0.2, color=style.INK, linewidth=0.9)
        end = max(start, total.high)
        axes.annotate(seconds(total.ours), (end, place), (4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(systems)), systems)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.margins(x=0.14)
    axes.set_xlim(left=0)


def _points(axes: Axes, marks: list[Mark], colours: dict[str, str]) -> None:
    if not marks:
        style.nothing(axes)
        return
    for run in dict.fromkeys(_system(one) for one in marks):
        line = sorted((one for one in marks if _system(one) == run), key=lambda one: float(one.x or 0))
        colour = colours[run]
        axes.plot([float(one.x or 0) for one in line], [float(one.ours or 0) for one in line], "o-", color=colour)
        for one in line:
            assert one.x_low is not None and one.x_high is not None and one.ours is not None
            axes.hlines(one.ours, one.x_low, one.x_high, color=colour, linewidth=0.8)
            style.error_bar(axes, float(one.x or 0), one.ours, one.interval, colour)
            if len(line) > 1:
                text = one.series.removeprefix(f"{run}, ").removesuffix(" tokens")
                axes.annotate(text, (float(one.x or 0), one.ours), color=colour, **_beside(line, one))
    axes.set_xscale("log")
    axes.margins(x=0.14, y=0.2)
    low, high = axes.get_xlim()
    ticks = next(digits for factor, digits in TICKS if high / low >= factor)
    axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("score (%)")


def _system(mark: Mark) -> str:
    return mark.series.split(",")[0]


def _colours(marks: list[Mark]) -> dict[str, str]:
    """Colour of each system that is drawn; that of direct embeddings is base's."""
    runs = {_system(one): str(one.run) for one in marks if one.drawn}
    found = style.colours(BASE if system == DIRECT else system for system in runs)
    return {system: found[BASE if system == DIRECT else system] for system in runs}


def _beside(line: list[Mark], one: Mark) -> dict[str, Any]:
    """Where the budget of a point stands: left of the first of its line, else right."""
    left = one is line[0]
    return {
        "xytext": (-5 if left else 5, 2), "textcoords": "offset points", "fontsize": 7, "va": "bottom",
        "ha": "right" if left else "left",
    }  # fmt: skip


def seconds(value: float) -> str:
    """A time with two or three digits."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
