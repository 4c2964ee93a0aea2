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

from grace.config.section import UserError
from grace.config.tasks import CATEGORIES
from grace.jobs.files import read_json, writing
from grace.jobs.stage import in_one_sentence

BEGIN, END = "<!-- results: make readme -->", "<!-- /results -->"
TRADE_BEGIN, TRADE_END = "<!-- trade-off: make readme -->", "<!-- /trade-off -->"
FIGURE, PARETO = Path("docs/figure1.svg"), Path("pareto.svg")  # beside README; beside the page of the trade-off
AVERAGE = "Avg (tasks)"
SHORT = {"PairClassification": "Pairs"}
MISSING = "—"
# Of the trade-off's table: head, field of the csv, in which mode (empty: the same in both), factor and format.
TRADED = (
    ("nDCG@10, direct", "ndcg", "direct", 1, ".3f"),
    ("nDCG@10, reasoning", "ndcg", "reasoning", 1, ".3f"),
    ("embedding mean, direct", "embedding_mean", "direct", 1, ".3f"),
    ("embedding mean, reasoning", "embedding_mean", "reasoning", 1, ".3f"),
    ("well-formed", "well_formed", "", 1, ".3f"),
    ("perplexity, %", "perplexity_change", "", 100, "+.1f"),
    ("compute, s", "compute_seconds", "", 1, ".0f"),
)
Row = dict[str, str]


def block(study: Path) -> str:
    """Table 1 in short: categories, and their average with its interval; a missing number is a dash.

    Raises:
        UserError: when the study has no table 1.
    """
    rows = [row for row in _rows(study / "tables/table1.csv", "table1") if row["ours"] or not row["paper"]]
    names = _names(rows)
    cells: dict[tuple[str, ...], Row] = {(*(row[name] for name in names), row["column"]): row for row in rows}
    columns = [name for name in (*CATEGORIES, AVERAGE) if any(column == name for *_, column in cells)]

    def text(cell: Row | None) -> str:
        if cell is None or not cell["ours"]:
            return MISSING
        bounds = f" [{float(cell['low']):.1f}, {float(cell['high']):.1f}]" if cell["low"] else ""
        return f"{float(cell['ours']):.1f}" + bounds * (cell["column"] == AVERAGE)

    lines = _grid(
        [*names, *(SHORT.get(name, name) for name in columns)],
        [[*key, *(text(cells.get((*key, name))) for name in columns)] for key in dict.fromkeys(k[:-1] for k in cells)],
        len(names),
    )
    line = read_json(study / "tables/table1.json")["line"]
    return "\n".join([line, "", *lines, "", f"![Figure 1: generation against embedding]({FIGURE})"])


def traded(study: Path) -> str:
    """Each run in both modes, means over the seeds, then the effects on nDCG@10 with their intervals."""
    rows = _rows(study / "tables/tradeoff.csv", "tradeoff")
    names = _names(rows)
    models: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        models.setdefault(tuple(row[name] for name in names), []).append(row)

    def mean(seeds: list[Row], field: str, mode: str, factor: int, form: str) -> str:
        values = [float(row[field]) * factor for row in seeds if mode in ("", row["mode"]) and row[field]]
        # fmean sums exactly: equal seeds give one mean, however many rows they are.
        return f"{fmean(values):{form}}" if values else MISSING

    def effect(row: Row) -> str:
        interval = f" [{float(row['low']):+.3f}, {float(row['high']):+.3f}]" if row["low"] else ""
        return f"{float(row['effect']):+.3f}{interval}" if row["effect"] else MISSING

    lines = _grid(
        [*names, *(head for head, *_ in TRADED)],
        [[*key, *(mean(seeds, *column[1:]) for column in TRADED)] for key, seeds in models.items()],
        len(names),
    )
    effects = [
        [
            *(row[name] for name in names[:-1]),
            row["gradient"],
            f"{row['run']}, {row['mode']}",
            f"{row['other']}, {row['other_mode']}",
            effect(row),
        ]
        for row in _rows(study / "tables/effects.csv", "tradeoff")
        if row["measure"] == "ndcg"
    ]
    more = _grid([*names[:-1], "gradient", "run", "minus", "nDCG@10"], effects, len(names) + 2)
    line = read_json(study / "tables/tradeoff.json")["line"]
    return "\n".join([line, "", *lines, "", *more, "", f"![Embeddings against generation]({PARETO})"])


def _names(rows: list[Row]) -> list[str]:
    """The columns that name a model: `run`, and `backbone` where there are several."""
    return ["backbone", "run"] if len({row.get("backbone") for row in rows}) > 1 else ["run"]


def _rows(path: Path, target: str) -> list[Row]:
    with open(_made(path, target), encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _made(path: Path, target: str) -> Path:
    if not path.exists():
        raise UserError(f"{path}: no such file; make it with: snakemake {target}.")
    return path


def _grid(head: list[str], rows: Iterable[list[str]], left: int) -> list[str]:
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    first, *others = (f"| {' | '.join(row)} |" for row in (head, *rows))
    return [first, rule, *others]


# First and last line of a block, its text, the figure of the study and its target, where the figure goes.
PLACES = (
    (BEGIN, END, block, "figures/figure1.svg", "figure1", FIGURE),
    (TRADE_BEGIN, TRADE_END, traded, "figures/pareto.svg", "tradeoff", PARETO),
)


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
        for begin, end, made, drawing, target, figure in PLACES:
            if begin not in text or (made is traded and not (study / "tables/tradeoff.csv").exists()):
                continue
            before, _, rest = text.partition(begin)
            _, last, after = rest.partition(end)
            if not last:
                raise UserError(f"{page}: has no line {end} after {begin}; put it where the results shall end.")
            text = f"{before}{begin}\n{made(study)}\n{end}{after}"
            figures[page.parent / figure] = _made(study / drawing, target)
        texts[page] = text
    for place, found in figures.items():
        with writing(place) as temporary:
            shutil.copyfile(found, temporary)
    for page, text in texts.items():
        with writing(page) as temporary:
            temporary.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=Path, help="a study's folder, as results/demo")
    parser.add_argument("pages", type=Path, nargs="+", help="as README.md docs/tradeoff.md")
    arguments = parser.parse_args(argv)
    with in_one_sentence():
        put(arguments.study, arguments.pages)


if __name__ == "__main__":
    main()
