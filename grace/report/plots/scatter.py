"""Generative score against embedding score (figure 1): base, what becomes of it, and where the paper has it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from grace import tasks
from grace.paper import numbers
from grace.paper.finding import listed
from grace.report.plots import style
from grace.report.plots.marks import PAPER, Mark, Results, among, label, measured, names
from grace.report.scoring.scores import WELL_FORMED, Estimate, estimate

LINE = 50  # characters of a label that stand below half of the figure
PANEL = "generation against embedding"
TABLE, GENERAL_TABLE = "table1", "table5"
HOLLOW: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 1.1}
# Row of table 1 -> row of table 5; without training the model is that of base.
GENERAL_ROWS = {"base": "base", "reasoning": "base", "cl": "cl", "grace": "grace_sup"}
NAMES = {
    **{task: printed for printed, task in numbers.GENERAL.items()},
    "docstring_choice": "multiple choice accuracy",
    WELL_FORMED: "well-formed rate",
}


def marks(results: Results) -> list[Mark]:
    """Ours, then the paper's; x is the generative score in percent, y (`ours` or `paper`) that of the embeddings."""
    return [*_ours(results), *_papers(results)]


def generative(results: Results) -> list[str]:
    """Tasks of the generative score: the paper's six where the results hold them all, else those that they hold."""
    held = {name for seeds in results.general.values() for one in seeds for name in one.scores}
    six = list(numbers.GENERAL.values())
    return six if set(six) <= held else [name for name in NAMES if name in held]


def _ours(results: Results) -> Iterator[Mark]:
    used = generative(results)
    for backbone in results.backbones:
        for run in results.spec.figure.rows:
            if (backbone, run) not in results.models:
                continue
            mark = results.scored(Mark(panel=PANEL, series=run, backbone=backbone, run=run))
            seeds = results.general.get((backbone, run), [])
            found = estimate(seeds, dict.fromkeys(used, 1.0))
            yield (
                _placed(mark, found)
                if found
                else replace(mark, note=f"generative score: {measured(mark, None, seeds, used).note}")
            )


def _placed(mark: Mark, found: Estimate) -> Mark:
    low, high = found.interval or (None, None)
    files = [mark.source, *found.sources] if mark.source else found.sources
    return replace(mark, x=found.point, x_low=low, x_high=high, source=";".join(map(str, files)))


def comparable(results: Results) -> bool:
    """Whether both scores are of the paper's tasks, and of all their items."""
    whole = {name for every in tasks.MTEB.values() for name in every.split()}
    limited = any(one.limited for seeds in results.general.values() for one in seeds) or bool(results.models.samples)
    return set(results.spec.tasks) == whole and set(generative(results)) == {*numbers.GENERAL.values()} and not limited


def _papers(results: Results) -> Iterator[Mark]:
    """The paper's points on our axes: its mean over the 56 data sets, from the categories that it prints."""
    if not comparable(results):
        return
    for backbone in results.backbones:
        for run, row in results.spec.figure.rows.items():
            scores = {c: numbers.printed(TABLE, backbone, str(row), c) for c in tasks.CATEGORIES}
            x = numbers.printed(GENERAL_TABLE, backbone, GENERAL_ROWS.get(str(row), ""), "Avg")
            known = {c: score for c, score in scores.items() if score is not None}
            if x is None or len(known) < len(scores):
                continue
            printed = numbers.printed(TABLE, backbone, str(row), "Avg")
            note = f"mean over 56 data sets; the printed Avg, {printed}, counts Summarization ten times"
            value = numbers.average(known, numbers.COUNTS)
            yield Mark(panel=PANEL, series=PAPER, backbone=backbone, run=run, x=x, paper=value, note=note)


def notes(results: Results, marks: list[Mark]) -> list[str]:
    """What a reader of the figure must know."""
    said = ["Arrows lead from base to the paper's GRACE. Runs without training share one generative score."]
    if among(marks, series=PAPER):
        return [*said, "Hollow: the paper, its mean over the 56 data sets taken from the categories that it prints."]
    if set(results.backbones) & set(numbers.BACKBONES):
        said.append("The paper's points are left out: they are of other tasks or of more items than ours.")
    return said


def draw(results: Results, marks: list[Mark]) -> Figure:
    """A panel for each backbone, all with the same axes; colour and shape are the run."""
    backbones = results.backbones
    height = 3.6 if len(backbones) == 1 else 2.4
    figure, axes = style.tiled(len(backbones), height, sharex=True, sharey=True)
    rows = results.spec.figure.rows
    looks = dict(zip(rows, zip(style.colours(rows).values(), style.markers(rows).values(), strict=True), strict=True))
    arrows = {row: run for run, row in rows.items() if row in ("base", "grace")}
    for one, backbone in zip([one for row in axes for one in row], backbones, strict=False):
        own = [mark for mark in among(marks, backbone=backbone) if mark.drawn]
        one.set_title(label(backbone), loc="left")
        for mark in own:
            _point(one, mark, *looks[str(mark.run)])
        for of_paper in (True, False):
            _arrow(one, [mark for mark in own if (mark.series == PAPER) == of_paper], arrows)
        one.margins(0.1)
        if not own:
            one.text(0.5, 0.5, "no result", transform=one.transAxes, ha="center", color=style.MUTED)
    used = [NAMES[name] for name in generative(results)]
    said = f"generative score: mean of {listed(used)} (%)" if used else "generative score (no result)"
    for one in axes[-1]:
        one.set_xlabel(textwrap.fill(said, LINE * (1 if len(backbones) > 1 else 2)))
    for row in axes:
        row[0].set_ylabel(f"embedding score:\nmean over {len(results.spec.tasks)} tasks (%)")
    _legend(figure, marks, looks)
    return figure


def _point(axes: Axes, mark: Mark, colour: str, shape: str) -> None:
    x, hollow = float(str(mark.x)), mark.series == PAPER
    y = mark.paper if hollow else mark.ours
    assert y is not None
    if mark.x_low is not None and mark.x_high is not None:
        axes.hlines(y, mark.x_low, mark.x_high, color=colour, linewidth=0.8)
    style.error_bar(axes, x, y, mark.interval, colour)
    axes.plot(x, y, shape, markersize=6, color=colour, zorder=3, **(HOLLOW if hollow else {}))


def _arrow(axes: Axes, marks: list[Mark], runs: dict[str, str]) -> None:
    """From base to GRACE, where both are there."""
    ends = []
    for row in ("base", "grace"):
        found = [one for one in marks if one.run == runs.get(row) and one.drawn]
        if not found:
            return
        ends.append((found[0].x, found[0].paper if found[0].ours is None else found[0].ours))
    dashed = marks[0].series == PAPER
    arrow = {
        "arrowstyle": "-|>", "color": style.MUTED, "linewidth": 0.9, "shrinkA": 5, "shrinkB": 5,
        "linestyle": (0, (3, 2)) if dashed else "-",
    }  # fmt: skip
    axes.annotate("", xy=ends[1], xytext=ends[0], arrowprops=arrow, zorder=1)


def _legend(figure: Figure, marks: list[Mark], looks: dict[str, tuple[str, str]]) -> None:
    shown = set(names([one for one in marks if one.drawn], "run"))
    handles = [
        Line2D([], [], linestyle="", marker=shape, color=colour, markersize=5.5, label=run)
        for run, (colour, shape) in looks.items()
        if run in shown
    ]
    if among(marks, series=PAPER):
        handles.append(Line2D([], [], linestyle="", marker="o", color=style.MUTED, label="hollow: the paper", **HOLLOW))
    style.legend(figure, handles)
