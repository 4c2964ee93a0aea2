"""Columns and quantities that read well in a terminal and as Markdown."""

from __future__ import annotations

WIDE = 60  # a longer cell does not widen its column


def grid(head: list[str], rows: list[list[str]], left: int | None = None) -> list[str]:
    """A Markdown table with aligned columns; those of numbers to the right, or all but the first `left`."""
    widths = [
        max((len(cell) for cell in column if len(cell) <= WIDE), default=3) for column in zip(head, *rows, strict=True)
    ]
    right = [all(row[i][:1].isdigit() or not row[i] for row in rows) for i in range(len(head))]
    if left is not None:
        right = [i >= left for i in range(len(head))]

    def text(cells: list[str]) -> str:
        padded = [
            cell.rjust(width) if at else cell.ljust(width) for cell, width, at in zip(cells, widths, right, strict=True)
        ]
        return "| " + " | ".join(padded) + " |"

    rule = (
        "|" + "|".join("-" * (width + 1) + (":" if at else "-") for width, at in zip(widths, right, strict=True)) + "|"
    )
    return [text(head), rule, *map(text, rows)]


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
