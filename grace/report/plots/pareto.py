"""Embeddings against generation for each model and mode, in the manner of figure 1, and the models that none beats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from grace.paper.finding import listed
from grace.report.plots import style
from grace.report.plots.marks import Mark, Results, among, label, names
from grace.report.scoring.tradeoff import EMBEDDING, GENERAL_CHANGE, PERPLEXITY_CHANGE, WRITING, Trade

PANEL = "generation against embedding"
MEAN = "mean"  # series of the means over seeds
KEPT = 0.9  # of rationales that are well formed, below which a run is named
LINEAR = 5.0  # percent of perplexity up to which its axis is linear; beyond, logarithmic
FILLS: dict[str, dict[str, Any]] = {"direct": {"markerfacecolor": "white", "markeredgewidth": 1.2}, "reasoning": {}}
Look = tuple[str, str]  # colour and shape


def trade(results: Results) -> Trade:
    """What the figure's results say, without what the models took."""
    spec = results.spec
    return Trade(spec.points, spec.tasks, results.models, results.general, {})


def generation(found: Trade) -> str:
    """The measure of generation: perplexity where the study has one, else the general average."""
    return PERPLEXITY_CHANGE if found.has_perplexity else GENERAL_CHANGE


def marks(results: Results) -> list[Mark]:
    """The means over seeds, then each seed; x is the change of generation in percent or in points, `ours` the embedding
    mean in percent, y the mode. The note says where a model has lost the format of its rationales."""
    found = trade(results)
    return [*_marks(found, MEAN, None), *(one for seed in _seeds(found) for one in _marks(found, f"seed {seed}", seed))]


def _seeds(found: Trade) -> list[int]:
    every = {seed.seed for seeds in found.embedding.values() for seed in seeds}
    return sorted(every) if len(every) > 1 else []


def _marks(found: Trade, series: str, seed: int | None) -> Iterator[Mark]:
    for backbone in found.backbones:
        for point in found.points:
            planned = found.planned(backbone, point.run)
            if not planned or (seed is not None and seed not in planned):
                continue
            wanted = planned if seed is None else [seed]
            one = Mark(panel=PANEL, series=series, backbone=backbone, run=point.run, y=found.mode(point.run))
            yield _placed(one, found, wanted)


def _placed(mark: Mark, found: Trade, seeds: list[int]) -> Mark:
    backbone, run = str(mark.backbone), str(mark.run)
    y, x, kept = (found.value(name, backbone, run, seeds) for name in (EMBEDDING, generation(found), WRITING))
    notes = [problem.text for one in (x, y) if one for problem in one.problems]
    missing = [f"no {name}" for name, one in (("embedding mean", y), ("measure of generation", x)) if one is None]
    notes = [*missing, *dict.fromkeys(notes)]
    if kept and kept.point < KEPT:
        notes.append(f"only {100 * kept.point:.0f} % of its rationales are well formed")
    mark = replace(mark, note="; ".join(notes) or None)
    if x is None or y is None:
        return mark
    low, high = y.interval or (None, None)
    x_low, x_high = x.interval or (None, None)
    return replace(
        mark, x=100 * x.point, x_low=_percent(x_low), x_high=_percent(x_high), ours=100 * y.point, low=_percent(low),
        high=_percent(high), seeds=y.seeds, seed_sd=_percent(y.deviation),
        source=";".join(dict.fromkeys([*y.sources, *x.sources])),
    )  # fmt: skip


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def front(points: list[tuple[float, float]]) -> list[int]:
    """Places of the points (x, y) that no other has both an x and a y of, the larger the better, at least one of them
    larger; by x, falling."""
    order = sorted(range(len(points)), key=lambda place: points[place], reverse=True)
    best, found = float("-inf"), []
    for place in order:
        if points[place][1] > best:
            best = points[place][1]
            found.append(place)
    return found


def notes(results: Results, marks: list[Mark]) -> list[str]:
    """What a reader of the figure must know."""
    said = [
        "Large marks: means; small ones: single seeds." if _seeds(trade(results)) else "One seed.",
        "A mode changes no generation.",
        "Grey line: the Pareto front of the means.",
    ]
    found = trade(results)
    lost = names([one for one in among(marks, series=MEAN) if "well formed" in (one.note or "")], "run")
    if lost:
        runs = listed(dict.fromkeys(map(found.of, lost)))
        said.append(f"Of {runs} fewer than {100 * KEPT:.0f} % of the rationales are well formed.")
    return said


def draw(results: Results, marks: list[Mark]) -> Figure:
    """A panel for each backbone; colour is the run, shape the mode."""
    found, backbones = trade(results), results.backbones
    figure, axes = style.tiled(len(backbones), 4.2 if len(backbones) == 1 else 2.8, sharex=True, sharey=True)
    runs = list(dict.fromkeys(found.of(point.run) for point in found.points))
    looks = dict(zip(runs, zip(style.colours(runs).values(), style.markers(runs).values(), strict=True), strict=True))
    lower = generation(found) == PERPLEXITY_CHANGE
    for one, backbone in zip([one for row in axes for one in row], backbones, strict=False):
        own = [mark for mark in among(marks, backbone=backbone) if mark.drawn]
        one.set_title(label(backbone), loc="left")
        _axis(one, own, lower)
        _front(one, among(own, series=MEAN), lower)
        for mark in own:
            _point(one, mark, looks[found.of(str(mark.run))])
        if not own:
            one.text(0.5, 0.5, "no result", transform=one.transAxes, ha="center", color=style.MUTED)
    said = "perplexity against the untrained backbone's (%), better to the right"
    for one in axes[-1]:
        one.set_xlabel(said if lower else "change of the general average (points)")
    for row in axes:
        row[0].set_ylabel(f"embedding score:\nmean over {len(results.spec.tasks)} tasks (%)")
    shown = {found.of(run) for run in names([mark for mark in marks if mark.drawn], "run")}
    _legend(figure, {run: look for run, look in looks.items() if run in shown})
    return figure


def _axis(axes: Axes, marks: list[Mark], lower: bool) -> None:
    axes.margins(0.08)
    if not lower:
        return
    most = max((float(str(mark.x)) for mark in marks), default=0.0)
    if most > 4 * LINEAR:
        axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.5)
        ticks = [tick for tick in (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if tick < 1.3 * most]
        axes.set_xticks(ticks, [f"+{tick}" if tick else "0" for tick in ticks])
        axes.minorticks_off()
    if not axes.xaxis_inverted():
        axes.invert_xaxis()


def _front(axes: Axes, marks: list[Mark], lower: bool) -> None:
    places = [(-float(str(mark.x)) if lower else float(str(mark.x)), float(mark.ours or 0)) for mark in marks]
    chosen = [marks[place] for place in front(places)]
    xs, ys = [float(str(mark.x)) for mark in chosen], [float(mark.ours or 0) for mark in chosen]
    axes.step(xs, ys, where="post", color=style.MUTED, linewidth=0.9, zorder=1)


def _point(axes: Axes, mark: Mark, look: Look) -> None:
    (colour, shape), x, y = look, float(str(mark.x)), float(mark.ours or 0)
    if mark.series != MEAN:
        axes.plot(x, y, shape, markersize=2.2, color=colour, alpha=0.6, zorder=2)
        return
    style.error_bar(axes, x, y, mark.interval, colour)
    if mark.x_low is not None and mark.x_high is not None:
        axes.hlines(y, mark.x_low, mark.x_high, color=colour, linewidth=0.8)
    axes.plot(x, y, shape, markersize=6, color=colour, zorder=3, **FILLS[str(mark.y)])


def _legend(figure: Figure, looks: dict[str, Look]) -> None:
    handles = [
        Line2D([], [], linestyle="", marker=shape, color=colour, markersize=5.5, label=run)
        for run, (colour, shape) in looks.items()
    ]
    handles += [
        Line2D(
            [], [], linestyle="", marker="o", color=style.MUTED, markersize=5.5, label=f"embeds {how}", **FILLS[mode]
        )
        for mode, how in (("direct", "directly"), ("reasoning", "after a rationale"))
    ]
    style.legend(figure, handles)
