"""Give every training row hard negatives: its own, or mined from the other rows' positives."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

from grace import manifest, stage
from grace.data.mining import Miner
from grace.files import JsonLines, write_json, write_jsonl
from grace.reader import read_jsonl
from grace.section import UserError
from grace.specs import TriplesSpec

Row = dict[str, Any]


class Bare(Sequence[Row]):
    """The rows of a file that bring no negatives."""

    def __init__(self, rows: JsonLines, numbers: array) -> None:
        self.rows, self.numbers = rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, at: Any) -> Any:
        return self.rows[self.numbers[at]]


def with_mined(rows: Iterator[Row], mined: Iterator[list[str] | None]) -> Iterator[Row]:
    """Rows in their order: those with negatives as they are, the others with the next of `mined` if there are any."""
    for row in rows:
        if row.get("negatives"):
            yield row
        elif (negatives := next(mined)) is not None:
            yield {**row, "negatives": negatives}


def alike(rows: Iterator[Row], count: int, dropped: Counter[str]) -> Iterator[Row]:
    """Rows with `count` negatives each: the first of those with more; rows with fewer are dropped and counted."""
    for row in rows:
        if len(row["negatives"]) < count:
            dropped[f"fewer than {count} negatives"] += 1
        else:
            yield {**row, "negatives": row["negatives"][:count]}


@stage.entry(TriplesSpec, inputs=("train",), outputs=("out", "report"))
def main(spec: TriplesSpec, paths: SimpleNamespace) -> None:
    read, bare, own = 0, array("q"), Counter[int]()
    for read, row in enumerate(read_jsonl(paths.train, ("query", "positive")), 1):
        if negatives := row.get("negatives"):
            own[len(negatives)] += 1
        else:
            bare.append(read - 1)
    if not read:
        raise UserError(f"{paths.train}: holds no row; hold out fewer rows with data.test and data.validation.")
    report: dict[str, Any] = {"dropped": {}}
    rows = read_jsonl(paths.train)
    numbers = own + Counter({spec.mining.negatives: len(bare)})
    count = max(numbers, key=lambda number: (numbers[number], -number))  # that of most rows; a batch needs one
    short = Counter[str]()
    if bare:
        miner = Miner(Bare(JsonLines(paths.train), bare), spec.mining, paths.out.parent)
        rows = with_mined(rows, miner.negatives())
    rows = alike(rows, count, short)
    first = next(rows, None)
    if first is None:
        raise UserError(
            f"{paths.train}: no row of {read} has {spec.mining.negatives} negatives in the window; relax "
            "data.mining.margin, max_score, rank_min or rank_max."
        )
    kept = write_jsonl(paths.out, chain([first], rows))
    if bare:
        report = miner.report
    report["dropped"] = report["dropped"] | short
    if short:
        some = (paths.train, short.total(), read, count)
        logging.warning("%s: %d of %d rows have fewer than the %d negatives that most have, and are dropped", *some)
    counts = {"read": read, "with_own_negatives": read - len(bare), "kept": kept}
    made = manifest.make("triples", spec, [paths.train], paths.started)
    write_json(paths.report, {**counts, **report, "manifest": made})


if __name__ == "__main__":
    main()
