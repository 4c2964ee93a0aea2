"""A table's cells as Markdown: the paper's shape, what the numbers are, and what is missing."""

from __future__ import annotations

from html import escape
from typing import Any, NamedTuple

from markdown_it import MarkdownIt

from grace.paper import numbers

MISSING = "—"
Cell = dict[str, Any]
Rows = dict[tuple[str, str], dict[str, Cell]]


class About(NamedTuple):
    """What the tables were made of: study, resamples, seeds of its models, result files that are not there."""

    study: str
    resamples: int
    seeds: list[int]
    missing: list[str]


def render(title: str, cells: list[Cell], about: About) -> str:
    """Markdown of one table.

    Args:
        cells: of `tables.build`; those of one backbone and run form a row, in their order.
    """
    columns = list(dict.fromkeys(cell["column"] for cell in cells))
    ours, printed = (_rows([cell for cell in cells if cell["reference"] is kind]) for kind in (False, True))
    seeds = sorted(set(about.seeds))
    lines = [f"# {title}", "", *_head(ours, about, seeds), "", *_grid(columns, ours, len(seeds)), ""]
    lines += _notes([cell for row in ours.values() for cell in row.values()], about, len(seeds))
    if printed:
        shown = [name for name in columns if any(name in row for row in printed.values())]
        lines += ["", "## For reference: what the paper prints", ""]
        lines += ["Other models than ours, exactly as printed; no difference is taken.", ""]
        lines += _grid(shown, printed, len(seeds))
        if any(run in numbers.SHUFFLED for _, run in printed):
            order = ", ".join(next(iter(numbers.SHUFFLED.values())))
            lines += ["", f"The columns of {' and '.join(numbers.SHUFFLED)} are printed in another order ({order})."]
    return "\n".join(lines) + "\n"


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 100rem; padding: 0 1rem; color: #1b1f24 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d8dee4; text-align: right }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
thead th { border-bottom: 2px solid #57606a }
tbody tr:hover { background: #f6f8fa }
"""


def page(title: str, text: str) -> str:
    """`text` in Markdown as an HTML page that needs nothing else."""
    body = MarkdownIt("commonmark").enable("table").render(text)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>\n'


def _rows(cells: list[Cell]) -> Rows:
    rows: Rows = {}
    for cell in cells:
        rows.setdefault((cell["backbone"], cell["run"]), {})[cell["column"]] = cell
    return rows


def _head(ours: Rows, about: About, seeds: list[int]) -> list[str]:
    backbones = list(dict.fromkeys(backbone for backbone, _ in ours))
    runs = list(dict.fromkeys(run for _, run in ours))
    lines = [
        f"Study `{about.study}`. Backbones: {', '.join(backbones)}. Runs: {', '.join(runs)}. "
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)}: {', '.join(map(str, seeds))}."
    ]
    if not set(backbones) & set(numbers.BACKBONES):
        lines += ["", "**Neither the paper's models nor its tasks: not comparable with the paper's numbers.**"]
    return lines


def _grid(columns: list[str], rows: Rows, seeds: int) -> list[str]:
    out = ["| backbone | run | " + " | ".join(columns) + " |", "|---|---|" + "---:|" * len(columns)]
    for (backbone, run), row in rows.items():
        label = "quoted" if backbone == "open" else numbers.BACKBONES.get(backbone, backbone)
        out.append(f"| {label} | {run} | " + " | ".join(_text(row.get(name), seeds) for name in columns) + " |")
    return out


def _text(cell: Cell | None, seeds: int) -> str:
    """`ours [low, high]`, bold with an arrow where it surely differs from reasoning; below it the paper's."""
    if cell is None:
        return MISSING
    if cell["reference"]:
        return f"{cell['paper']:.2f}"
    text = MISSING
    if cell["ours"] is not None:
        text = f"{cell['ours']:.2f}"
        if cell["delta_low"] is not None and (cell["delta_low"] > 0 or cell["delta_high"] < 0):
            text = f"**{text}** {'↑' if cell['delta_low'] > 0 else '↓'}"
        if cell["low"] is not None:
            text += f" [{cell['low']:.1f}, {cell['high']:.1f}]"
        if cell["seeds"] < seeds:
            text += f" ({cell['seeds']} of {seeds} seeds)"
    if cell["paper"] is not None:
        gap = "" if cell["difference"] is None else f" ({cell['difference']:+.2f})"
        text += f"<br>paper {cell['paper']:.2f}{gap}"
    return text


def _notes(cells: list[Cell], about: About, seeds: int) -> list[str]:
    """What a reader must know to read the numbers; only what applies."""
    columns = {cell["column"] for cell in cells}
    notes = [
        f"[low, high] is the 95 % interval of {about.resamples} paired bootstrap resamples of the items within each "
        "task; it says nothing about how another training would turn out"
        + (". " if seeds > 1 else ", of which there is one seed only. ")
        + "Bold: the interval of the difference to `reasoning` of the same backbone excludes zero; "
        "the arrow gives its direction.",
        f"{MISSING}: no result.",
    ]
    if any(cell["paper"] is not None for cell in cells):
        notes.append("In brackets behind the paper's number: ours minus the paper's, where both are of the same tasks.")
    if "Avg (tasks)" in columns:
        notes.append(
            "Avg (tasks) is the mean over this study's tasks. Avg (paper) weighs the categories as the paper's "
            "printed averages do: 15/4/11/3/12/10/10 over 65, Summarization's one data set counted ten times; "
            "it needs all 56 data sets."
        )
        notes.append(
            "Random-pair cosine: mean cosine of random pairs of the encoded texts, near 1 when all point one way. "
            "Rationale tokens: mean length of the rationales; none for runs without."
        )
    if _absent(cells, "Summarization"):
        notes.append("Summarization: the study has no such task, or no result of it.")
    if "Perplexity" in columns:
        notes.append(
            "Perplexity: per token of the backbone's own tokenizer, on held-out text; lower is better, and it compares "
            "runs of one backbone only. Multiple choice: of four descriptions, chance is 25. Well-formed: share of "
            "rationales of held-out texts that keep the format. The paper's printed Avg exceeds the mean of its six "
            "columns by about 0.15 in the rows of supervised GRACE; ours is the mean."
        )
    if about.missing:
        shown = ", ".join(f"`{path}`" for path in about.missing[:5])
        more = f" and {len(about.missing) - 5} more" if len(about.missing) > 5 else ""
        notes.append(f"Missing result files: {shown}{more}.")
    return [f"- {note}" for note in notes]


def _absent(cells: list[Cell], column: str) -> bool:
    found = [cell for cell in cells if cell["column"] == column]
    return bool(found) and all(cell["ours"] is None for cell in found)
