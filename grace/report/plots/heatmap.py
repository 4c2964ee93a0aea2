"""The score over two settings (figure 3): a grid of cells for each backbone and run, and the paper's grids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from grace.paper import numbers
from grace.report.plots import style
from grace.report.plots.marks import PAPER, Mark, Results, label, names
from grace.report.scoring.scores import difference
from grace.section import UserError

TABLE, PANELS = "figure3", ("supervised", "unsupervised")
PAPERS_KEYS = ("lambda1", "lambda2")  # what the paper's grids are of
AXES = {"lambda1": "λ₁", "lambda2": "λ₂"}
BEST, INSIDE, OUTSIDE = "best", "not separable from the best", "separable from the best"
CELL = 0.37  # inches
NOTHING: dict[str, Any] = {"fill": False, "hatch": "////", "linewidth": 0, "edgecolor": style.FAINT}


def marks(results: Results) -> list[Mark]:
    """Ours, then the paper's; x and y are the two settings, the note says how a cell stands to the best of its panel.

    Raises:
        UserError: for an ablation that does not vary two settings.
    """
    x, y = keys(results)
    found = []
    for backbone, point in results.points(*[key for key in (x, y) if key]):
        panel = f"{point.of}, {label(backbone)}"
        place = Mark(panel=panel, series=point.of, backbone=backbone, run=point.run)
        found.append(results.scored(replace(place, x=_number(point.at[x]), y=_number(point.at[y]))))
    ours = [mark for panel in names(found, "panel") for mark in _compared(results, found, panel)]
    return [*ours, *(_papers() if (x, y) == PAPERS_KEYS or not found else ())]


def keys(results: Results) -> tuple[str, str]:
    """The two settings: x and y."""
    for point in results.spec.points:
        if len(point.at) != 2:
            raise UserError(
                f"config: figures.{results.spec.name}.ablations: a figure of kind 'heatmap' shows two settings, and "
                f"ablation {point.ablation!r} varies {len(point.at)}; name another."
            )
        x, y = point.at
        return x, y
    return PAPERS_KEYS


def _number(value: object) -> float | str:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _compared(results: Results, marks: list[Mark], panel: str) -> Iterator[Mark]:
    """The cells of a panel, each with how it stands to the best: by the interval of the paired difference."""
    cells = [one for one in marks if one.panel == panel]
    scored = [one for one in cells if one.ours is not None]
    best = max(scored, key=lambda one: float(one.ours or 0), default=None)
    top = results.score(str(best.backbone), str(best.run)) if best else None
    for one in cells:
        ours = results.score(str(one.backbone), str(one.run))
        if ours is None or top is None:
            yield one
            continue
        _, interval = difference(ours, top)
        said = None if interval is None else INSIDE if interval[0] <= 0 <= interval[1] else OUTSIDE
        yield replace(one, note="; ".join(filter(None, [BEST if one is best else said, one.note])) or None)


def _papers() -> Iterator[Mark]:
    for kind in PANELS:
        rows = numbers.rows(TABLE, kind)
        steps = sorted({float(c) for r in rows for c in COLUMNS if numbers.printed(TABLE, kind, r, c) is not None})
        for y in sorted({float(row) for one in PANELS for row in numbers.rows(TABLE, one)}):
            for x in steps:
                value = numbers.printed(TABLE, kind, f"{y:.1f}", f"{x:.1f}")
                note = None if value is not None else "cannot be read with certainty in the paper's figure"
                yield Mark(panel=f"the paper, {kind}", series=PAPER, run=kind, x=x, y=y, paper=value, note=note)


COLUMNS = [f"{step / 10:.1f}" for step in range(11)]


def notes(results: Results, marks: list[Mark]) -> list[str]:
    """What a reader of the figure must know."""
    said = ["Each panel has its own colours."]
    if keys(results) == PAPERS_KEYS:
        said.append("λ₁ weighs consistency, λ₂ the hard in-batch term.")
        said.append("The paper prints no intervals and does not say on which backbone.")
    if any(one.left_out or (one.series == PAPER and one.paper is None) for one in marks):
        said.append("Hatched: no value; in the paper's grids it cannot be read with certainty.")
    return said


def draw(results: Results, marks: list[Mark]) -> Figure:
    """A row of panels for each backbone, and one of the paper's."""
    rows = [[panel for panel in names(marks, "panel") if _row(marks, panel) == row] for row in _rows(marks)]
    columns = max(map(len, rows))
    sides = [len(names([one for one in marks if one.panel == row[0]], "y")) for row in rows]
    height = sum(max(side, 3) * CELL + 0.72 for side in sides) + 0.4
    figure, axes = style.canvas(height, len(rows), columns, height_ratios=[max(side, 3) for side in sides])
    for line, panels in zip(axes, rows, strict=True):
        for place, one in enumerate(line):
            if place >= len(panels):
                one.set_axis_off()
                continue
            _panel(figure, one, [mark for mark in marks if mark.panel == panels[place]], keys(results))
            one.set_title(panels[place])
    _legend(figure)
    return figure


def _rows(marks: list[Mark]) -> list[str]:
    return list(dict.fromkeys(_row(marks, panel) for panel in names(marks, "panel")))


def _row(marks: list[Mark], panel: str) -> str:
    one = next(mark for mark in marks if mark.panel == panel)
    return PAPER if one.series == PAPER else str(one.backbone)


def _panel(figure: Figure, axes: Axes, marks: list[Mark], settings: tuple[str, str]) -> None:
    xs, ys = (sorted(names(marks, axis), key=_order) for axis in ("x", "y"))
    grid = np.full((len(ys), len(xs)), np.nan)
    for mark in marks:
        value = mark.paper if mark.series == PAPER else mark.ours
        grid[ys.index(mark.y), xs.index(mark.x)] = np.nan if value is None else value
    axes.set_xticks(range(len(xs)), [f"{x:g}" if isinstance(x, float) else x for x in xs])
    axes.set_yticks(range(len(ys)), [f"{y:g}" if isinstance(y, float) else y for y in ys])
    axes.set(xlabel=AXES.get(settings[0], settings[0]), ylabel=AXES.get(settings[1], settings[1]))
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for y, x in zip(*np.nonzero(np.isnan(grid)), strict=True):
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **NOTHING))
    if np.isnan(grid).all():
        axes.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
        return
    colours = light(colormaps["YlGnBu"])
    image = axes.pcolormesh(
        np.arange(len(xs) + 1) - 0.5, np.arange(len(ys) + 1) - 0.5, np.ma.masked_invalid(grid), cmap=colours,
        edgecolors="white", linewidth=1,
    )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, aspect=24, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=6.5)
    for mark in marks:
        value = mark.paper if mark.series == PAPER else mark.ours
        if value is not None:
            _cell(axes, xs.index(mark.x), ys.index(mark.y), value, mark)
    if marks[0].series == PAPER:
        best = np.unravel_index(np.nanargmax(grid), grid.shape)
        _frame(axes, int(best[1]), int(best[0]), "-", 1.6)


def light(whole: Colormap) -> ListedColormap:
    """A colour map without its darkest part, so that a number can be read on every colour."""
    return ListedColormap(whole(np.linspace(0.03, 0.62, 256)))


def _cell(axes: Axes, x: int, y: int, value: float, mark: Mark) -> None:
    axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=7)
    said = (mark.note or "").split(";")[0]
    if said in (BEST, INSIDE):
        _frame(axes, x, y, "-" if said == BEST else (0, (2, 1.5)), 1.6 if said == BEST else 0.9)


def _frame(axes: Axes, x: int, y: int, dashes: Any, width: float) -> None:
    frame = Rectangle((x - 0.42, y - 0.42), 0.84, 0.84, fill=False, edgecolor=style.INK, linewidth=width)
    frame.set_linestyle(dashes)
    axes.add_patch(frame)


def _order(value: float | str | None) -> tuple[bool, float, str]:
    return (False, value, "") if isinstance(value, float) else (True, 0.0, str(value))


def _legend(figure: Figure) -> None:
    framed: dict[str, Any] = {
        "marker": "s",
        "linestyle": "",
        "markerfacecolor": "none",
        "markeredgecolor": style.INK,
        "markersize": 8,
    }
    inside = Rectangle((0, 0), 1, 1, fill=False, edgecolor=style.INK, linewidth=0.9, linestyle=(0, (2, 1.5)))
    handles = [
        Line2D([], [], color=style.INK, markeredgewidth=1.6, label="best cell", **framed),
        inside,
        Patch(label="no value", **NOTHING),
    ]
    inside.set_label("not separable from it: the 95 % interval of the paired difference holds 0")
    style.legend(figure, handles)
