"""How the figures look: colours that colour-blind readers can tell apart and that print, sizes for 7 inches."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH = 7.0  # inches
NOTE_CHARACTERS = 130  # of a line below a figure
LEGEND_CHARACTERS = 120  # of a line of a legend, 8 of them for each handle
NOTE_HEIGHT = 0.125  # inches of such a line
INK, MUTED, FAINT = "#222222", "#6b6b6b", "#d9d9d9"
# Okabe and Ito's colours, the same for a run in every figure.
RUNS = {
    "base": "#333333",
    "reasoning": "#E69F00",
    "cl": "#CC79A7",
    "simcse": "#AA3377",
    "grace": "#0072B2",
    "grace-rollout": "#009E73",
    "grace-random": "#D55E00",
    "grace-unsup": "#56B4E9",
}
OTHERS = ("#332288", "#999933", "#117733", "#882255", "#661100", "#44AA99", "#88CCEE", "#DDCC77")  # Paul Tol's
MARKERS = ("o", "s", "^", "D", "v", "X", "p", "<")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
LEVELS = ("#0d2c54", "#3f7cac", "#8fbcbb", "#e3c567", "#d9d9d9", "#a44a3f")  # dark to light: they print in grey
RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 5,
    "hatch.linewidth": 0.5,
    "hatch.color": "#9a9a9a",
    "text.parse_math": False,
    "svg.fonttype": "none",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def colours(runs: Iterable[str]) -> dict[str, str]:
    """A colour for each run, the usual one where it has one."""
    free = iter(OTHERS * 8)
    return {run: RUNS.get(run) or next(free) for run in dict.fromkeys(runs)}


def markers(names: Iterable[str]) -> dict[str, str]:
    """A marker for each name."""
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(dict.fromkeys(names))}


def dashes(names: Iterable[str]) -> dict[str, Any]:
    """A line style for each name."""
    return {name: DASHES[i % len(DASHES)] for i, name in enumerate(dict.fromkeys(names))}


def canvas(height: float, rows: int = 1, columns: int = 1, **settings: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `height` inches without its notes, and its axes [rows][columns]."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **settings)
    return figure, [list(row) for row in axes]


def tiled(count: int, height: float, **settings: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure with at least `count` axes in at most two columns, each row `height` inches high; the rest is blank."""
    rows, columns = -(-count // 2), min(count, 2)
    figure, axes = canvas(rows * height, rows, columns, **settings)
    for one in [one for row in axes for one in row][count:]:
        one.set_axis_off()
    return figure, axes


def empty(text: str) -> Figure:
    """A figure that says that there is nothing to show."""
    figure, [[axes]] = canvas(1.4)
    nothing(axes, text)
    return figure


def nothing(axes: Axes, text: str = "no result") -> None:
    """A panel that says that there is nothing to show."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def annotate(figure: Figure, notes: list[str]) -> None:
    """Puts sentences below a figure, in lines that fit."""
    lines = [line for note in notes for line in textwrap.wrap(note, NOTE_CHARACTERS, break_on_hyphens=False)]
    if not lines:
        return
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + NOTE_HEIGHT * len(lines) + 0.08)
    figure.supxlabel("\n".join(lines), x=0.012, ha="left", fontsize=6.6, color=MUTED, linespacing=1.25)


def legend(figure: Figure, handles: list[Any]) -> None:
    """A legend above all panels, in as many lines as it needs."""
    letters = sum(len(str(handle.get_label())) + 8 for handle in handles)
    columns = math.ceil(len(handles) / math.ceil(letters / LEGEND_CHARACTERS))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handletextpad=0.5, columnspacing=1.4)


def score_label(tasks: int) -> str:
    """Of an axis of scores."""
    return f"score: mean over\n{tasks} task{'s' * (tasks != 1)} (%)"


def error_bar(axes: Axes, x: float, y: float, interval: tuple[float, float] | None, colour: str, **more: Any) -> None:
    """A thin interval of y, where there is one."""
    if interval:
        axes.vlines(x, *interval, color=colour, linewidth=0.8, **more)
