"""How figures look: colours that colour-blind readers can tell apart and that print, 7 inches wide; figures as SVG."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable
from itertools import cycle
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
Look = dict[str, Any]  # settings of a matplotlib line with markers


def looks(names: Iterable[str], **more: Any) -> dict[str, Look]:
    """The colour, marker and dashes of each name; a run has the same colour in every figure. more: for all of them."""
    free = cycle(OTHERS)
    every = zip(dict.fromkeys(names), cycle(MARKERS), cycle(DASHES), strict=False)
    return {
        name: {"color": RUNS.get(name) or next(free), "marker": marker, "linestyle": dashes, **more}
        for name, marker, dashes in every
    }


def canvas(height: float, rows: int = 1, columns: int = 1, **settings: Any) -> tuple[Figure, np.ndarray]:
    """A figure of `height` inches without its notes, and its axes [rows, columns]."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **settings)


def tiled(count: int, height: float, **settings: Any) -> tuple[Figure, np.ndarray]:
    """A figure with `count` axes in at most two columns, each row `height` inches high; the rest is blank."""
    rows = math.ceil(count / 2)
    figure, axes = canvas(rows * height, rows, min(count, 2), **settings)
    for one in axes.flat[count:]:
        one.set_axis_off()
    return figure, axes


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


def labels(axes: np.ndarray, x: str = "", y: str = "") -> None:
    """Labels of the lowest and of the leftmost axes."""
    for one in axes[-1] if x else ():
        one.set_xlabel(x)
    for one in axes[:, 0] if y else ():
        one.set_ylabel(y)


def handle(label: str, **look: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **look)


def error_bar(axes: Axes, x: float, y: float, interval: tuple[float, float] | None, colour: str) -> None:
    """A thin interval of y, where there is one."""
    if interval:
        axes.vlines(x, *interval, color=colour, linewidth=0.8)


def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an <svg> element that needs nothing from outside, the same for the same figure.

    Args:
        name: put before each id, so that several figures can stand in one page.
        title, description: what a reader who does not see it is told.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    root = ElementTree.fromstring(buffer.getvalue().encode())
    prefix = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    for node in list(root.iter()):
        for child in list(node):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                node.remove(child)
        for key, value in list(node.attrib.items()):
            if key == "id":
                node.set(key, f"{prefix}-{value}")
            elif key.rpartition("}")[2] == "href" and value.startswith("#"):
                node.set(key, f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                node.set(key, value.replace("url(#", f"url(#{prefix}-"))
    # In place of matplotlib's style sheet, which would reach the whole page.
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt; max-width: 100%; height: auto")
    root.set("role", "img")
    root.set("aria-label", title)
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        child = ElementTree.Element(f"{{{SVG}}}{tag}")
        child.text, child.tail = text, "\n "
        root.insert(place, child)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
