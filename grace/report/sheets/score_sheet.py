"""From the cells of a table of scores to what is shown of it."""

from __future__ import annotations

from collections.abc import Iterable

from grace import specs
from grace.paper import numbers
from grace.report.scoring.results import HARMLESS
from grace.report.sheets import notes
from grace.report.sheets.cells import GRACE_3B, Cell
from grace.report.sheets.columns import Column
from grace.report.sheets.grid import MISSING, Grid, Piece, Sheet, Shown, marked, text
from grace.report.sheets.signs import Signs

Rows = dict[tuple[str, str], dict[str, Cell]]


def sheet(
    spec: specs.TablesSpec, cells: list[Cell], columns: list[Column], missing: list[str], samples: dict[str, str]
) -> Sheet:
    """A table, ours first and then what only the paper has.

    Args:
        cells: of `cells.build`; those of one backbone and run form a row, in their order.
        missing: result files that are not there. samples: task -> what part of it was drawn.
    """
    ours, printed = ([cell for cell in cells if cell["reference"] is kind] for kind in (False, True))
    signs = Signs(list(dict.fromkeys(one for cell in ours for one in cell["problems"])))
    made = _by_task(ours, columns, signs) if spec.table.kind == "tasks" else [_by_run(ours, columns, signs)]
    shown = {name: part for name, part in samples.items() if any(name in column.weights for column in columns)}
    said = notes.notes(spec.table, ours, spec.bootstrap, missing, spec.encoders, shown)
    if made:
        made[-1].notes = [*signs.notes(), *(("", note) for note in said)]
    if printed:
        made.append(_reference(printed, columns))
    return Sheet(
        spec.name,
        spec.table.title,
        marked(spec.table.caption),
        line(spec, ours),
        warnings(c["backbone"] for c in ours),
        made,
    )


def line(spec: specs.TablesSpec, cells: list[Cell]) -> str:
    """One sentence: which backbones and runs, how many seeds, and which of them have no result."""
    backbones = list(dict.fromkeys(cell["backbone"] for cell in cells))
    runs = list(dict.fromkeys(cell["run"] for cell in cells))
    seeds = sorted({cell.seed for cell in spec.cells})
    shown = {(cell["backbone"], cell["run"]) for cell in cells if cell["ours"] is not None}
    without = [(b, run) for b, run in _rows(cells) if (b, run) not in shown]
    said = (
        f"Study {spec.study}; backbone{'s' * (len(backbones) != 1)} {', '.join(backbones)}; runs {', '.join(runs)}; "
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))})"
    )
    names = [run if len(backbones) == 1 else f"{run} ({backbone})" for backbone, run in without]
    return said + (f"; no result of {', '.join(names)}." if names else ".")


def warnings(backbones: Iterable[str]) -> list[list[Piece]]:
    if set(backbones) & set(numbers.BACKBONES):
        return []
    return [marked("**None of the paper's backbones: not comparable with the paper's numbers.**")]


def label(backbone: str) -> str:
    """A backbone's name in a table: as the paper prints it, where it does."""
    return {"open": "quoted", GRACE_3B: "GRACE-3B"}.get(backbone) or numbers.BACKBONES.get(backbone, backbone)


def _rows(cells: list[Cell]) -> Rows:
    rows: Rows = {}
    for cell in cells:
        rows.setdefault((cell["backbone"], cell["run"]), {})[cell["column"]] = cell
    return rows


def _by_run(cells: list[Cell], columns: list[Column], signs: Signs) -> Grid:
    rows = [
        [text(label(backbone)), text(run), *(_shown(row.get(column.name), column, signs) for column in columns)]
        for (backbone, run), row in _rows(cells).items()
    ]
    return Grid(["backbone", "run", *(column.name for column in columns)], rows)


def _by_task(cells: list[Cell], columns: list[Column], signs: Signs) -> list[Grid]:
    """A grid for each backbone: tasks down, runs across."""
    found = _rows(cells)
    grids = []
    for backbone in dict.fromkeys(backbone for backbone, _ in found):
        runs = [run for b, run in found if b == backbone]
        rows = [
            [text(column.category or ""), text(column.name)]
            + [_shown(found[backbone, run].get(column.name), column, signs) for run in runs]
            for column in columns
        ]
        grids.append(Grid(["category", "task", *runs], rows, heading=label(backbone)))
    return grids


def _reference(cells: list[Cell], columns: list[Column]) -> Grid:
    rows = _rows(cells)
    names = [column.name for column in columns if any(column.name in row for row in rows.values())]
    shown = [
        [text(label(backbone)), text(run)]
        + [text(f"{row[name]['paper']:.2f}" if name in row else MISSING) for name in names]
        for (backbone, run), row in rows.items()
    ]
    return Grid(
        ["backbone", "run", *names],
        shown,
        heading="For reference: what the paper prints",
        before=[marked("Other models than ours, exactly as printed; no difference is taken.")],
        notes=[("", note) for note in notes.reference([run for _, run in rows])],
    )


def _shown(cell: Cell | None, column: Column, signs: Signs) -> Shown:
    """`ours ± deviation`, bold with an arrow where it surely differs from reasoning; the interval; the paper's."""
    if cell is None:
        return text(MISSING)
    shown = text(MISSING)
    digits, close = column.digits
    if cell["ours"] is not None:
        number = f"{cell['ours']:.{digits}f}"
        apart = cell["delta_low"] is not None and (cell["delta_low"] > 0 or cell["delta_high"] < 0)
        shown.main = [Piece(number)]
        if apart and all(problem.kind in HARMLESS for problem in cell["problems"]):
            shown.main = [Piece(number, "bold"), Piece(" ↑" if cell["delta_low"] > 0 else " ↓")]
        if cell["seed_sd"] is not None:
            shown.main.append(Piece(f" ± {cell['seed_sd']:.{digits}f}"))
        interval = [] if cell["low"] is None else [f"[{cell['low']:.{close}f}, {cell['high']:.{close}f}]"]
        if cell["seeds"] < cell["planned"]:
            interval.append(f"({cell['seeds']} of {cell['planned']} seeds)")
        shown.interval = [Piece(" ".join(interval))] if interval else []
    if cell["problems"]:
        shown.main.append(Piece(signs.of(cell["problems"]), "sign"))
    if cell["paper"] is not None:
        gap = "" if cell["difference"] is None else f" ({cell['difference']:+.2f})"
        shown.printed = [Piece(f"{cell['paper']:.2f}{gap}")]
    return shown
