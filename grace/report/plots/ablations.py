"""The figures of ablations: a score over what they vary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from grace.config.section import UserError
from grace.paper import numbers
from grace.report.plots import style
from grace.report.plots.marks import PAPER, Mark, Plot, among, drawn, label, measured, names
from grace.report.plots.style import Look
from grace.report.scoring.scores import difference, tokens

SETTINGS = {
    "lambda1": "λ₁",
    "lambda2": "λ₂",
    "batch": "instances of a batch",
    "rollouts": "rollouts for an instance",
    "max_new_tokens": "most tokens of a rationale",
    "layer": "blocks of the backbone",
}
# Of the heat map: the paper's grids and the two settings that they are of.
PRINTED, PRINTED_SETTINGS = ("supervised", "unsupervised"), ("lambda1", "lambda2")
BEST, INSIDE, OUTSIDE = "best", "not separable from the best", "separable from the best"
FRAMES: dict[str, Look] = {BEST: {"linewidth": 1.6}, INSIDE: {"linewidth": 0.9, "linestyle": (0, (2, 1.5))}}
NO_VALUE: Look = {"fill": False, "hatch": "////", "linewidth": 0, "edgecolor": style.FAINT}
CELL = 0.37  # inches
# Its darkest part is left out: a number can be read on every colour.
COLOURS = ListedColormap(colormaps["YlGnBu"](np.linspace(0.03, 0.62, 256)))


class Bars(Plot):
    """A score as bars (figure 6): a panel for each run, a group for each backbone, a bar for each point."""

    WIDTH = 0.8  # of a group
    NUMBERED = 20  # bars of a panel that still have room for their numbers

    def marks(self) -> list[Mark]:
        """x is the point, the series too; the panel is the run that the points are of."""
        found = []
        for backbone, point in self.points():
            series = ", ".join(str(value) for value in point.at.values())
            found.append(self.scored(Mark(panel=point.of, series=series, backbone=backbone, run=point.run, x=series)))
        return found

    def notes(self, marks: list[Mark]) -> list[str]:
        return ["Bars start at zero. Lines are 95 % intervals."]

    def draw(self, marks: list[Mark]) -> Figure:
        panels, series = names(marks, "panel"), names(marks, "series")
        if len(names(marks, "backbone")) == 1:
            figure, axes = style.tiled(len(panels), 2.3, sharey=True)
        else:
            figure, axes = style.canvas(0.35 + 1.75 * len(panels), len(panels), sharey=True)
        colours = dict(zip(series, cycle(style.LEVELS), strict=False))
        for one, panel in zip(axes.flat, panels, strict=False):
            one.set_title(panel, loc="left")
            own = among(marks, panel=panel)
            if drawn(own):
                self._panel(one, own, colours)
            else:
                style.nothing(one)
        highest = max(mark.ours if mark.high is None else mark.high for mark in marks if mark.ours is not None)
        axes[0, 0].set_ylim(0, 1.16 * highest)
        style.labels(axes, y=self.score_label)
        handles = [Patch(facecolor=colours[name], edgecolor=style.INK, linewidth=0.5, label=name) for name in series]
        style.legend(figure, handles)
        return figure

    def _panel(self, axes: Axes, marks: list[Mark], colours: dict[str, str]) -> None:
        backbones, series = names(marks, "backbone"), list(colours)
        width = self.WIDTH / len(series)
        text: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 7}
        for mark in marks:
            x = backbones.index(mark.backbone) + width * (series.index(mark.series) - (len(series) - 1) / 2)
            if mark.ours is None:
                axes.annotate("no result", (x, 0), (0, 3), rotation=90, color=style.MUTED, **text)
                continue
            colour = colours[mark.series]
            axes.bar(x, mark.ours, width * 0.92, color=colour, edgecolor=style.INK, linewidth=0.5)
            style.error_bar(axes, x, mark.ours, mark.interval, style.INK)
            if len(backbones) * len(series) <= self.NUMBERED:
                top = mark.high if mark.high is not None else mark.ours
                axes.annotate(f"{mark.ours:.1f}", (x, top), (0, 2), **text)
        axes.set_xticks(range(len(backbones)), [label(name) for name in backbones])
        axes.set_xlim(-0.5, len(backbones) - 0.5)
        axes.tick_params(axis="x", length=0)
        axes.grid(False, axis="x")


class Lines(Plot):
    """A score against one setting (figure 7): a panel for each ablation and backbone, a line for each run."""

    LOGARITHMIC = 8  # of numbers that span at least this factor the axis is logarithmic
    APART = 0.012  # of the axis, between the lines of a panel, so that intervals do not cover one another

    def marks(self) -> list[Mark]:
        """x is what the ablation varies first, a number where it is one; the series says the run and all else."""
        found = []
        for backbone, point in self.points():
            first, *others = point.at.items()
            series = ", ".join([point.of, *(f"{key} {value}" for key, value in others)])
            mark = Mark(panel=point.ablation, series=series, backbone=backbone, run=point.run, x=_number(first[1]))
            found.append(self.scored(mark))
        return found

    def notes(self, marks: list[Mark]) -> list[str]:
        notes = ["Vertical lines are 95 % intervals."]
        if len(names(marks, "series")) > 1:
            notes.append("Runs are moved a little sideways, so that one does not cover another.")
        return notes

    def draw(self, marks: list[Mark]) -> Figure:
        """The panels in two columns; the runs of a backbone in one of them."""
        panels = list(dict.fromkeys((mark.backbone, mark.panel) for mark in marks))
        figure, axes = style.tiled(len(panels), 2.3, sharey=True)
        looks = style.looks(names(marks, "series"), markersize=4.5)
        varied = {point.ablation: next(iter(point.at)) for point in self.spec.points}
        for one, (backbone, panel) in zip(axes.flat, panels, strict=False):
            own, setting = among(marks, backbone=backbone, panel=panel), SETTINGS.get(varied[panel], varied[panel])
            one.set_title(label(backbone), loc="left")
            one.set_xlabel(setting)
            if drawn(own):
                self._panel(one, own, looks)
            else:
                style.nothing(one, f"{setting}:\nno result")
        style.labels(axes, y=self.score_label)
        style.legend(figure, [style.handle(name, **look) for name, look in looks.items()])
        return figure

    def _panel(self, axes: Axes, marks: list[Mark], looks: dict[str, Look]) -> None:
        places = self._places(marks)
        axes.set_xticks(list(places.values()), [_text(x) for x in places])
        span, series = (max(places.values()) - min(places.values())) or 1.0, names(marks, "series")
        for number, name in enumerate(series):
            shift = self.APART * (number - (len(series) - 1) / 2) * span
            line = sorted(drawn(among(marks, series=name)), key=lambda mark: places[mark.x or 0.0])
            xs, ys = [places[mark.x or 0.0] + shift for mark in line], [mark.value for mark in line]
            axes.plot(xs, ys, **looks[name])
            for x, y, mark in zip(xs, ys, line, strict=True):
                style.error_bar(axes, x, y, mark.interval, looks[name]["color"])

    def _places(self, marks: list[Mark]) -> dict[float | str, float]:
        """The place of each x on the axis: its number, or its logarithm, or one after another."""
        values = list(dict.fromkeys(mark.x for mark in marks if mark.x is not None))
        numeric = [value for value in values if isinstance(value, float)]
        if len(numeric) < len(values):
            return {value: float(place) for place, value in enumerate(values)}
        if min(numeric) > 0 and max(numeric) / min(numeric) >= self.LOGARITHMIC:
            return {value: math.log2(value) for value in numeric}
        return {value: value for value in numeric}


def _number(value: object) -> float | str:
    """What names a point, as a number where it is one."""
    try:
        return float(str(value)) if math.isfinite(float(str(value))) else str(value)
    except ValueError:
        return str(value)


def _text(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else value


class Progression(Plot):
    """Score and length of the rationales during training (figure 5), one row for each backbone."""

    SCORE, LENGTH = "score", "rationale length"
    START = "reasoning"  # the run with the backbone's own rationales: step 0 of every training
    END = "end"  # where the number of the last step is not known

    def marks(self) -> list[Mark]:
        """x is the training step, or `end`; the length is in tokens, without an interval."""
        found = []
        for backbone, run in dict.fromkeys((name, point.of) for name, point in self.points("step")):
            steps: list[tuple[str, float | str]] = [(self.START, 0.0)]
            steps += [(at.run, float(at.at["step"])) for name, at in self.points() if (name, at.of) == (backbone, run)]
            end = self.spec.ends.get(run)
            for name, step in [*steps, (run, float(end) if end else self.END)]:
                place = Mark(panel=self.SCORE, series=run, backbone=backbone, run=name, x=step)
                seeds = self.models.get((backbone, name), [])
                found += [self.scored(place), measured(replace(place, panel=self.LENGTH), tokens(seeds), seeds, [])]
        return found

    def notes(self, marks: list[Mark]) -> list[str]:
        notes = ["Step 0 is the backbone with the rationale prompt. Bands are 95 % intervals; a length has none."]
        if among(marks, x=self.END):
            notes.append("The end of training has no number where the settings fix none; a dotted line leads to it.")
        return notes

    def draw(self, marks: list[Mark]) -> Figure:
        """Score on the left, length on the right."""
        backbones = names(marks, "backbone")
        figure, axes = style.canvas(0.35 + 2.05 * len(backbones), len(backbones), 2)
        looks = style.looks(names(marks, "series"))
        labels = {self.SCORE: self.score_label, self.LENGTH: "rationale length (tokens)"}
        for row, backbone in zip(axes, backbones, strict=True):
            own = among(marks, backbone=backbone)
            last = max([mark.x for mark in own if isinstance(mark.x, float)], default=0.0)
            for one, (panel, text) in zip(row, labels.items(), strict=True):
                shown = drawn(among(own, panel=panel))
                if not shown:
                    style.nothing(one)
                    continue
                for run in names(shown, "series"):
                    self._line(one, among(shown, series=run), last, looks[run])
                if among(shown, x=self.END):
                    ticks = [tick for tick in one.get_xticks() if 0 <= tick <= last]
                    one.set_xticks([*ticks, self._step(self.END, last)], [*(f"{tick:g}" for tick in ticks), self.END])
                one.set_ylabel(text)
            row[0].set_title(label(backbone), loc="left")
        style.labels(axes, x="training step")
        style.legend(figure, [style.handle(run, markersize=4, **look) for run, look in looks.items()])
        return figure

    @staticmethod
    def _step(x: float | str | None, last: float) -> float:
        """The x of a step; that of an end without number lies past the last step."""
        return x if isinstance(x, float) else (last or 1.0) * 1.15

    def _line(self, axes: Axes, marks: list[Mark], last: float, look: Look) -> None:
        line = sorted(marks, key=lambda mark: self._step(mark.x, last))
        xs, ys = [self._step(mark.x, last) for mark in line], [mark.value for mark in line]
        colour, known = look["color"], len(line) - len(among(line, x=self.END))
        axes.plot(xs[:known], ys[:known], color=colour, linestyle=look["linestyle"])
        if known < len(line):
            axes.plot(xs[-2:], ys[-2:], color=colour, linestyle=":")
        axes.plot(xs, ys, look["marker"], color=colour, markersize=3.8)
        if bands := [(x, *mark.interval) for x, mark in zip(xs, line, strict=True) if mark.interval]:
            steps, low, high = zip(*bands, strict=True)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


class Heatmap(Plot):
    """The score over two settings (figure 3): a grid of cells for each backbone and run, and the paper's grids."""

    @property
    def settings(self) -> tuple[str, str]:
        """The two settings: x and y. Raises: UserError for an ablation that does not vary two."""
        for point in self.spec.points:
            if len(point.at) != 2:
                raise UserError(
                    f"config: figures.{self.spec.name}.ablations: a figure of kind 'heatmap' shows two settings, and "
                    f"ablation {point.ablation!r} varies {len(point.at)}; name another."
                )
            x, y = point.at
            return x, y
        return PRINTED_SETTINGS

    def marks(self) -> list[Mark]:
        """Ours, then the paper's; x and y are the two settings, the note compares a cell with the best of its panel."""
        found = []
        for backbone, point in self.points(*self.settings):
            x, y = (_number(point.at[key]) for key in self.settings)
            panel = f"{point.of}, {label(backbone)}"
            found.append(self.scored(Mark(panel=panel, series=point.of, backbone=backbone, run=point.run, x=x, y=y)))
        ours = [mark for panel in names(found, "panel") for mark in self._compared(among(found, panel=panel))]
        return [*ours, *(self._papers() if self.settings == PRINTED_SETTINGS or not found else ())]

    def _compared(self, cells: list[Mark]) -> Iterator[Mark]:
        """The cells of a panel, each compared with the best by the interval of the paired difference."""
        best = max((one for one in cells if one.ours is not None), key=lambda one: one.ours or 0, default=None)
        top = self.score(best) if best else None
        for one in cells:
            ours = self.score(one)
            if ours is None or top is None:
                yield one
                continue
            _, interval = difference(ours, top)
            verdict = None if interval is None else INSIDE if interval[0] <= 0 <= interval[1] else OUTSIDE
            yield replace(one, note="; ".join(filter(None, [BEST if one is best else verdict, one.note])) or None)

    def _papers(self) -> Iterator[Mark]:
        rows = {kind: numbers.rows("figure3", kind) for kind in PRINTED}
        columns = [f"{step / 10:.1f}" for step in range(11)]
        for kind in PRINTED:
            printed = {(row, x): numbers.printed("figure3", kind, row, x) for row in rows[kind] for x in columns}
            steps = [x for x in columns if any(printed[row, x] is not None for row in rows[kind])]
            for row in sorted({f"{float(row):.1f}" for some in rows.values() for row in some}):
                for x in steps:
                    value = printed.get((row, x))
                    note = None if value is not None else "cannot be read with certainty in the paper's figure"
                    mark = Mark(panel=f"the paper, {kind}", series=PAPER, run=kind, x=float(x), y=float(row))
                    yield replace(mark, paper=value, note=note)

    def notes(self, marks: list[Mark]) -> list[str]:
        notes = ["Each panel has its own colours."]
        if self.settings == PRINTED_SETTINGS:
            notes.append("λ₁ weighs consistency, λ₂ the hard in-batch term.")
            notes.append("The paper prints no intervals and does not say on which backbone.")
        if any(one.left_out or (one.series == PAPER and one.paper is None) for one in marks):
            notes.append("Hatched: no value; in the paper's grids it cannot be read with certainty.")
        return notes

    def draw(self, marks: list[Mark]) -> Figure:
        """A row of panels for each backbone, and one of the paper's."""
        rows: dict[str, list[str]] = {}
        for panel in names(marks, "panel"):
            first = among(marks, panel=panel)[0]
            rows.setdefault(PAPER if first.series == PAPER else str(first.backbone), []).append(panel)
        sides = [max(len(names(among(marks, panel=panels[0]), "y")), 3) for panels in rows.values()]
        height = sum(side * CELL + 0.72 for side in sides) + 0.4
        figure, axes = style.canvas(height, len(rows), max(map(len, rows.values())), height_ratios=sides)
        for line, panels in zip(axes, rows.values(), strict=True):
            for one, panel in zip(line, panels, strict=False):
                self._panel(figure, one, among(marks, panel=panel))
                one.set_title(panel)
            for one in line[len(panels) :]:
                one.set_axis_off()
        frame = {"marker": "s", "linestyle": "", "color": style.INK, "markerfacecolor": "none", "markersize": 8}
        best = style.handle("best cell", markeredgewidth=FRAMES[BEST]["linewidth"], **frame)
        inside = Rectangle((0, 0), 1, 1, fill=False, edgecolor=style.INK, **FRAMES[INSIDE])
        inside.set_label("not separable from it: the 95 % interval of the paired difference holds 0")
        style.legend(figure, [best, inside, Patch(label="no value", **NO_VALUE)])
        return figure

    def _panel(self, figure: Figure, axes: Axes, marks: list[Mark]) -> None:
        xs, ys = (sorted(names(marks, axis), key=lambda value: (isinstance(value, str), value)) for axis in "xy")
        axes.set_xticks(range(len(xs)), map(_text, xs))
        axes.set_yticks(range(len(ys)), map(_text, ys))
        x, y = (SETTINGS.get(key, key) for key in self.settings)
        axes.set(xlabel=x, ylabel=y)
        axes.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        grid = np.full((len(ys), len(xs)), np.nan)
        for mark in drawn(marks):
            grid[ys.index(mark.y), xs.index(mark.x)] = mark.value
        for row, column in zip(*np.nonzero(np.isnan(grid)), strict=True):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **NO_VALUE))
        if not drawn(marks):
            return
        edges = [np.arange(len(some) + 1) - 0.5 for some in (xs, ys)]
        values = np.ma.masked_invalid(grid)
        image = axes.pcolormesh(*edges, values, cmap=COLOURS, edgecolors="white", linewidth=1)
        bar = figure.colorbar(image, ax=axes, aspect=24, pad=0.02)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=2, labelsize=6.5)
        best = max(among(drawn(marks), series=PAPER), key=lambda mark: mark.value, default=None)
        for mark in drawn(marks):
            column, row = xs.index(mark.x), ys.index(mark.y)
            axes.text(column, row, f"{mark.value:.1f}", ha="center", va="center", fontsize=7)
            verdict = BEST if mark is best else (mark.note or "").split(";")[0]
            if frame := FRAMES.get(verdict):
                place = (column - 0.42, row - 0.42)
                axes.add_patch(Rectangle(place, 0.84, 0.84, fill=False, edgecolor=style.INK, **frame))
