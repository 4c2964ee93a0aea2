"""Rule `tables`: a table of the paper, ours beside what the paper prints, as CSV, Markdown, LaTeX and HTML.

The CSV is tidy: one row per cell, its source file and what is wrong with it named. A cell without result is empty
there and "—" elsewhere. Adding a table is adding an entry to `tables` in studies/exhibits.yaml.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from grace.config import specs
from grace.config.plan import files
from grace.jobs import manifest, stage
from grace.jobs.files import writing
from grace.report.sheets import formats, rationale_tables, score_tables, trade_tables
from grace.report.sheets.grid import Made

# Numbers without a fraction.
WHOLE = ("seed", "seeds", "step", "tokens", "identical_rationales", "tokens_read", "tokens_written")


def make(spec: specs.TablesSpec) -> Made:
    if spec.traded is not None:
        return trade_tables.make(spec, spec.traded)
    return rationale_tables.make(spec) if spec.table.kind in ("progress", "samples") else score_tables.make(spec)


def as_csv(made: Made) -> str:
    def storable(value: Any) -> Any:
        """A model can write a NUL, and half a character, which UTF-8 does not have; as escapes."""
        if not isinstance(value, str):
            return value
        return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")

    rows = [[storable(row[name]) for name in made.fields] for row in made.rows]
    frame = pd.DataFrame(rows, columns=made.fields)
    return frame.astype({name: "Int64" for name in WHOLE if name in made.fields}).to_csv(index=False)


@stage.entry(specs.TablesSpec, outputs=("csv", "md", "tex", "html", "record"))
def main(spec: specs.TablesSpec, paths: SimpleNamespace) -> None:
    made = make(spec)
    texts = {
        paths.csv: as_csv(made),
        paths.md: formats.markdown(made.sheet),
        paths.tex: formats.latex(made.sheet, f"tab:{spec.study}-{spec.name}"),
        paths.html: formats.html(made.sheet),
    }
    for path, content in texts.items():
        with writing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    cells = spec.traded.cells if spec.traded else spec.cells
    named = {path for cell in spec.cells for path in cell.results} | {*spec.cases.values()}
    named |= set(files(spec.traded)) if spec.traded else set()
    read: list[Path | str] = [path for path in sorted(named) if os.access(path, os.R_OK) and Path(path).is_file()]
    manifest.write_result(
        paths.record,
        manifest.make("tables", spec, read, paths.started),
        title=spec.table.title,
        caption=spec.table.caption,
        line=made.sheet.line,
        sheet=made.sheet.as_json(),
        runs=made.runs,
        seeds=made.seeds,
        backbones=list(dict.fromkeys([cell.backbone for cell in cells] + list(spec.cases))),
        missing=made.missing,
        problems=[problem._asdict() for problem in made.problems],
        **({"statements": made.statements} if made.statements else {}),
    )


if __name__ == "__main__":
    main()
