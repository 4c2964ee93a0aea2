"""The figures of trade-offs: embeddings against generation, and against time."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from grace.config import tasks
from grace.paper import numbers
from grace.paper.checks import listed
from grace.report.plots import style
from grace.report.plots.marks import PAPER, PARTS, Mark, Plot, TimedSystem, among, drawn, label, measured, names
from grace.report.plots.style import Look
from grace.report.scoring.results import WELL_FORMED
from grace.report.scoring.scores import Estimate, estimate
from grace.report.scoring.tradeoff import EMBEDDING, GENERAL_CHANGE, PERPLEXITY_CHANGE, WRITING, Trade

# Row of table 1 -> row of table 5; without training the model is that of base.
GENERAL_ROWS = {"base": "base", "reasoning": "base", "cl": "cl", "grace": "grace_sup"}
GENERATIVE = {
    **{task: printed for printed, task in numbers.GENERAL.items()},
    "docstring_choice": "multiple choice accuracy",
    WELL_FORMED: "well-formed rate",
}
HOLLOW: Look = {"markerfacecolor": "none", "markeredgewidth": 1.1}
FILLS: dict[str, Look] = {"direct": {"markerfacecolor": "white", "markeredgewidth": 1.2}, "reasoning": {}}
COLOURS = dict(zip(PARTS, ("#0d2c54", "#E69F00", "#56B4E9"), strict=True))  # of the parts of a time


def intervals(axes: Axes, mark: Mark, colour: str) -> None:
    """Thin lines: the intervals of a mark in both directions, where it has them."""
    x, y = mark.xy
    if mark.x_low is not None and mark.x_high is not None:
        axes.hlines(y, mark.x_low, mark.x_high, color=colour, linewidth=0.8)
    style.error_bar(axes, x, y, mark.interval, colour)


def embeddings_by_backbone(
    plot: Plot, marks: list[Mark], heights: tuple[float, float]
) -> tuple[Figure, np.ndarray, list[tuple[Axes, list[Mark]]]]:
    """A panel of the embedding score for each backbone, all with the same axes, with the marks that are drawn there.

    Args:
        heights: of a row in inches, with one backbone and with several.
    """
    several = len(plot.backbones) > 1
    figure, axes = style.tiled(len(plot.backbones), heights[several], sharex=True, sharey=True)
    panels = []
    for one, backbone in zip(axes.flat, plot.backbones, strict=False):
        panels.append((one, drawn(among(marks, backbone=backbone))))
        one.set_title(label(backbone), loc="left")
        if not panels[-1][1]:
            one.text(0.5, 0.5, "no result", transform=one.transAxes, ha="center", color=style.MUTED)
    style.labels(axes, y=f"embedding score:\nmean over {len(plot.spec.tasks)} tasks (%)")
    return figure, axes, panels


class Scatter(Plot):
    """Generative score against embedding score (figure 1): our runs, and the points that the paper prints."""

    PANEL = "generation against embedding"
    LINE = 50  # characters of a label that stand below half of the figure

    @cached_property
    def generative(self) -> list[str]:
        """Tasks of the generative score: the paper's six where the results hold them all, else those that they hold."""
        held = {name for seeds in self.general.values() for one in seeds for name in one.scores}
        six = list(numbers.GENERAL.values())
        return six if set(six) <= held else [name for name in GENERATIVE if name in held]

    @property
    def comparable(self) -> bool:
        """Whether both scores are of the paper's tasks, and of all their items."""
        whole = {name for every in tasks.MTEB.values() for name in every.split()}
        limited = self.models.samples or any(one.limited for seeds in self.general.values() for one in seeds)
        same = set(self.spec.tasks) == whole and set(self.generative) == {*numbers.GENERAL.values()}
        return same and not limited

    def marks(self) -> list[Mark]:
        """Ours, then the paper's; x is the generative score in percent, `ours` or `paper` that of the embeddings."""
        return [*self._ours(), *(self._papers() if self.comparable else ())]

    def _ours(self) -> Iterator[Mark]:
        for backbone in self.backbones:
            for run in self.spec.figure.rows:
                if (backbone, run) not in self.models:
                    continue
                mark = self.scored(Mark(panel=self.PANEL, series=run, backbone=backbone, run=run))
                seeds = self.general.get((backbone, run), [])
                found = estimate(seeds, dict.fromkeys(self.generative, 1.0))
                reason = measured(mark, found, seeds, self.generative).note
                yield mark.with_x(found) if found else replace(mark, note=f"generative score: {reason}")

    def _papers(self) -> Iterator[Mark]:
        """The paper's points on our axes: its mean over the 56 data sets, from the categories that it prints."""
        for backbone in self.backbones:
            for run, row in self.spec.figure.rows.items():
                scores = {c: numbers.printed("table1", backbone, str(row), c) for c in tasks.CATEGORIES}
                x = numbers.printed("table5", backbone, GENERAL_ROWS.get(str(row), ""), "Avg")
                known = {c: score for c, score in scores.items() if score is not None}
                if x is None or len(known) < len(scores):
                    continue
                printed = numbers.printed("table1", backbone, str(row), "Avg")
                note = f"mean over 56 data sets; the printed Avg, {printed}, counts Summarization ten times"
                value = numbers.average(known, numbers.COUNTS)
                yield Mark(panel=self.PANEL, series=PAPER, backbone=backbone, run=run, x=x, paper=value, note=note)

    def notes(self, marks: list[Mark]) -> list[str]:
        notes = ["Arrows lead from base to the paper's GRACE. Runs without training share one generative score."]
        if among(marks, series=PAPER):
            notes.append("Hollow: the paper, its mean over the 56 data sets taken from the categories that it prints.")
        elif set(self.backbones) & set(numbers.BACKBONES):
            notes.append("The paper's points are left out: they are of other tasks or of more items than ours.")
        return notes

    def draw(self, marks: list[Mark]) -> Figure:
        """Colour and shape are the run."""
        figure, axes, panels = embeddings_by_backbone(self, marks, (3.6, 2.4))
        rows = self.spec.figure.rows
        looks = style.looks(rows, linestyle="")
        for one, own in panels:
            for mark in own:
                look = looks[str(mark.run)]
                intervals(one, mark, look["color"])
                one.plot(*mark.xy, markersize=6, zorder=3, **look, **(HOLLOW if mark.series == PAPER else {}))
            for papers in (True, False):
                some = {rows[str(mark.run)]: mark.xy for mark in own if (mark.series == PAPER) is papers}
                if "base" in some and "grace" in some:
                    dashes = (0, (3, 2)) if papers else "-"
                    arrow = {"arrowstyle": "-|>", "color": style.MUTED, "linewidth": 0.9, "linestyle": dashes}
                    arrow |= {"shrinkA": 5, "shrinkB": 5}
                    one.annotate("", xy=some["grace"], xytext=some["base"], arrowprops=arrow, zorder=1)
            one.margins(0.1)
        used = [GENERATIVE[name] for name in self.generative]
        text = f"generative score: mean of {listed(used)} (%)" if used else "generative score (no result)"
        style.labels(axes, x=textwrap.fill(text, self.LINE * (1 if len(panels) > 1 else 2)))
        shown = set(names(drawn(marks), "run"))
        handles = [style.handle(run, markersize=5.5, **look) for run, look in looks.items() if run in shown]
        if among(marks, series=PAPER):
            look = {"linestyle": "", "marker": "o", "color": style.MUTED, **HOLLOW}
            handles.append(style.handle("hollow: the paper", **look))
        style.legend(figure, handles)
        return figure


class Pareto(Plot):
    """Embeddings against generation for each model and mode, like figure 1, and the models that none beats."""

    PANEL = "generation against embedding"
    MEAN = "mean"  # series of the means over seeds
    FORMED = 0.9  # share of well-formed rationales below which a run is named
    LINEAR = 5.0  # percent of perplexity up to which its axis is linear; beyond, logarithmic
    TICKS = (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)

    @cached_property
    def trade(self) -> Trade:
        """What the figure's results say, without what the models took."""
        return Trade(self.spec.points, self.spec.tasks, self.models, self.general, {})

    @property
    def generation(self) -> str:
        """The measure of generation: perplexity where the study has one, else the general average."""
        return PERPLEXITY_CHANGE if self.trade.has_perplexity else GENERAL_CHANGE

    @property
    def seeds(self) -> list[int]:
        """Empty where there is one only."""
        every = {seed.seed for seeds in self.models.values() for seed in seeds}
        return sorted(every) if len(every) > 1 else []

    def marks(self) -> list[Mark]:
        """The means over seeds, then each seed; x is the change of generation in percent or in points, `ours` the
        embedding mean in percent, y the mode. The note says where a model has lost the format of its rationales."""
        found = []
        for seed in (None, *self.seeds):
            series = self.MEAN if seed is None else f"seed {seed}"
            for backbone in self.trade.backbones:
                for point in self.trade.points:
                    planned = self.trade.planned(backbone, point.run)
                    wanted = planned if seed is None else [one for one in planned if one == seed]
                    mode = self.trade.mode(point.run)
                    if wanted:
                        mark = Mark(panel=self.PANEL, series=series, backbone=backbone, run=point.run, y=mode)
                        found.append(self._measured(mark, wanted))
        return found

    def _measured(self, mark: Mark, seeds: list[int]) -> Mark:
        def value(measure: str) -> Estimate | None:
            return self.trade.value(measure, str(mark.backbone), str(mark.run), seeds)

        y, x, formed = value(EMBEDDING), value(self.generation), value(WRITING)
        notes = [f"no {name}" for name, one in (("embedding mean", y), ("measure of generation", x)) if one is None]
        notes += dict.fromkeys(problem.text for one in (x, y) if one for problem in one.problems)
        if formed and formed.point < self.FORMED:
            notes.append(f"only {100 * formed.point:.0f} % of its rationales are well formed")
        mark = replace(mark, note="; ".join(notes) or None)
        return mark.with_value(y, 100).with_x(x, 100) if x and y else mark

    def notes(self, marks: list[Mark]) -> list[str]:
        notes = [
            "Large marks: means; small ones: single seeds." if self.seeds else "One seed.",
            "A mode changes no generation.",
            "Grey line: the Pareto front of the means.",
        ]
        lost = [str(one.run) for one in among(marks, series=self.MEAN) if "well formed" in (one.note or "")]
        if lost:
            runs = listed(dict.fromkeys(map(self.trade.of, lost)))
            notes.append(f"Of {runs} fewer than {100 * self.FORMED:.0f} % of the rationales are well formed.")
        return notes

    def draw(self, marks: list[Mark]) -> Figure:
        """Colour is the run, fill the mode."""
        figure, axes, panels = embeddings_by_backbone(self, marks, (4.2, 2.8))
        looks = style.looks((self.trade.of(point.run) for point in self.trade.points), linestyle="")
        lower = self.generation == PERPLEXITY_CHANGE
        for one, own in panels:
            one.margins(0.08)
            if lower:
                self._perplexities(one, own)
            means = among(own, series=self.MEAN)
            best = front([(-mark.xy[0] if lower else mark.xy[0], mark.value) for mark in means])
            xs, ys = [means[place].xy[0] for place in best], [means[place].value for place in best]
            one.step(xs, ys, where="post", color=style.MUTED, linewidth=0.9, zorder=1)
            for mark in own:
                look = looks[self.trade.of(str(mark.run))]
                if mark.series == self.MEAN:
                    intervals(one, mark, look["color"])
                    one.plot(*mark.xy, markersize=6, zorder=3, **look, **FILLS[str(mark.y)])
                else:
                    one.plot(*mark.xy, markersize=2.2, alpha=0.6, zorder=2, **look)
        text = "perplexity against the untrained backbone's (%), better to the right"
        style.labels(axes, x=text if lower else "change of the general average (points)")
        shown = {self.trade.of(run) for run in names(drawn(marks), "run")}
        handles = [style.handle(run, markersize=5.5, **look) for run, look in looks.items() if run in shown]
        for mode, how in (("direct", "directly"), ("reasoning", "after a rationale")):
            look = {"linestyle": "", "marker": "o", "color": style.MUTED, "markersize": 5.5, **FILLS[mode]}
            handles.append(style.handle(f"embeds {how}", **look))
        style.legend(figure, handles)
        return figure

    def _perplexities(self, axes: Axes, marks: list[Mark]) -> None:
        """The axis of what is better when lower."""
        most = max((mark.xy[0] for mark in marks), default=0.0)
        if most > 4 * self.LINEAR:
            axes.set_xscale("symlog", linthresh=self.LINEAR, linscale=1.5)
            ticks = [tick for tick in self.TICKS if tick < 1.3 * most]
            axes.set_xticks(ticks, [f"+{tick}" if tick else "0" for tick in ticks])
            axes.minorticks_off()
        if not axes.xaxis_inverted():  # the panels share it
            axes.invert_xaxis()


def front(points: list[tuple[float, float]]) -> list[int]:
    """Places of the points (x, y) that no other beats: that is at least as large in both, and larger in one.

    They come by falling x.
    """
    best, found = float("-inf"), []
    for place in sorted(range(len(points)), key=lambda place: points[place], reverse=True):
        if points[place][1] > best:
            best = points[place][1]
            found.append(place)
    return found


class Latency(Plot):
    """Efficiency (figure 4): time per text by its parts, and the score against that time, one row for each backbone."""

    TIME, SCORE = "time per text", "score against time"
    DIRECT, BASE = "direct", "base"  # the system that embeds without a rationale, and its run
    TICKS = ((300, (1.0,)), (10, (1.0, 3.0)), (1, (1.0, 2.0, 5.0)))  # factor that an axis spans -> digits at its ticks

    def marks(self) -> list[Mark]:
        """Times in seconds: `ours` is the median, low and high the 10th and 90th percentile; then scores against
        them."""
        found = []
        for backbone in self.backbones:
            for system in self.times.systems.get(backbone, []):
                mark = Mark(panel=self.TIME, series=self._series(system), backbone=backbone, run=self._run(system))
                note, source = "median, 10th and 90th percentile in seconds", self.spec.latency[backbone]
                mark = replace(mark, note=note, source=source)
                for part, (low, median, high) in system.parts.items():
                    found.append(replace(mark, x=part, ours=median, low=low, high=high))
        return [*found, *(mark for backbone in self.backbones for mark in self._scores(backbone))]

    def _series(self, system: TimedSystem) -> str:
        name = "encoder only" if system.name == "encoder" else system.name
        return name if system.budget is None else f"{name}, {system.budget} tokens"

    def _run(self, system: TimedSystem) -> str:
        return self.BASE if system.name == self.DIRECT else system.name

    def _scores(self, backbone: str) -> Iterator[Mark]:
        """The score of each timed system: that of the run with its budget."""
        runs = {
            (point.of, point.at["max_new_tokens"]): point.run
            for name, point in self.points("max_new_tokens")
            if name == backbone
        }
        systems = self.times.systems.get(backbone, [])
        for system in systems:
            run = self._run(system) if system.budget is None else runs.get((system.name, system.budget))
            low, median, high = system.parts["total"]
            mark = Mark(panel=self.SCORE, series=self._series(system), backbone=backbone, run=run, x=median)
            mark = replace(mark, x_low=low, x_high=high)
            if run is None:
                note = f"not evaluated with {system.budget} tokens in this study"
                yield replace(mark, run=system.name, planned=False, note=note)
            else:
                yield self.scored(mark)
        if not systems:
            yield Mark(panel=self.TIME, series="all systems", backbone=backbone, note="no time measured")

    def notes(self, marks: list[Mark]) -> list[str]:
        notes = [
            "Left: bars are medians of the parts, which need not add up to the median of the total (tick, with the "
            "number); whiskers lead from its 10th to its 90th percentile. Right: vertical lines are 95 % intervals of "
            "the score, horizontal ones the same percentiles; numbers are the most tokens of a rationale."
        ]
        if unknown := [one.series for one in among(marks, panel=self.SCORE) if not one.planned and one.run]:
            notes.append(f"Not evaluated in this study: {', '.join(dict.fromkeys(unknown))}.")
        return notes

    def draw(self, marks: list[Mark]) -> Figure:
        """Bars on the left, points on the right."""
        backbones, times, scores = self.backbones, among(marks, panel=self.TIME), among(marks, panel=self.SCORE)
        bars = max(len(names(among(times, backbone=one), "series")) for one in backbones)
        height = 0.3 + len(backbones) * max(1.9, 0.75 + 0.24 * bars)
        figure, axes = style.canvas(height, len(backbones), 2, width_ratios=[1.15, 1])
        # Direct embeddings are drawn as those of base.
        runs = {self.BASE if name == self.DIRECT else name: name for name in map(_system, drawn(scores))}
        colours = {runs[run]: look["color"] for run, look in style.looks(runs).items()}
        for (left, right), backbone in zip(axes, backbones, strict=True):
            left.set_title(label(backbone), loc="left")
            for one, some, draw in ((left, times, self._bars), (right, scores, self._points)):
                if own := drawn(among(some, backbone=backbone)):
                    draw(one, own, colours)
                else:
                    style.nothing(one)
        axes[-1, 0].set_xlabel("seconds per text")
        axes[-1, 1].set_xlabel("median time per text")
        handles: list[Any] = [Patch(facecolor=colour, label=part) for part, colour in COLOURS.items()]
        style.legend(figure, handles + [style.handle(name, marker="o", color=c) for name, c in colours.items()])
        return figure

    def _bars(self, axes: Axes, marks: list[Mark], colours: dict[str, str]) -> None:
        systems = names(marks, "series")
        for place, system in enumerate(systems):
            parts = {one.x: one for one in among(marks, series=system)}
            start = 0.0
            for part, colour in COLOURS.items():
                width = parts[part].ours or 0.0
                axes.barh(place, width, left=start, height=0.62, color=colour, edgecolor="white", linewidth=0.3)
                start += width
            total = parts["total"]
            assert total.ours is not None and total.low is not None and total.high is not None
            axes.hlines(place, total.low, total.high, color=style.INK, linewidth=0.9)
            axes.vlines(total.ours, place - 0.2, place + 0.2, color=style.INK, linewidth=0.9)
            beside: Look = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
            axes.annotate(seconds(total.ours), (max(start, total.high), place), **beside)
        axes.set_yticks(range(len(systems)), systems)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.margins(x=0.14)
        axes.set_xlim(left=0)

    def _points(self, axes: Axes, marks: list[Mark], colours: dict[str, str]) -> None:
        for name in dict.fromkeys(map(_system, marks)):
            colour, line = colours[name], sorted((one for one in marks if _system(one) == name), key=lambda one: one.xy)
            axes.plot([one.xy[0] for one in line], [one.value for one in line], "o-", color=colour)
            for number, one in enumerate(line):
                intervals(axes, one, colour)
                if len(line) > 1:  # its budget: left of the first point of the line, else right
                    budget = one.series.removeprefix(f"{name}, ").removesuffix(" tokens")
                    beside: Look = {"xytext": (5, 2), "ha": "left"} if number else {"xytext": (-5, 2), "ha": "right"}
                    beside |= {"textcoords": "offset points", "fontsize": 7, "va": "bottom"}
                    axes.annotate(budget, one.xy, color=colour, **beside)
        axes.set_xscale("log")
        axes.margins(x=0.14, y=0.2)
        low, high = axes.get_xlim()
        ticks = next(digits for factor, digits in self.TICKS if high / low >= factor)
        axes.xaxis.set_major_locator(LogLocator(subs=ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("score (%)")


def _system(mark: Mark) -> str:
    return mark.series.split(",")[0]


def seconds(value: float) -> str:
    """A time with two or three digits."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
