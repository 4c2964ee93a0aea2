"""Markdown that reads well in a terminal too: templates, tables with aligned columns, quantities."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

WIDE = 60  # a longer cell does not widen its column


@cache
def templates() -> Environment:
    """Those of this folder, `*.md.jinja`; nothing is escaped."""
    return Environment(
        loader=PackageLoader("grace.report", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def grid(head: list[str], rows: list[list[str]], left: int | None = None) -> list[str]:
    """A Markdown table with aligned columns; those of numbers to the right, or all but the first `left`."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max((len(cell) for cell in column if len(cell) <= WIDE), default=3) for column in columns]
    right = [
        all(cell[:1].isdigit() or not cell for cell in column[1:]) if left is None else place >= left
        for place, column in enumerate(columns)
    ]

    def text(cells: list[str]) -> str:
        aligned = zip(cells, widths, right, strict=True)
        return f"| {' | '.join(cell.rjust(width) if at else cell.ljust(width) for cell, width, at in aligned)} |"

    rule = "|".join("-" * (width + 1) + (":" if at else "-") for width, at in zip(widths, right, strict=True))
    return [text(head), f"|{rule}|", *map(text, rows)]


def count(value: float) -> str:
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    return "" if not value else f"{count(value)}B" if value >= 1e3 else f"{value:.0f} B"


def hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value else "0"


def days(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"
