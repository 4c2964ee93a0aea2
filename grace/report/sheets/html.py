"""A table as an HTML page that needs nothing else."""

from __future__ import annotations

from html import escape

from grace.report.sheets.grid import PRINTED, Grid, Line, Piece, Sheet, Shown, visible

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 100rem; padding: 0 1rem; color: #1b1f24 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d8dee4; text-align: right; vertical-align: top }
th.name, td.name { text-align: left }
td.prose, .prose { text-align: left; white-space: pre-wrap; min-width: 30rem; overflow-wrap: anywhere }
thead th { border-bottom: 2px solid #57606a; vertical-align: bottom }
tbody tr:hover { background: #f6f8fa }
.interval, .printed { font-size: .85em; color: #57606a }
.notes { color: #32383f; padding-left: 1.2rem }
"""


def render(sheet: Sheet) -> str:
    body = [f"<h1>{escape(sheet.title)}</h1>", f"<p>{_line(sheet.caption)}</p>", f"<p>{escape(sheet.line)}</p>"]
    body += [f"<p>{_line(warning)}</p>" for warning in sheet.warnings]
    body += [part for grid in sheet.grids for part in _grid(grid)]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{escape(sheet.title)}</title><style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _grid(grid: Grid) -> list[str]:
    out = [f"<h2>{escape(grid.heading)}</h2>"] if grid.heading else []
    out += [f"<p>{_line(paragraph)}</p>" for paragraph in grid.before]
    left = len(grid.head) if grid.prose else grid.names
    kinds = [' class="name"' if i < left else "" for i in range(len(grid.head))]
    out.append('<div class="scroll"><table>')
    heads = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, grid.head, strict=True))
    out.append(f"<thead><tr>{heads}</tr></thead>\n<tbody>")
    if grid.prose:
        kinds[-1] = ' class="prose"'
    for row in grid.rows:
        cells = (f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        out.append(f"<tr>{''.join(cells)}</tr>")
    out.append("</tbody></table></div>")
    if grid.notes:
        out.append('<ul class="notes">')
        for sign, note in grid.notes:
            name, mark = (f' id="note-{sign}"', f"<sup>{sign}</sup> ") if sign else ("", "")
            out.append(f"<li{name}>{mark}{_line(note)}</li>")
        out.append("</ul>")
    return out


def _cell(cell: Shown) -> str:
    more = (("interval", cell.interval), ("printed", [Piece(f"{PRINTED} "), *cell.printed] if cell.printed else []))
    return _line(cell.main) + "".join(f'<div class="{kind}">{_line(part)}</div>' for kind, part in more if part)


def _line(line: Line) -> str:
    return "".join(_piece(piece) for piece in line)


def _piece(piece: Piece) -> str:
    found = escape(visible(piece.text.strip() if piece.style == "prose" else piece.text))
    if piece.style == "sign":
        links = (f'<a href="#note-{one}">{one}</a>' for one in piece.text)
        return f"<sup>{''.join(links)}</sup>"
    if piece.style == "prose":
        return found.replace("\n", "<br>")
    tag = {"bold": "strong", "italic": "em", "code": "code"}.get(piece.style)
    return f"<{tag}>{found}</{tag}>" if tag else found
