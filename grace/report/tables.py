"""Rule `tables`: a table of the paper, ours beside what the paper prints, as CSV, Markdown and HTML.

The CSV is tidy: one row per cell, its source file named. A cell without result is empty there and "—" in
the Markdown. Adding a table is adding an entry to `tables` in config.yaml.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd

from grace import manifest, specs, stage, tasks
from grace.config import Table
from grace.files import write_json, writing
from grace.paper import numbers
from grace.report import markdown
from grace.report.scores import WELL_FORMED, Models, Seed, difference, estimate, load

REFERENCE = "reasoning"  # what every other run is compared with
AVG_TASKS, AVG_PAPER = "Avg (tasks)", "Avg (paper)"
COSINE, TOKENS = "Random-pair cosine", "Rationale tokens"
FIELDS = [
    "table",
    "backbone",
    "run",
    "column",
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
]


class Column(NamedTuple):
    """A column: the weights of its tasks (empty: it cannot be computed here), its scale and printed name.

    comparable: whether ours is the same quantity as the paper's. figure: a number of the texts, without items.
    """

    name: str
    weights: dict[str, float]
    scale: float = 100.0
    printed: str | None = None
    comparable: bool = True
    figure: str | None = None


def categories(models: Models, planned: list[str]) -> dict[str, list[str]]:
    """Category -> the study's tasks in it: those planned, or else those that any result holds."""
    found = {name: c for seeds in models.values() for one in seeds for name, c in one.categories.items()}
    known = {name: tasks.CATEGORY[name] for name in planned} or found
    return {c: sorted(name for name in known if known[name] == c) for c in tasks.CATEGORIES}


def mteb_columns(members: dict[str, list[str]]) -> list[Column]:
    """The seven categories, the two averages, and two figures that say how a score came about."""
    full = {c: set(members[c]) == set(tasks.MTEB[c].split()) for c in tasks.CATEGORIES}
    columns = [Column(c, dict.fromkeys(members[c], 1.0), printed=c, comparable=full[c]) for c in tasks.CATEGORIES]
    every = [name for names in members.values() for name in names]
    columns.append(Column(AVG_TASKS, dict.fromkeys(every, 1.0)))
    weights = {name: numbers.PAPER_WEIGHTS[c] / numbers.COUNTS[c] for c, names in members.items() for name in names}
    columns.append(Column(AVG_PAPER, weights if all(full.values()) else {}, printed="Avg"))
    return columns + [Column(COSINE, {}, figure="random_pair_cosine"), Column(TOKENS, {}, figure="mean_tokens")]


def general_columns() -> list[Column]:
    """The six of table 5 and their mean, then the demo's own."""
    names = numbers.GENERAL
    columns = [Column(printed, {task: 1.0}, printed=printed) for printed, task in names.items()]
    return [
        *columns,
        Column("Avg", dict.fromkeys(names.values(), 1.0), printed="Avg"),
        Column("Perplexity", {"docstring_perplexity": 1.0}, scale=1.0),
        Column("Multiple choice", {"docstring_choice": 1.0}),
        Column("Well-formed", {WELL_FORMED: 1.0}),
    ]


def build(name: str, table: Table, models: Models, planned: list[str]) -> list[dict[str, Any]]:
    """The cells of a table as dictionaries; a missing number is None.

    Their keys are FIELDS and `reference`: whether the row is one that only the paper has.

    Args:
        name: the table's, as in the paper's printed numbers.
        table: its entry in the configuration, `rows` with every run it shows.
        models: of `scores.load`.
        planned: the study's MTEB tasks; empty: those of the results.
    """
    columns = general_columns() if table.kind == "general" else mteb_columns(categories(models, planned))
    backbones = list(dict.fromkeys(backbone for backbone, _ in models))
    cells: list[dict[str, Any]] = []
    for backbone in backbones:
        runs = [run for run in table.rows if (backbone, run) in models or table.rows[run]]
        for run in runs:
            seeds, other = models.get((backbone, run), []), models.get((backbone, REFERENCE), [])
            for column in columns:
                printed = _printed(name, backbone, table.rows[run], column)
                cell = _cell(column, seeds, other if run != REFERENCE else [], printed)
                place = {"table": name, "backbone": backbone, "run": run, "column": column.name}
                cells.append({**place, **cell, "reference": False})
    # The paper's other rows follow for reference: other backbones, so there is nothing to subtract.
    for backbone in ["open"] * table.quoted + [b for b in numbers.BACKBONES if b not in backbones]:
        for row in numbers.rows(name, backbone):
            for column in columns:
                if (value := _printed(name, backbone, row, column)) is not None:
                    place = {"table": name, "backbone": backbone, "run": row, "column": column.name}
                    cells.append({**dict.fromkeys(FIELDS), **place, "paper": value, "reference": True})
    return cells


def _printed(table: str, backbone: str, row: str | None, column: Column) -> float | None:
    return numbers.printed(table, backbone, row, column.printed) if row and column.printed else None


def _cell(column: Column, seeds: list[Seed], other: list[Seed], printed: float | None) -> dict[str, Any]:
    cell: dict[str, Any] = dict.fromkeys(FIELDS[4:])
    cell["paper"] = printed
    if column.figure:
        found = [value for one in seeds if (value := one.figure(column.figure)) is not None]
        if found:
            mean = sum(value for value, _ in found) / len(found)
            sources = ";".join(path for _, paths in found for path in paths)
            cell |= {"ours": round(mean, 4), "seeds": len(found), "source": sources}
        return cell
    ours = estimate(seeds, column.weights, column.scale)
    if ours is None:
        return cell
    cell |= {"ours": ours.point, "seeds": ours.seeds, "seed_sd": ours.deviation, "source": ";".join(ours.sources)}
    if ours.interval:
        cell["low"], cell["high"] = ours.interval
    if (against := estimate(other, column.weights, column.scale)) is not None:
        cell["delta_vs_reasoning"], interval = difference(ours, against)
        if interval:
            cell["delta_low"], cell["delta_high"] = interval
    if printed is not None and column.comparable:
        cell["difference"] = ours.point - printed
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in cell.items()}


@stage.entry(specs.TablesSpec, outputs=("csv", "md", "html", "record"))
def main(spec: specs.TablesSpec, paths: SimpleNamespace) -> None:
    models = load(spec.cells, spec.bootstrap)
    missing = sorted({path for seeds in models.values() for one in seeds for path in one.missing})
    about = markdown.About(spec.study, spec.bootstrap, [cell.seed for cell in spec.cells], missing)
    cells = build(spec.name, spec.table, models, spec.tasks)
    text = markdown.render(spec.table.title, cells, about)
    with writing(paths.csv) as temporary:
        pd.DataFrame(cells, columns=FIELDS).astype({"seeds": "Int64"}).to_csv(temporary, index=False)
    with writing(paths.md) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with writing(paths.html) as temporary:
        temporary.write_text(markdown.page(spec.table.title, text), encoding="utf-8")
    read = sorted({path for cell in spec.cells for path in cell.results if Path(path).exists()})
    record = manifest.make("tables", spec, list(read), paths.started)
    write_json(paths.record, {"manifest": record, "missing": missing})


if __name__ == "__main__":
    main()
