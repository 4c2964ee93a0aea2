"""Puts a finished study's results into pages that have a place for them, and their figures beside these.

    python -m grace.report.readme results/demo README.md docs/tradeoff.md

Table 1 and figure 1; and, where `snakemake tradeoff` has made them, the trade-off of embeddings and generation, its
effects and its figure.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from grace.files import read_json, writing
from grace.mistakes import in_one_sentence
from grace.section import UserError
from grace.tasks import CATEGORIES

BEGIN, END = "<!-- results: make readme -->", "<!-- /results -->"
TRADE_BEGIN, TRADE_END = "<!-- trade-off: make readme -->", "<!-- /trade-off -->"
FIGURE, PARETO = Path("docs/figure1.svg"), Path("pareto.svg")  # beside README; beside the page of the trade-off
AVERAGE = "Avg (tasks)"
SHORT = {"PairClassification": "Pairs"}
MISSING = "—"
Row = dict[str, str]


class Column(NamedTuple):
    """Of the trade-off's table: field of the csv, in which mode (empty: the same in both), head, factor and digits.

    signed: with its sign.
    """

    field: str
    mode: str
    head: str
    factor: float = 1.0
    digits: int = 3
    signed: bool = False


TRADED = (
    *(
        Column(field, mode, f"{head}, {mode}")
        for field, head in (("ndcg", "nDCG@10"), ("embedding_mean", "embedding mean"))
        for mode in ("direct", "reasoning")
    ),
    Column("well_formed", "", "well-formed"),
    Column("perplexity_change", "", "perplexity, %", 100.0, 1, True),
    Column("compute_seconds", "", "compute, s", digits=0),
)


def block(study: Path) -> str:
    """Table 1 in short: categories, and their average with its interval; a missing number is a dash.

    Raises:
        UserError: when the study has no table 1.
    """
    rows = _rows(study / "tables/table1.csv", "table1")
    kept = [row for row in rows if row["ours"] or not row["paper"]]
    several = len({row.get("backbone") for row in kept}) > 1
    cells = {((*([row["backbone"]] if several else []), row["run"]), row["column"]): row for row in kept}
    columns = [name for name in (*CATEGORIES, AVERAGE) if any(column == name for _, column in cells)]
    lines = _grid(
        [*["backbone"] * several, "run", *(SHORT.get(name, name) for name in columns)],
        [
            [*key, *(_text(cells.get((key, name)), name == AVERAGE) for name in columns)]
            for key in dict.fromkeys(key for key, _ in cells)
        ],
        several + 1,
    )
    said = read_json(study / "tables/table1.json")["line"]
    return "\n".join([said, "", *lines, "", f"![Figure 1: generation against embedding]({FIGURE})"])


def traded(study: Path) -> str:
    """Each run in both modes, means over the seeds, then the effects on nDCG@10 with their intervals."""
    rows = _rows(study / "tables/tradeoff.csv", "tradeoff")
    models: dict[tuple[str, ...], list[Row]] = {}
    several = len({row["backbone"] for row in rows}) > 1
    for row in rows:
        models.setdefault((*([row["backbone"]] if several else []), row["run"]), []).append(row)
    names = ["backbone"] * several
    lines = _grid(
        [*names, "run", *(column.head for column in TRADED)],
        [[*key, *(_mean(seeds, column) for column in TRADED)] for key, seeds in models.items()],
        len(names) + 1,
    )
    effects = [row for row in _rows(study / "tables/effects.csv", "tradeoff") if row["measure"] == "ndcg"]
    more = _grid(
        [*names, "gradient", "run", "minus", "nDCG@10"],
        [
            [*([row["backbone"]] if several else []), row["gradient"], f"{row['run']}, {row['mode']}",
             f"{row['other']}, {row['other_mode']}", _effect(row)]
            for row in effects
        ],
        len(names) + 3,
    )  # fmt: skip
    said = read_json(study / "tables/tradeoff.json")["line"]
    return "\n".join([said, "", *lines, "", *more, "", f"![Embeddings against generation]({PARETO})"])


def _rows(path: Path, target: str) -> list[Row]:
    if not path.exists():
        raise UserError(f"{path}: no such file; make it with: snakemake {target}.")
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _grid(head: list[str], rows: Iterable[list[str]], left: int = 1) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * left + "---:|" * (len(head) - left),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _text(cell: Row | None, interval: bool) -> str:
    if cell is None or not cell["ours"]:
        return MISSING
    text = f"{float(cell['ours']):.1f}"
    return f"{text} [{float(cell['low']):.1f}, {float(cell['high']):.1f}]" if interval and cell["low"] else text


def _mean(rows: list[Row], column: Column) -> str:
    some = [row for row in rows if column.mode in ("", row["mode"])]
    values = [float(row[column.field]) * column.factor for row in some if row[column.field]]
    if not values:
        return MISSING
    mean = fmean(values)  # exact sums: equal seeds give one mean, however many rows they are
    return f"{mean:+.{column.digits}f}" if column.signed else f"{mean:.{column.digits}f}"


def _effect(row: Row) -> str:
    if not row["effect"]:
        return MISSING
    interval = f" [{float(row['low']):+.3f}, {float(row['high']):+.3f}]" if row["low"] else ""
    return f"{float(row['effect']):+.3f}{interval}"


def put(study: Path, pages: list[Path]) -> None:
    """Replace the pages' blocks and the figures beside them; that of the trade-off only where the study has it.

    Raises:
        UserError: when a page has no place for results, or the study no table 1 or figure 1. Nothing is changed then.
    """
    texts: dict[Path, str] = {}
    figures: dict[Path, Path] = {}
    for page in pages:
        if not page.is_file():
            raise UserError(f"{page}: no such file.")
        text = page.read_text(encoding="utf-8")
        if BEGIN not in text and TRADE_BEGIN not in text:
            raise UserError(f"{page}: has no lines {BEGIN} and {END}; put them where the results shall stand.")
        if BEGIN in text:
            text = _replaced(page, text, (BEGIN, END), block(study))
            figures[page.parent / FIGURE] = _drawing(study / "figures/figure1.svg", "figure1")
        if TRADE_BEGIN in text and (study / "tables/tradeoff.csv").exists():
            text = _replaced(page, text, (TRADE_BEGIN, TRADE_END), traded(study))
            figures[page.parent / PARETO] = _drawing(study / "figures/pareto.svg", "tradeoff")
        texts[page] = text
    for place, drawing in figures.items():
        with writing(place) as temporary:
            shutil.copyfile(drawing, temporary)
    for page, text in texts.items():
        with writing(page) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _replaced(page: Path, text: str, marks: tuple[str, str], made: str) -> str:
    begin, end = marks
    before, _, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not last:
        raise UserError(f"{page}: has no line {end} after {begin}; put it where the results shall end.")
    return f"{before}{begin}\n{made}\n{end}{after}"


def _drawing(path: Path, target: str) -> Path:
    if not path.exists():
        raise UserError(f"{path}: no such file; make it with: snakemake {target}.")
    return path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=Path, help="a study's folder, as results/demo")
    parser.add_argument("pages", type=Path, nargs="+", help="as README.md docs/tradeoff.md")
    arguments = parser.parse_args(argv)
    with in_one_sentence():
        put(arguments.study, arguments.pages)


if __name__ == "__main__":
    main()
