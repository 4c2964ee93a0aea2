"""A table as LaTeX that a paper takes in with \\input: booktabs, everything escaped, ASCII only."""

from __future__ import annotations

import re
import unicodedata

from grace.report.sheets.grid import PRINTED, Grid, Line, Piece, Sheet, Shown, cut, visible

ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "—": "---",
    "–": "--",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "λ": r"$\lambda$",
    "²": "$^2$",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "\u00a0": "~",
}
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip

PACKAGES = ("booktabs", "adjustbox", "tabularx", "textcomp")


def render(sheet: Sheet, label: str) -> str:
    """One `table` for each grid.

    Args:
        label: of the first; the others get a number.
    """
    lines = [
        rf"% {escape(sheet.title)}: \input this file in a document with",
        rf"%   \usepackage{{{','.join(PACKAGES)}}} \usepackage[T1]{{fontenc}}",
    ]
    for number, grid in enumerate(sheet.grids, 1):
        lines += ["", *_table(sheet, grid, number, _label(label) if number == 1 else f"{_label(label)}-{number}")]
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9:.+-]", "-", text)


def _table(sheet: Sheet, grid: Grid, number: int, label: str) -> list[str]:
    title = escape(_unnumbered(sheet.title.rstrip(".")) + ("" if number == 1 else " (continued)"))
    about = [f"{title}."] + ([f"{escape(grid.heading)}."] if grid.heading else [])
    about += [_line(sheet.caption), escape(sheet.line)] if number == 1 else []
    out = [r"\begin{table}[htbp]", r"\centering", rf"\caption{{{' '.join(about)}}}", rf"\label{{{label}}}"]
    out.append(r"\small")
    said = [*sheet.warnings, *grid.before] if number == 1 else grid.before
    out += [rf"\par\noindent {_line(paragraph)}\par\smallskip" for paragraph in said]
    shape = "l" * grid.names + "r" * (len(grid.head) - grid.names)
    if grid.prose:
        begin = rf"\begin{{tabularx}}{{\linewidth}}{{{'l' * (len(grid.head) - 1)}X}}"
        end = r"\end{tabularx}"
    else:
        begin = rf"\begin{{adjustbox}}{{max width=\linewidth}}\begin{{tabular}}{{{shape}}}"
        end = r"\end{tabular}\end{adjustbox}"
    out += [begin, r"\toprule", " & ".join(map(escape, grid.head)) + r" \\", r"\midrule"]
    out += [row for cells in grid.rows for row in _rows(cells, grid.names)]
    out += [r"\bottomrule", end]
    if grid.notes:
        out.append(r"\par\smallskip\raggedright\footnotesize")
        out += [rf"{_raised(sign)} {_line(note)}\par" if sign else rf"{_line(note)}\par" for sign, note in grid.notes]
    return [*out, r"\end{table}"]


def _unnumbered(title: str) -> str:
    """A title whose number, the paper's, does not stand beside that which LaTeX gives."""
    return re.sub(r"^Table (\d+)\. (.*)$", r"\2 (the paper's table \1)", title)


def _rows(cells: list[Shown], names: int) -> list[str]:
    """A row of a table as up to three of LaTeX: numbers, their intervals, the paper's numbers."""
    rows = [[_line(cell.main) for cell in cells]]
    if any(cell.interval for cell in cells):
        rows.append([_small(cell.interval) for cell in cells])
    if any(cell.printed for cell in cells):
        label = [*[""] * (names - 1), _small([Piece(PRINTED)])]
        rows.append(label + [_small(cell.printed) for cell in cells[names:]])
    # After \\ a bracket would open an argument, and a star would be one.
    return [("{}" if row[0][:1] in ("[", "*") else "") + " & ".join(row) + r" \\" for row in rows]


def _small(line: Line) -> str:
    return rf"{{\scriptsize {_line(line)}}}" if line else ""


def _line(line: Line) -> str:
    return "".join(_piece(piece) for piece in line)


def _piece(piece: Piece) -> str:
    if piece.style == "sign":
        return _raised(piece.text)
    if piece.style == "prose":
        parts = cut(piece.text.strip()).split("\n")
        return r" \newline ".join(escape(part) for part in parts if part.strip())
    found = escape(piece.text)
    if piece.style == "code":  # a path may break at its slashes
        return r"\texttt{" + found.replace("/", r"/\allowbreak{}") + "}"
    command = {"bold": "textbf", "italic": "emph"}.get(piece.style)
    return rf"\{command}{{{found}}}" if command else found


def _raised(letters: str) -> str:
    return rf"\textsuperscript{{{letters}}}" if letters else ""


def escape(text: str) -> str:
    """Text as LaTeX of ASCII alone; a character that no common font of LaTeX has is shown by its number."""
    found = re.sub("-(?=-)", "-\0", visible(text).replace("\n", " "))  # two hyphens would be a dash
    return "".join("{}" if one == "\0" else _character(one) for one in found)


def _character(one: str) -> str:
    if one in ESCAPED:
        return ESCAPED[one]
    if one.isascii():
        return one
    parts = unicodedata.normalize("NFD", one)
    if len(parts) == 2 and parts[1] in ACCENTS and parts[0].isascii() and parts[0].isalpha():
        return rf"\{ACCENTS[parts[1]]}{{{parts[0]}}}"
    return rf"\texttt{{U+{ord(one):04X}}}"
