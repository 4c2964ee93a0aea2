"""A table as HTML: its parts, for the page of the study and for a page of its own. All text is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from grace.report.sheets.grid import PRINTED, Grid, Line, Piece, Sheet, Shown, visible

BACKBONE = "backbone"
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
TAGS = {"bold": "strong", "italic": "em", "code": "code"}


class Cells(NamedTuple):
    """A table. right, prose: which columns hold numbers, and which running text.

    groups: (backbone, its rows); one without a name where the table has no column of backbones.
    """

    head: list[Markup]
    right: list[bool]
    prose: list[bool]
    groups: list[tuple[str, list[list[Markup]]]]


class Block(NamedTuple):
    """A part of a table. kind: grid, notes, heading or text."""

    kind: str
    html: Markup
    grid: Cells | None = None


@cache
def templates() -> Environment:
    return Environment(
        loader=PackageLoader("grace.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(sheet: Sheet) -> str:
    """A page that needs nothing else."""
    own = blocks(sheet, sheet.name)
    return templates().get_template("table.html").render(sheet=sheet, caption=line(sheet.caption), blocks=own)


def blocks(sheet: Sheet, name: str) -> list[Block]:
    """The parts of a table but its title, caption and line. `name` is put before the ids of its notes."""
    return [Block("text", line(one)) for one in sheet.warnings] + [
        block for grid in sheet.grids for block in _blocks(grid, name)
    ]


def _blocks(grid: Grid, name: str) -> Iterator[Block]:
    if grid.heading:
        yield Block("heading", escape(visible(grid.heading)))
    for one in grid.before:
        yield Block("text", line(one))
    yield Block("grid", Markup(""), _cells(grid, name))
    if grid.notes:
        yield Block("notes", Markup("").join(_note(sign, said, name) for sign, said in grid.notes))


def _note(sign: str, said: Line, name: str) -> Markup:
    if not sign:
        return Markup("<li>{}</li>").format(line(said))
    return Markup('<li id="{}-note-{}"><sup>{}</sup> {}</li>').format(name, sign, sign, line(said))


def _cells(grid: Grid, name: str) -> Cells:
    width, left = len(grid.head), len(grid.head) if grid.prose else grid.names
    head = [Markup(CAMEL.sub("<wbr>", str(escape(title)))) for title in grid.head]
    right = [place >= left for place in range(width)]
    prose = [grid.prose and place == width - 1 for place in range(width)]
    rows = [[_cell(cell, name) for cell in row] for row in grid.rows]
    if width < 2 or grid.head[0] != BACKBONE:
        return Cells(head, right, prose, [("", rows)])
    named = zip(("".join(piece.text for piece in row[0].main) for row in grid.rows), rows, strict=True)
    groups = [(backbone, [row[1:] for _, row in some]) for backbone, some in groupby(named, key=lambda one: one[0])]
    return Cells(head[1:], right[1:], prose[1:], groups)


def _cell(cell: Shown, name: str) -> Markup:
    printed = [Piece(f"{PRINTED} "), *cell.printed] if cell.printed else []
    below = (("interval", cell.interval), ("printed", printed))
    more = (Markup('<span class="{}">{}</span>').format(kind, line(part)) for kind, part in below if part)
    return line(cell.main, name) + Markup("").join(more)


def line(pieces: Line, name: str = "") -> Markup:
    """`name`: of the table whose notes a sign leads to."""
    return Markup("").join(_piece(piece, name) for piece in pieces)


def _piece(piece: Piece, name: str) -> Markup:
    found = escape(visible(piece.text.strip() if piece.style == "prose" else piece.text))
    if piece.style == "sign":
        links = (Markup('<a href="#{}-note-{}">{}</a>').format(name, one, one) for one in piece.text)
        return Markup("<sup>{}</sup>").format(Markup("").join(links))
    if piece.style == "prose":
        return found.replace("\n", Markup("<br>"))
    tag = TAGS.get(piece.style)
    return Markup(f"<{tag}>") + found + Markup(f"</{tag}>") if tag else found
