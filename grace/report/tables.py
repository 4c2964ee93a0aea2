"""Rule `tables`: a table of the paper, ours beside what the paper prints, as CSV, Markdown, LaTeX and HTML.

The CSV is tidy: one row per cell, its source file and what is wrong with it named. A cell without result is empty
there and "—" elsewhere. Adding a table is adding an entry to `tables` in studies/exhibits.yaml.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd

from grace import manifest, specs, stage
from grace.files import writing
from grace.report.scoring import judged, tradeoff
from grace.report.scoring.results import Problem
from grace.report.scoring.scores import load
from grace.report.sheets import cells, effects, html, latex, markdown, rationales, score_sheet
from grace.report.sheets import tradeoff as tradeoff_sheet
from grace.report.sheets.columns import columns
from grace.report.sheets.grid import Sheet
from grace.shown import files

# Numbers without a fraction.
WHOLE = ("seed", "seeds", "step", "tokens", "identical_rationales", "tokens_read", "tokens_written")


class Made(NamedTuple):
    """A table: its tidy rows under `fields`, what is shown, and what the record says about it."""

    fields: list[str]
    rows: list[dict[str, Any]]
    sheet: Sheet
    runs: list[str]
    seeds: list[int]
    missing: list[str]
    problems: list[Problem]
    statements: tuple[dict[str, Any], ...] = ()


def make(spec: specs.TablesSpec) -> Made:
    if spec.traded is not None:
        return of_trade(spec, spec.traded)
    return of_rationales(spec) if spec.table.kind in ("progress", "samples") else of_scores(spec)


def of_trade(spec: specs.TablesSpec, traded: specs.Traded) -> Made:
    found = tradeoff.trade(traded, spec.bootstrap)
    runs = list(dict.fromkeys(point.of for point in found.points))
    seeds = sorted({cell.seed for cell in traded.cells})
    if spec.table.kind == "tradeoff":
        rows = tradeoff_sheet.rows(found)
        sheet = tradeoff_sheet.sheet(spec, found, rows)
        return Made(tradeoff_sheet.FIELDS, rows, sheet, runs, seeds, found.missing, found.problems)
    stated = judged.every(found)
    return Made(
        effects.FIELDS, effects.rows(spec.table, found), effects.sheet(spec, found, stated), runs, seeds, found.missing,
        found.problems, tuple(map(judged.record, stated)),
    )  # fmt: skip


def of_scores(spec: specs.TablesSpec) -> Made:
    models = load(spec.cells, spec.bootstrap)
    shown = columns(spec.table, models, spec.tasks)
    cells.mark_absent(models, spec.table, shown)
    rows = cells.build(spec.name, spec.table, models, shown)
    sheet = score_sheet.sheet(spec, rows, shown, models.missing, models.samples)
    seeds = sorted({cell.seed for cell in spec.cells})
    return Made(cells.FIELDS, rows, sheet, list(spec.table.rows), seeds, models.missing, models.problems)


def of_rationales(spec: specs.TablesSpec) -> Made:
    cases = rationales.load(spec)
    runs = list(dict.fromkeys(row["run"] for row in cases.rows if row["run"]))
    sheet = rationales.sheet(spec, cases)
    return Made(rationales.FIELDS, cases.rows, sheet, runs, sorted(cases.seeds), cases.missing, cases.problems)


def write_csv(path: Path, fields: list[str], rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame([{name: _storable(row[name]) for name in fields} for row in rows], columns=fields)
    frame = frame.astype({name: "Int64" for name in WHOLE if name in fields})
    with writing(path) as temporary:
        frame.to_csv(temporary, index=False, encoding="utf-8")


def _storable(value: Any) -> Any:
    """A model can write a NUL, and half a character, which UTF-8 does not have; as escapes."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


@stage.entry(specs.TablesSpec, outputs=("csv", "md", "tex", "html", "record"))
def main(spec: specs.TablesSpec, paths: SimpleNamespace) -> None:
    made = make(spec)
    write_csv(paths.csv, made.fields, made.rows)
    texts = {
        paths.md: markdown.render(made.sheet),
        paths.tex: latex.render(made.sheet, f"tab:{spec.study}-{spec.name}"),
        paths.html: html.render(made.sheet),
    }
    for path, content in texts.items():
        with writing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    named = [path for cell in spec.cells for path in cell.results] + list(spec.cases.values())
    named += files(spec.traded) if spec.traded else []
    read: list[Path | str] = [path for path in sorted(set(named)) if os.access(path, os.R_OK) and Path(path).is_file()]
    manifest.write_result(
        paths.record,
        manifest.make("tables", spec, read, paths.started),
        title=spec.table.title,
        caption=spec.table.caption,
        line=made.sheet.line,
        sheet=made.sheet.as_json(),
        runs=made.runs,
        seeds=made.seeds,
        backbones=list(dict.fromkeys([cell.backbone for cell in _cells(spec)] + list(spec.cases))),
        missing=made.missing,
        problems=[problem._asdict() for problem in made.problems],
        **({"statements": list(made.statements)} if made.statements else {}),
    )


def _cells(spec: specs.TablesSpec) -> list[specs.Cell]:
    return spec.traded.cells if spec.traded else spec.cells


if __name__ == "__main__":
    main()
