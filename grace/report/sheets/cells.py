"""The cells of a table of scores, one dictionary each: ours, its intervals, the paper's, and what is wrong with it."""

from __future__ import annotations

from typing import Any

from grace.config import Table
from grace.paper import numbers
from grace.report.scoring.models import Models, Seed
from grace.report.scoring.results import AGAIN, GEOMETRY, Problem, geometry
from grace.report.scoring.scores import difference, estimate, tokens
from grace.report.sheets.columns import Column
from grace.shown import REFERENCE

GRACE_3B = "grace-3b"  # as the paper calls a backbone of table 4, without saying which of its two
FIELDS = [
    "table",
    "backbone",
    "run",
    "column",
    "category",
    "ours",
    "low",
    "high",
    "delta_vs_reasoning",
    "delta_low",
    "delta_high",
    "paper",
    "difference",
    "seeds",
    "seed_sd",
    "source",
    "note",
]
NONE = "The results hold no such number."
Cell = dict[str, Any]


def build(name: str, table: Table, models: Models, columns: list[Column]) -> list[Cell]:
    """The cells of a table; a missing number is None.

    Their keys are FIELDS and `planned` (seeds), `problems` (list[Problem]) and `reference`: whether the row is one
    that only the paper has.

    Args:
        name: the table's, as in the paper's printed numbers.
        table: its entry in the configuration, `rows` with every run it shows.
        models: of `scores.load`.
        columns: of `columns.columns`.
    """
    backbones = list(dict.fromkeys(backbone for backbone, _ in models))
    cells: list[Cell] = []
    for backbone in backbones:
        other = models.get((backbone, REFERENCE), [])
        for run, row in table.rows.items():
            if (backbone, run) not in models and any(name == run for _, name in models):
                continue  # is of other backbones alone
            seeds = models.get((backbone, run), [])
            for column in columns:
                printed = _printed(name, _printed_as(name, backbone), row, column)
                cell = _cell(column, seeds, other if run != REFERENCE else [], printed)
                place = {"table": name, "backbone": backbone, "run": run, "column": column.name}
                cells.append({**cell, **place, "category": column.category, "reference": False})
    return cells + _reference(name, table, backbones, columns)


def _reference(name: str, table: Table, backbones: list[str], columns: list[Column]) -> list[Cell]:
    """The paper's other rows, which follow for reference: other backbones, so there is nothing to subtract."""
    shown = {_printed_as(name, backbone) for backbone in backbones}
    others = [backbone for backbone in (*numbers.BACKBONES, GRACE_3B) if backbone not in shown]
    cells = []
    for backbone in ["open"] * table.quoted + others:
        for row in numbers.rows(name, backbone):
            for column in columns:
                if (value := _printed(name, backbone, row, column)) is not None:
                    place = {"table": name, "backbone": backbone, "run": row, "column": column.name}
                    empty: Cell = {**dict.fromkeys(FIELDS), "planned": 0, "problems": []}
                    cells.append({**empty, **place, "category": column.category, "paper": value, "reference": True})
    return cells


def _printed_as(table: str, backbone: str) -> str:
    """The backbone under which a table prints the numbers of ours."""
    either = backbone in numbers.BACKBONES and "3b" in backbone
    return GRACE_3B if either and numbers.rows(table, GRACE_3B) else backbone


def _printed(table: str, backbone: str, row: str | None, column: Column) -> float | None:
    return numbers.printed(table, backbone, row, column.printed) if row and column.printed else None


def _cell(column: Column, seeds: list[Seed], other: list[Seed], printed: float | None) -> Cell:
    def value(of: list[Seed]) -> Any:
        return tokens(of) if column.tokens else estimate(of, column.weights, column.scale)

    cell: Cell = {**dict.fromkeys(FIELDS), "paper": printed, "planned": len(seeds)}
    ours = value(seeds)
    if ours is None:
        problems = [one for seed in seeds for one in seed.problems_of(column.weights)]
        if column.tokens:
            problems = [one for seed in seeds for one in seed.problems if one.kind == "broken" and one.task is None]
        problems, why = list(dict.fromkeys(problems)), _why_none(column, seeds)
        return {**cell, "problems": problems, "note": _note(problems, [] if problems and why == [NONE] else why)}
    problems = list(ours.problems)
    cell |= {"ours": ours.point, "seeds": ours.seeds, "seed_sd": ours.deviation, "source": ";".join(ours.sources)}
    if ours.interval:
        cell["low"], cell["high"] = ours.interval
    if not column.tokens and (against := value(other)) is not None:
        problems += against.problems
        cell["delta_vs_reasoning"], interval = difference(ours, against)
        if interval:
            cell["delta_low"], cell["delta_high"] = interval
    if printed is not None and column.comparable:
        cell["difference"] = ours.point - printed
    cell = {key: round(value, 4) if isinstance(value, float) else value for key, value in cell.items()}
    problems = list(dict.fromkeys(problems))
    fewer = [f"{ours.seeds} of {len(seeds)} seeds"] if ours.seeds < len(seeds) else []
    return {**cell, "problems": problems, "note": _note(problems, fewer)}


def _note(problems: list[Problem], more: list[str]) -> str | None:
    return " ".join(dict.fromkeys([*more, *(problem.text for problem in problems)])) or None


def _why_none(column: Column, seeds: list[Seed]) -> list[str]:
    """Why a cell is empty, where no problem says so."""
    if not seeds:
        return ["Not planned in this study."]
    if missing := [path for one in seeds for path in one.missing]:
        return [f"No result: {', '.join(missing)}."]
    if not column.weights and not column.tokens:
        return ["This study does not have the tasks of this column."]
    return ["Without rationales."] if column.tokens else [NONE]


def mark_absent(models: Models, table: Table, columns: list[Column]) -> None:
    """Adds to `models` what their files should hold and do not, as after a change of the tasks."""
    if table.kind == "general":  # what a study's general tasks are, its results say
        return
    known = {geometry(name) for name in GEOMETRY} if table.kind == "geometry" else set()
    for (_, run), seeds in models.items():
        for one in seeds:
            if run not in table.rows or one.lost or not one.files:
                continue
            wanted = {name for column in columns for name in column.weights}
            wanted = wanted & known if known else {name for name in wanted if not name.startswith("geometry.")}
            told = {problem.task for problem in one.problems}
            for name in sorted(wanted - one.scores.keys() - told):
                where = one.files[0] if len(one.files) == 1 else f"{one.files[0]} and its {len(one.files) - 1} others"
                text = f"{where}: there is no {name} of {run}: {AGAIN}."
                one.problems.append(Problem(one.files[0], name, "absent", text))
