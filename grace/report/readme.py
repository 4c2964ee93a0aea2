"""Puts a finished study's table 1 and figure 1 into README: python -m grace.report.readme results/demo README.md"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from pathlib import Path

from grace.files import read_json, writing
from grace.section import UserError
from grace.tasks import CATEGORIES

BEGIN, END = "<!-- results: make readme -->", "<!-- /results -->"
FIGURE = Path("docs/figure1.svg")  # beside README
AVERAGE = "Avg (tasks)"
SHORT = {"PairClassification": "Pairs"}


def block(study: Path) -> str:
    """Table 1 in short: categories, and their average with its interval; a missing number is a dash.

    Raises:
        UserError: when the study has no table 1.
    """
    path = study / "tables/table1.csv"
    if not path.exists():
        raise UserError(f"{path}: no such file; make it with: snakemake table1.")
    with open(path, encoding="utf-8", newline="") as handle:
        cells = {(row["run"], row["column"]): row for row in csv.DictReader(handle) if row["ours"] or not row["paper"]}
    columns = [name for name in (*CATEGORIES, AVERAGE) if any(column == name for _, column in cells)]
    lines = ["| run | " + " | ".join(SHORT.get(name, name) for name in columns) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for run in dict.fromkeys(run for run, _ in cells):
        lines.append(
            f"| {run} | " + " | ".join(_text(cells.get((run, name)), name == AVERAGE) for name in columns) + " |"
        )
    said = read_json(study / "tables/table1.json")["line"]
    return "\n".join([said, "", *lines, "", f"![Figure 1: generation against embedding]({FIGURE})"])


def _text(cell: dict[str, str] | None, interval: bool) -> str:
    if cell is None or not cell["ours"]:
        return "—"
    text = f"{float(cell['ours']):.1f}"
    return f"{text} [{float(cell['low']):.1f}, {float(cell['high']):.1f}]" if interval and cell["low"] else text


def put(study: Path, readme: Path) -> None:
    """Replace README's block and the figure beside it.

    Raises:
        UserError: when README has no place for the block, or the study no table 1 or figure 1.
    """
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{readme}: has no lines {BEGIN} and {END}; put them where the results shall stand.")
    made = block(study)
    figure = study / "figures/figure1.svg"
    if not figure.exists():
        raise UserError(f"{figure}: no such file; make it with: snakemake figure1.")
    with writing(readme.parent / FIGURE) as temporary:
        shutil.copyfile(figure, temporary)
    with writing(readme) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("study", type=Path, help="a study's folder, as results/demo")
    parser.add_argument("readme", type=Path)
    arguments = parser.parse_args(argv)
    try:
        put(arguments.study, arguments.readme)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
