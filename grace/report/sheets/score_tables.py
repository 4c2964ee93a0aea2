"""Tables of scores: the columns, a cell of each for every run beside what the paper prints, and what is shown."""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

from grace.config import specs, tasks
from grace.config.plan import REFERENCE
from grace.config.schema import Table
from grace.paper import numbers
from grace.report.scoring.results import AGAIN, GEOMETRY, WELL_FORMED, Problem, geometry
from grace.report.scoring.scores import Estimate, Models, Seed, difference, estimate, load, tokens
from grace.report.sheets import grid
from grace.report.sheets.grid import (
    GRACE_3B,
    MISSING,
    Footnotes,
    Grid,
    Line,
    Made,
    Piece,
    TableCell,
    label,
    marked,
    text,
)

AVG_TASKS, AVG_PAPER = "Avg (tasks)", "Avg (paper)"
COSINE, TOKENS, ALIGNMENT = "Random-pair cosine", "Rationale tokens", "Alignment"
FIELDS = (
    "table backbone run column category ours low high delta_vs_reasoning delta_low delta_high paper difference seeds "
    "seed_sd source note"
).split()
Cell = dict[str, Any]


class ScoreColumn(NamedTuple):
    """A column: the weights of its tasks (empty: it cannot be computed here), its scale and printed name.

    comparable: whether ours is the same quantity as the paper's. digits: of a number, and of its interval.
    """

    name: str
    weights: dict[str, float]
    scale: float = 100.0
    printed: str | None = None
    comparable: bool = True
    digits: tuple[int, int] = (2, 1)
    category: str | None = None

    def value(self, seeds: list[Seed]) -> Estimate | None:
        return tokens(seeds) if self.name == TOKENS else estimate(seeds, self.weights, self.scale)


def make(spec: specs.TablesSpec) -> Made:
    models = load(spec.cells, spec.bootstrap)
    shown = columns(spec.table, models, spec.tasks)
    _mark_absent(models, spec.table, shown)
    cells = build(spec.name, spec.table, models, shown)
    ours, printed = ([cell for cell in cells if cell["reference"] is kind] for kind in (False, True))
    footnotes = Footnotes(list(dict.fromkeys(one for cell in ours for one in cell["problems"])))
    grids = _by_task(ours, shown, footnotes) if spec.table.kind == "tasks" else [_by_run(ours, shown, footnotes)]
    if grids:
        grids[-1].notes = footnotes.notes(_notes(spec, ours, shown, models))
    if printed:
        grids.append(_reference_grid(printed, shown))
    backbones, runs = (list(dict.fromkeys(cell[key] for cell in ours)) for key in ("backbone", "run"))
    found = {(cell["backbone"], cell["run"]) for cell in ours if cell["ours"] is not None}
    without = [place for place in _rows(ours) if place not in found]
    names = [run if len(backbones) == 1 else f"{run} ({backbone})" for backbone, run in without]
    seeds = sorted({cell.seed for cell in spec.cells})
    line = grid.about(spec.study, backbones, runs, grid.counted(seeds), names)
    sheet = grid.sheet(spec, line, backbones, grids)
    return Made(FIELDS, cells, sheet, list(spec.table.rows), seeds, models.missing, models.problems)


# ---- columns --------------------------------------------------------------------------------


def columns(table: Table, models: Models, planned: list[str]) -> list[ScoreColumn]:
    """Of a table's kind. planned: the MTEB tasks of the study; empty: those of the results."""
    if table.kind == "general":
        limited = any(one.limited for one in models.seeds)
        six = {name: {task: 1.0} for name, task in numbers.GENERAL.items()}
        six["Avg"] = dict.fromkeys(numbers.GENERAL.values(), 1.0)
        return [
            *(ScoreColumn(name, weights, printed=name, comparable=not limited) for name, weights in six.items()),
            ScoreColumn("Perplexity", {"docstring_perplexity": 1.0}, scale=1.0),
            ScoreColumn("Multiple choice", {"docstring_choice": 1.0}),
            ScoreColumn("Well-formed", {WELL_FORMED: 1.0}),
        ]
    if table.kind == "geometry":  # whether embeddings collapse
        heads = (COSINE, "Uniformity", ALIGNMENT, "Effective rank", "Width")
        return [
            ScoreColumn(head, {geometry(name): 1.0}, scale=1.0, digits=(digits, digits))
            for head, name, digits in zip(heads, GEOMETRY, (3, 3, 3, 1, 0), strict=True)
        ]
    known = {name: tasks.CATEGORY[name] for name in planned}
    known = known or {name: category for one in models.seeds for name, category in one.categories.items()}
    members = {c: sorted(name for name in known if known[name] == c) for c in tasks.CATEGORIES}
    if table.kind == "tasks":
        each = [ScoreColumn(name, {name: 1.0}, category=c) for c, names in members.items() for name in names]
        return [*each, ScoreColumn(AVG_TASKS, {name: 1.0 for names in members.values() for name in names})]
    return _by_category(members, table.subset or bool(table.ablations), set(models.samples))


def _by_category(members: dict[str, list[str]], subset: bool, sampled: set[str]) -> list[ScoreColumn]:
    """The seven categories, their averages, and two figures that say how a score came about.

    Args:
        members: category -> tasks. subset: whether the paper's table is of its 16 tasks (table 4), whose average is
            the mean over tasks. sampled: tasks of which a part was drawn, which compare with nothing.
    """
    of_paper = tasks.SUBSET if subset else tasks.MTEB
    full = {c: set(names) == set(of_paper[c].split()) for c, names in members.items()}
    found = [
        ScoreColumn(c, dict.fromkeys(names, 1.0), printed=c, comparable=full[c] and not sampled & {*names}, category=c)
        for c, names in members.items()
    ]
    every = {name: c for c, names in members.items() for name in names}
    whole, same = all(full.values()), not sampled & every.keys()
    plain = dict.fromkeys(every, 1.0)
    if subset:
        found.append(ScoreColumn(AVG_TASKS, plain, printed="Avg", comparable=whole and same))
    else:
        weights = {name: numbers.PAPER_WEIGHTS[c] / numbers.COUNTS[c] for name, c in every.items()}
        found.append(ScoreColumn(AVG_TASKS, plain, comparable=False))
        found.append(ScoreColumn(AVG_PAPER, weights if whole else {}, printed="Avg", comparable=same))
    cosine = ScoreColumn(COSINE, {geometry("random_pair_cosine"): 1.0}, scale=1.0, digits=(2, 2))
    return [*found, cosine, ScoreColumn(TOKENS, {}, digits=(1, 1))]


# ---- cells ----------------------------------------------------------------------------------


def build(name: str, table: Table, models: Models, columns: list[ScoreColumn]) -> list[Cell]:
    """The cells of a table; a missing number is None.

    Their keys are FIELDS and `planned` (seeds), `problems` (list[Problem]) and `reference`: whether the row is one that
    only the paper has. These follow ours; they are of other backbones, so there is nothing to subtract.
    """

    def placed(cell: Cell, backbone: str, run: str, column: ScoreColumn) -> Cell:
        place = {"table": name, "backbone": backbone, "run": run, "column": column.name, "category": column.category}
        return {**dict.fromkeys(FIELDS), "planned": 0, "problems": [], "reference": False, **cell, **place}

    def printed_as(backbone: str) -> str:
        either = backbone in numbers.BACKBONES and "3b" in backbone
        return GRACE_3B if either and numbers.rows(name, GRACE_3B) else backbone

    def printed(backbone: str, row: str | None, column: ScoreColumn) -> float | None:
        return numbers.printed(name, backbone, row, column.printed) if row and column.printed else None

    cells = []
    for backbone in models.backbones:
        for run, row in table.rows.items():
            if (backbone, run) not in models and any(name == run for _, name in models):
                continue  # is of other backbones alone
            seeds = models.get((backbone, run), [])
            other = models.get((backbone, REFERENCE), []) if run != REFERENCE else []
            for column in columns:
                cell = _cell(column, seeds, other, printed(printed_as(backbone), row, column))
                cells.append(placed(cell, backbone, run, column))
    shown = {printed_as(backbone) for backbone in models.backbones}
    for backbone in ["open"] * table.quoted + [one for one in (*numbers.BACKBONES, GRACE_3B) if one not in shown]:
        for row in numbers.rows(name, backbone):
            for column in columns:
                if (value := printed(backbone, row, column)) is not None:
                    cells.append(placed({"paper": value, "reference": True}, backbone, row, column))
    return cells


def _cell(column: ScoreColumn, seeds: list[Seed], other: list[Seed], printed: float | None) -> Cell:
    cell: Cell = {"paper": printed, "planned": len(seeds)}
    ours = column.value(seeds)
    if ours is None:
        return {**cell, **_empty(column, seeds)}
    problems = list(ours.problems)
    cell |= {"ours": ours.point, "seeds": ours.seeds, "seed_sd": ours.deviation, "source": ";".join(ours.sources)}
    cell["low"], cell["high"] = ours.interval or (None, None)
    if column.name != TOKENS and (against := column.value(other)) is not None:
        problems += against.problems
        cell["delta_vs_reasoning"], interval = difference(ours, against)
        cell["delta_low"], cell["delta_high"] = interval or (None, None)
    if printed is not None and column.comparable:
        cell["difference"] = ours.point - printed
    cell = {key: round(value, 4) if isinstance(value, float) else value for key, value in cell.items()}
    fewer = [f"{ours.seeds} of {len(seeds)} seeds"] if ours.seeds < len(seeds) else []
    return {**cell, **_noted(problems, fewer)}


def _noted(problems: list[Problem], more: list[str]) -> Cell:
    note = " ".join(dict.fromkeys([*more, *(problem.text for problem in problems)])) or None
    return {"problems": list(dict.fromkeys(problems)), "note": note}


def _empty(column: ScoreColumn, seeds: list[Seed]) -> Cell:
    """Why a cell has no number."""
    problems = [one for seed in seeds for one in seed.problems_of(column.weights)]
    missing = [path for one in seeds for path in one.missing]
    if column.name == TOKENS:
        problems = [one for seed in seeds for one in seed.problems if one.kind == "broken" and one.task is None]
    if not seeds:
        return _noted(problems, ["Not planned in this study."])
    if missing:
        return _noted(problems, [f"No result: {', '.join(missing)}."])
    if column.name == TOKENS:
        return _noted(problems, ["Without rationales."])
    if not column.weights:
        return _noted(problems, ["This study does not have the tasks of this column."])
    return _noted(problems, [] if problems else ["The results hold no such number."])


def _mark_absent(models: Models, table: Table, columns: list[ScoreColumn]) -> None:
    """Adds to `models` what their files should hold and do not, as after a change of the tasks."""
    if table.kind == "general":  # what a study's general tasks are, its results say
        return
    beside = {geometry(name) for name in GEOMETRY}
    wanted = {name for column in columns for name in column.weights}
    wanted = wanted & beside if table.kind == "geometry" else wanted - beside
    for (_, run), seeds in models.items():
        for one in seeds:
            if run not in table.rows or one.unusable or not one.files:
                continue
            told = {problem.task for problem in one.problems}
            for name in sorted(wanted - one.scores.keys() - told):
                where = one.files[0] if len(one.files) == 1 else f"{one.files[0]} and its {len(one.files) - 1} others"
                said = f"{where}: there is no {name} of {run}: {AGAIN}."
                one.problems.append(Problem(one.files[0], name, "absent", said))


# ---- what is shown --------------------------------------------------------------------------


def _rows(cells: list[Cell]) -> dict[tuple[str, str], dict[str, Cell]]:
    """(backbone, run) -> its cells by column."""
    by_row = groupby(cells, key=lambda cell: (cell["backbone"], cell["run"]))
    return {place: {cell["column"]: cell for cell in row} for place, row in by_row}


def _by_run(cells: list[Cell], columns: list[ScoreColumn], footnotes: Footnotes) -> Grid:
    rows = [
        [text(label(backbone)), text(run), *(_shown(row[column.name], column, footnotes) for column in columns)]
        for (backbone, run), row in _rows(cells).items()
    ]
    return Grid(["backbone", "run", *(column.name for column in columns)], rows)


def _by_task(cells: list[Cell], columns: list[ScoreColumn], footnotes: Footnotes) -> list[Grid]:
    """A grid for each backbone: tasks down, runs across."""
    grids = []
    for backbone, group in groupby(_rows(cells).items(), key=lambda one: one[0][0]):
        runs = {run: row for (_, run), row in group}
        rows = [
            [text(column.category or ""), text(column.name)]
            + [_shown(row[column.name], column, footnotes) for row in runs.values()]
            for column in columns
        ]
        grids.append(Grid(["category", "task", *runs], rows, heading=label(backbone)))
    return grids


def _reference_grid(cells: list[Cell], columns: list[ScoreColumn]) -> Grid:
    rows = _rows(cells)
    names = [column.name for column in columns if any(column.name in row for row in rows.values())]
    shown = [
        [text(label(backbone)), text(run)]
        + [text(f"{row[name]['paper']:.2f}" if name in row else MISSING) for name in names]
        for (backbone, run), row in rows.items()
    ]
    made = Grid(["backbone", "run", *names], shown, heading="For reference: what the paper prints")
    made.before = [marked("Other models than ours, exactly as printed; no difference is taken.")]
    if any(run in numbers.SHUFFLED for _, run in rows):
        order = ", ".join(next(iter(numbers.SHUFFLED.values())))
        said = f"The columns of {' and '.join(numbers.SHUFFLED)} are printed in another order ({order})."
        made.notes = [("", marked(said))]
    return made


def _shown(cell: Cell, column: ScoreColumn, footnotes: Footnotes) -> TableCell:
    digits, close = column.digits
    if cell["ours"] is None:
        shown = grid.measured(MISSING, None, None, cell["problems"], footnotes)
    else:
        versus = None if cell["delta_low"] is None else (cell["delta_low"], cell["delta_high"])
        deviation = None if cell["seed_sd"] is None else f"{cell['seed_sd']:.{digits}f}"
        interval = [] if cell["low"] is None else [f"[{cell['low']:.{close}f}, {cell['high']:.{close}f}]"]
        if cell["seeds"] < cell["planned"]:
            interval.append(f"({cell['seeds']} of {cell['planned']} seeds)")
        below = [" ".join(interval)] if interval else []
        shown = grid.measured(f"{cell['ours']:.{digits}f}", versus, deviation, cell["problems"], footnotes, *below)
    if cell["paper"] is not None:
        gap = "" if cell["difference"] is None else f" ({cell['difference']:+.2f})"
        shown.printed = [Piece(f"{cell['paper']:.2f}{gap}")]
    return shown


def _notes(spec: specs.TablesSpec, cells: list[Cell], columns: list[ScoreColumn], models: Models) -> list[Line]:
    """What a reader must know to read a table; only what applies. cells: without those of the paper alone."""
    table, names = spec.table, {cell["column"] for cell in cells}
    weighed = {name for column in columns for name in column.weights}
    paper = any(cell["paper"] is not None for cell in cells)
    summarization = [cell["ours"] for cell in cells if cell["column"] == "Summarization"]
    said = grid.notes(
        "scores",
        kind=table.kind,
        columns=names,
        resamples=spec.bootstrap,
        several=max((cell["planned"] for cell in cells), default=0) > 1,
        empty=any(cell["ours"] is None for cell in cells),
        problems=any(cell["problems"] for cell in cells),
        compared=any(cell["difference"] is not None for cell in cells),
        paper=paper,
        either_3b=table.ablations and paper and numbers.rows("table4", GRACE_3B),
        drawn="; ".join(f"{name}: {part}" for name, part in models.samples.items() if name in weighed),
        encoders=spec.encoders,
        no_summarization=summarization and all(ours is None for ours in summarization),
        missing=grid.some(f"`{path}`" for path in models.missing),
    )
    return [marked(note) for note in said]
