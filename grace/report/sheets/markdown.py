"""A table as Markdown that reads well in a terminal too."""

from __future__ import annotations

import re

from grace.report import columns
from grace.report.sheets.grid import PRINTED, Grid, Line, Piece, Sheet, Shown, cut, visible

RAISED = dict(zip("abcdefghijklmnoprstuvwxyz", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ", strict=True))


def render(sheet: Sheet) -> str:
    """Title, caption and line, then each grid with its notes."""
    lines = [f"# {_line([Piece(sheet.title)])}", "", _line(sheet.caption), "", _line([Piece(sheet.line)]), ""]
    for warning in sheet.warnings:
        lines += [_line(warning), ""]
    for grid in sheet.grids:
        lines += [*_grid(grid), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _grid(grid: Grid) -> list[str]:
    lines = [f"## {_line([Piece(grid.heading)])}", ""] if grid.heading else []
    for paragraph in grid.before:
        lines += [_line(paragraph), ""]
    rows = [row for cells in grid.rows for row in _rows(cells, grid.names)]
    lines += columns.grid(
        [_line([Piece(name)]) for name in grid.head], rows, len(grid.head) if grid.prose else grid.names
    )
    if grid.notes:
        lines += ["", *(f"- {raised(sign)} {_line(note)}" if sign else f"- {_line(note)}" for sign, note in grid.notes)]
    return lines


def _rows(cells: list[Shown], names: int) -> list[list[str]]:
    """A row of a table, and below it the paper's numbers, where there are any."""
    rows = [[" ".join(_line(part) for part in (cell.main, cell.interval) if part) for cell in cells]]
    if any(cell.printed for cell in cells):
        rows.append([*[""] * (names - 1), PRINTED, *(_line(cell.printed) for cell in cells[names:])])
    return rows


def raised(letters: str) -> str:
    return "".join(RAISED[one] for one in letters)


def _line(line: Line) -> str:
    return "".join(_piece(piece) for piece in line)


def _piece(piece: Piece) -> str:
    if piece.style == "sign":
        return f" {raised(piece.text)}"
    if piece.style == "code" and not re.search(r"[`|\\\n]", piece.text):
        return f"`{visible(piece.text)}`"
    found = escape(piece.text, prose=piece.style == "prose")
    return {"bold": f"**{found}**", "italic": f"*{found}*"}.get(piece.style, found)


def escape(text: str, prose: bool = False) -> str:
    """Text that Markdown shows as it is, also in a cell of a table.

    Args:
        prose: of data or a model: cut where it is long, every mark escaped, its newlines kept.
    """
    found = cut(visible(text.strip())) if prose else visible(text)
    found = re.sub(r"[\\`*~$|<>&]", r"\\\g<0>", found)
    if prose:
        found = re.sub(r"[_\[\]]", r"\\\g<0>", found)
    else:  # between letters it means nothing
        found = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", found)
    return re.sub(r"\n+", "<br>" if prose else " ", found)
