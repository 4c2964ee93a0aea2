"""A table as Markdown that reads well in a terminal, as LaTeX for \\\\input, and as HTML for the page or by itself."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from grace.report import markup
from grace.report.sheets.grid import LETTERS, PRINTED, Grid, Line, Piece, Sheet, TableCell, cut, visible

# ---- Markdown -------------------------------------------------------------------------------

RAISED = str.maketrans(LETTERS, "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ")


def markdown(sheet: Sheet) -> str:
    """Title, caption and line, then each grid with its notes."""
    paragraphs = [f"# {_md_text(sheet.title)}", _md(sheet.caption), _md_text(sheet.line), *map(_md, sheet.warnings)]
    for grid in sheet.grids:
        paragraphs += [f"## {_md_text(grid.heading)}"] if grid.heading else []
        paragraphs += map(_md, grid.before)
        head = list(map(_md_text, grid.head))
        rows = [row for cells in grid.rows for row in _md_rows(cells, grid.names)]
        paragraphs.append("\n".join(markup.grid(head, rows, len(head) if grid.prose else grid.names)))
        if grid.notes:
            notes = (
                f"- {sign.translate(RAISED)} {_md(note)}" if sign else f"- {_md(note)}" for sign, note in grid.notes
            )
            paragraphs.append("\n".join(notes))
    return "\n\n".join(paragraphs) + "\n"


def _md_rows(cells: list[TableCell], names: int) -> Iterator[list[str]]:
    """A row of a table, and below it the paper's numbers, where there are any."""
    yield [" ".join(_md(part) for part in (cell.main, cell.interval) if part) for cell in cells]
    if any(cell.printed for cell in cells):
        yield [*[""] * (names - 1), PRINTED, *(_md(cell.printed) for cell in cells[names:])]


def _md(line: Line) -> str:
    return "".join(map(_md_piece, line))


def _md_piece(piece: Piece) -> str:
    if piece.style == "sign":
        return f" {piece.text.translate(RAISED)}"
    if piece.style == "code" and not re.search(r"[`|\\\n]", piece.text):
        return f"`{visible(piece.text)}`"
    if piece.style == "prose":  # of data or a model: every mark is escaped, newlines are kept
        found = re.sub(r"[\\`*~$|<>&_\[\]]", r"\\\g<0>", cut(visible(piece.text.strip())))
        return re.sub(r"\n+", "<br>", found)
    found = _md_text(piece.text)
    return {"bold": f"**{found}**", "italic": f"*{found}*"}.get(piece.style, found)


def _md_text(text: str) -> str:
    found = re.sub(r"[\\`*~$|<>&]", r"\\\g<0>", visible(text))
    # Between letters an underscore means nothing.
    return re.sub(r"\n+", " ", re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", found))


# ---- LaTeX ----------------------------------------------------------------------------------

PACKAGES = ("booktabs", "adjustbox", "tabularx", "textcomp")
ESCAPED = dict(
    zip(
        "\\{}$&#%_^~<>|`—–…±×−↑↓→≤≥λ²‘’“”\u00a0\0",
        r"\textbackslash{} \{ \} \$ \& \# \% \_ \textasciicircum{} \textasciitilde{} \textless{} \textgreater{} "
        r"\textbar{} \textasciigrave{} --- -- \ldots{} $\pm$ $\times$ $-$ $\uparrow$ $\downarrow$ $\rightarrow$ $\leq$ "
        r"$\geq$ $\lambda$ $^2$ ` ' `` '' ~ {}".split(),
        strict=True,
    )
)
ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)


def latex(sheet: Sheet, label: str) -> str:
    """One `table` for each grid: booktabs, everything escaped, ASCII only.

    Args:
        label: of the first; the others get a number.
    """
    label = re.sub(r"[^A-Za-z0-9:.+-]", "-", label)
    lines = [
        rf"% {tex_escape(sheet.title)}: \input this file in a document with",
        rf"%   \usepackage{{{','.join(PACKAGES)}}} \usepackage[T1]{{fontenc}}",
    ]
    for number, grid in enumerate(sheet.grids, 1):
        lines += ["", *_tex_table(sheet, grid, number, label if number == 1 else f"{label}-{number}")]
    return "\n".join(lines) + "\n"


def _tex_table(sheet: Sheet, grid: Grid, number: int, label: str) -> Iterator[str]:
    # LaTeX gives a number of its own, so the paper's does not stand beside it.
    title = tex_escape(re.sub(r"^Table (\d+)\. (.*)$", r"\2 (the paper's table \1)", sheet.title.rstrip(".")))
    about = [f"{title}." if number == 1 else f"{title} (continued)."]
    about += [f"{tex_escape(grid.heading)}."] if grid.heading else []
    about += [_tex(sheet.caption), tex_escape(sheet.line)] if number == 1 else []
    yield from (
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{' '.join(about)}}}",
        rf"\label{{{label}}}",
        r"\small",
    )
    for paragraph in [*(sheet.warnings if number == 1 else []), *grid.before]:
        yield rf"\par\noindent {_tex(paragraph)}\par\smallskip"
    width = len(grid.head)
    if grid.prose:
        yield rf"\begin{{tabularx}}{{\linewidth}}{{{'l' * (width - 1)}X}}"
    else:
        shape = "l" * grid.names + "r" * (width - grid.names)
        yield rf"\begin{{adjustbox}}{{max width=\linewidth}}\begin{{tabular}}{{{shape}}}"
    yield from (r"\toprule", " & ".join(map(tex_escape, grid.head)) + r" \\", r"\midrule")
    for cells in grid.rows:
        yield from _tex_rows(cells, grid.names)
    yield from (r"\bottomrule", r"\end{tabularx}" if grid.prose else r"\end{tabular}\end{adjustbox}")
    if grid.notes:
        yield r"\par\smallskip\raggedright\footnotesize"
    for sign, note in grid.notes:
        yield rf"\textsuperscript{{{sign}}} {_tex(note)}\par" if sign else rf"{_tex(note)}\par"
    yield r"\end{table}"


def _tex_rows(cells: list[TableCell], names: int) -> Iterator[str]:
    """A row of a table as up to three of LaTeX: numbers, their intervals, the paper's numbers."""

    def small(line: Line) -> str:
        return rf"{{\scriptsize {_tex(line)}}}" if line else ""

    rows = [[_tex(cell.main) for cell in cells]]
    if any(cell.interval for cell in cells):
        rows.append([small(cell.interval) for cell in cells])
    if any(cell.printed for cell in cells):
        rows.append([*[""] * (names - 1), small([Piece(PRINTED)]), *(small(cell.printed) for cell in cells[names:])])
    for row in rows:  # after \\ a bracket would open an argument, and a star would be one
        yield ("{}" if row[0][:1] in ("[", "*") else "") + " & ".join(row) + r" \\"


def _tex(line: Line) -> str:
    return "".join(map(_tex_piece, line))


def _tex_piece(piece: Piece) -> str:
    if piece.style == "prose":
        parts = cut(piece.text.strip()).split("\n")
        return r" \newline ".join(tex_escape(part) for part in parts if part.strip())
    found = tex_escape(piece.text)
    if piece.style == "code":  # a path may break at its slashes
        found = found.replace("/", r"/\allowbreak{}")
    command = {"bold": "textbf", "italic": "emph", "code": "texttt", "sign": "textsuperscript"}.get(piece.style)
    return rf"\{command}{{{found}}}" if command else found


def tex_escape(text: str) -> str:
    """Text as LaTeX of ASCII alone; a character that no common font of LaTeX has is shown by its number."""

    def character(one: str) -> str:
        if one in ESCAPED or one.isascii():
            return ESCAPED.get(one, one)
        parts = unicodedata.normalize("NFD", one)
        if len(parts) == 2 and parts[1] in ACCENTS and parts[0].isascii() and parts[0].isalpha():
            return rf"\{ACCENTS[parts[1]]}{{{parts[0]}}}"
        return rf"\texttt{{U+{ord(one):04X}}}"

    # Two hyphens would be a dash.
    return "".join(map(character, re.sub("-(?=-)", "-\0", visible(text).replace("\n", " "))))


# ---- HTML -----------------------------------------------------------------------------------

BACKBONE = "backbone"
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


def html(sheet: Sheet) -> str:
    """A page that needs nothing else."""
    template = templates().get_template("table.html")
    return template.render(sheet=sheet, caption=_html(sheet.caption), blocks=list(blocks(sheet, sheet.name)))


def blocks(sheet: Sheet, name: str) -> Iterator[Block]:
    """The parts of a table but its title, caption and line. `name` is put before the ids of its notes."""
    for one in sheet.warnings:
        yield Block("text", _html(one))
    for grid in sheet.grids:
        if grid.heading:
            yield Block("heading", escape(visible(grid.heading)))
        for one in grid.before:
            yield Block("text", _html(one))
        yield Block("grid", Markup(""), _html_cells(grid, name))
        if grid.notes:
            yield Block("notes", _join(_html_note(sign, said, name) for sign, said in grid.notes))


def _html_note(sign: str, said: Line, name: str) -> Markup:
    if not sign:
        return Markup("<li>{}</li>").format(_html(said))
    return Markup('<li id="{}-note-{}"><sup>{}</sup> {}</li>').format(name, sign, sign, _html(said))


def _html_cells(grid: Grid, name: str) -> Cells:
    width, left = len(grid.head), len(grid.head) if grid.prose else grid.names
    head = [Markup(re.sub(r"(?<=[a-z])(?=[A-Z])", "<wbr>", str(escape(title)))) for title in grid.head]
    right = [place >= left for place in range(width)]
    prose = [grid.prose and place == width - 1 for place in range(width)]
    rows = [[_html_cell(cell, name) for cell in row] for row in grid.rows]
    if width < 2 or grid.head[0] != BACKBONE:
        return Cells(head, right, prose, [("", rows)])
    named = zip(("".join(piece.text for piece in row[0].main) for row in grid.rows), rows, strict=True)
    groups = [(backbone, [row[1:] for _, row in some]) for backbone, some in groupby(named, key=lambda one: one[0])]
    return Cells(head[1:], right[1:], prose[1:], groups)


def _html_cell(cell: TableCell, name: str) -> Markup:
    printed = [Piece(f"{PRINTED} "), *cell.printed] if cell.printed else []
    below = (("interval", cell.interval), ("printed", printed))
    more = (Markup('<span class="{}">{}</span>').format(kind, _html(part)) for kind, part in below if part)
    return _html(cell.main, name) + _join(more)


def _html(line: Line, name: str = "") -> Markup:
    """`name`: of the table whose notes a sign leads to."""
    return _join(_html_piece(piece, name) for piece in line)


def _html_piece(piece: Piece, name: str) -> Markup:
    if piece.style == "sign":
        links = (Markup('<a href="#{}-note-{}">{}</a>').format(name, one, one) for one in piece.text)
        return Markup("<sup>{}</sup>").format(_join(links))
    if piece.style == "prose":
        return escape(visible(piece.text.strip())).replace("\n", Markup("<br>"))
    found, tag = escape(visible(piece.text)), TAGS.get(piece.style)
    return Markup(f"<{tag}>{found}</{tag}>") if tag else found


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
