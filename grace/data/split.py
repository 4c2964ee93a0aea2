"""Hold out test and validation rows, and remove their copies and near duplicates from the training rows.

Rows are read several times. Only the held-out ones are in memory, and the tf-idf that near duplicates need.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
from tqdm import tqdm

from grace.config.section import UserError
from grace.config.specs import SplitSpec
from grace.data.similarity import CosineIndex, Tfidf, largest_cosines, normal
from grace.jobs import manifest, stage
from grace.jobs.files import write_json, write_jsonl
from grace.jobs.reader import read_jsonl

Rows = list[dict[str, Any]]
TRAIN, VALIDATION, TEST = range(3)
CHUNK = 1024  # training rows checked together


def compared_texts(rows: Rows) -> list[str]:
    """The texts that may not be in two parts of the split: as many of each row. Negatives are handled by `Split`."""
    return [row[field] for row in rows for field in (("text",) if "text" in row else ("query", "positive"))]


def draw(sources: list[str], spec: SplitSpec) -> np.ndarray:
    """TRAIN, VALIDATION or TEST for each row, before leakage is looked at; uint8, shape (rows,).

    `split: random` is a shuffle by the seed. `first` holds out the first rows; where `test` and `validation` are
    shares, the first of each source, as sources differ in subject. `sources` are those of each row.
    """
    groups = [np.arange(len(sources))]
    if spec.split == "random":
        shuffled = groups[0].tolist()
        random.Random(spec.seed).shuffle(shuffled)
        groups = [np.array(shuffled, dtype=np.int64)]
    elif spec.test < 1 and spec.validation < 1:
        numbers: dict[str, int] = {}
        source = np.fromiter((numbers.setdefault(name, len(numbers)) for name in sources), np.int64, len(sources))
        groups = [np.flatnonzero(source == number) for number in numbers.values()]
    part = np.full(len(sources), TRAIN, dtype=np.uint8)
    for group in groups:
        test, validation = (  # a number of rows, or a share of them, rounded up
            int(value) if value >= 1 else int(np.ceil(value * len(group))) for value in (spec.test, spec.validation)
        )
        part[group[:test]] = TEST
        part[group[test : test + validation]] = VALIDATION
    return part


class HeldOut:
    """Held-out texts, against which other texts are compared: by `tfidf` too, where there is a threshold `cosine`."""

    def __init__(self, texts: list[str], cosine: float | None, tfidf: Tfidf | None = None) -> None:
        self.cosine, self.size = cosine, len(texts)
        self.copies = {normal(text) for text in texts}
        self.tfidf = tfidf
        self.index = CosineIndex(tfidf(texts), cosine) if cosine is not None and tfidf and texts else None
        self.checked, self.largest = 0, 0.0

    def leaks(self, texts: list[str]) -> np.ndarray:
        """Whether each text is a copy or a near duplicate of a held-out one; bool, shape (texts,)."""
        found = np.array([normal(text) in self.copies for text in texts], dtype=bool)
        if self.index and self.tfidf and texts:
            near, _ = self.index.pairs(self.tfidf(texts))
            found[near] = True
        return found

    def check(self, texts: list[str]) -> None:
        """Assert that no text leaks. It computes every pair, unlike `leaks`, so that each checks the other."""
        self.checked += len(texts)
        for text in texts:
            assert normal(text) not in self.copies, f"leakage: the held-out text {text[:80]!r} is trained on"
        if self.index and self.tfidf and texts:
            cosines = largest_cosines(self.tfidf(texts), self.index.matrix)
            at = int(cosines.argmax())
            self.largest = max(self.largest, float(cosines[at]))
            # float32 sums in another order differ by some 1e-7
            near = f"leakage: {texts[at][:80]!r} has a cosine of {cosines[at]:.4f}"
            assert cosines[at] <= self.index.threshold + 1e-5, near

    def summary(self) -> dict[str, Any]:
        """{"texts", "held_texts", "max_cosine"}; the cosine is None where only copies are looked for."""
        largest = None if self.cosine is None else round(self.largest, 4)
        return {"texts": self.checked, "held_texts": self.size, "max_cosine": largest}


class Split:
    """The parts of a file, without leakage from training to validation and test, nor from validation to test.

    Queries and positives are compared, each text on its own. Rows are removed from training, never from the test: two
    functions may rightly share a short summary. Negatives that are also held-out texts are removed from their list, as
    they would be trained on too. `read` gives the rows anew each time it is called.

    Raises:
        UserError: when no training row is left.
    """

    def __init__(self, read: Callable[[], Iterable[dict[str, Any]]], spec: SplitSpec) -> None:
        self.read, self.spec = read, spec
        # Interned: one string for each name, not one for each row.
        self.part = draw([sys.intern(row.get("source", "")) for row in read()], spec)
        self._require_rows(int((self.part == TRAIN).sum()))
        cosine = spec.near_duplicate_cosine
        tfidf = Tfidf([text for row in read() for text in compared_texts([row])]) if cosine is not None else None
        drawn: dict[int, Rows] = {TEST: [], VALIDATION: []}
        for row, part in zip(read(), self.part, strict=True):
            if part != TRAIN:
                drawn[part].append(row)
        self.test = drawn[TEST]
        self.removed: dict[str, dict[str, int]] = {"train": {"rows": 0}, "validation": {"rows": 0}}
        test_texts = compared_texts(self.test)
        held_out = HeldOut(test_texts, cosine, tfidf)
        self.validation = self._remove_leaks(drawn[VALIDATION], held_out, "validation")
        held_out.check(compared_texts(self.validation))
        self.held_out = HeldOut(compared_texts(self.test + drawn[VALIDATION]), cosine, tfidf)
        self.checks = {
            "train against test": HeldOut(test_texts, cosine, tfidf),
            "train against validation": HeldOut(compared_texts(self.validation), cosine, tfidf),
            "validation against test": held_out,
        }
        self.kept = 0

    def train(self) -> Iterator[dict[str, Any]]:
        """Stream the training rows; at the end their number is in the report."""
        self.kept = 0
        every = tqdm(zip(self.read(), self.part, strict=True), "split", len(self.part), mininterval=1)
        rows = (row for row, part in every if part == TRAIN)
        while chunk := list(islice(rows, CHUNK)):
            kept = self._remove_leaks(chunk, self.held_out, "train")
            for name in ("test", "validation"):
                self.checks[f"train against {name}"].check(compared_texts(kept))
            self.kept += len(kept)
            yield from kept
        self._require_rows(self.kept)

    def report(self) -> dict[str, Any]:
        drawn = {name: int((self.part == at).sum()) for at, name in enumerate(("train", "validation", "test"))}
        return {
            "rows": len(self.part),
            "drawn": drawn,
            "removed": self.removed,
            "checked": {name: held_out.summary() for name, held_out in self.checks.items()},
            "kept": {"train": self.kept, "validation": len(self.validation), "test": len(self.test)},
        }

    def _remove_leaks(self, rows: Rows, held_out: HeldOut, name: str) -> Rows:
        """Rows that do not leak, without negatives that do. A row that loses all of its negatives is removed."""
        if not rows:
            return rows
        leaks = np.atleast_1d(held_out.leaks(compared_texts(rows)).reshape(len(rows), -1).any(axis=1))
        clean = [row for row, leak in zip(rows, leaks, strict=True) if not leak]
        flags = iter(held_out.leaks([text for row in clean for text in row.get("negatives", [])]))
        kept = []
        for row in clean:
            if "negatives" not in row:
                kept.append(row)
            elif remaining := [text for text in row["negatives"] if not next(flags)]:
                kept.append({**row, "negatives": remaining})
        removed = self.removed[name]
        removed["rows"] += len(rows) - len(kept)
        before, after = (sum(len(row.get("negatives", [])) for row in some) for some in (rows, kept))
        if before > after:
            removed["negatives"] = removed.get("negatives", 0) + before - after
        return kept

    def _require_rows(self, train: int) -> None:
        if not train:
            raise UserError(
                f"config: data.test = {self.spec.test:g} and data.validation = {self.spec.validation:g} leave no "
                f"training row of {len(self.part)}; hold out fewer rows."
            )


@stage.entry(SplitSpec, inputs=("pairs",), outputs=("train", "validation", "test", "report"))
def main(spec: SplitSpec, paths: SimpleNamespace) -> None:
    split = Split(lambda: read_jsonl(paths.pairs), spec)
    write_jsonl(paths.train, split.train())
    write_jsonl(paths.validation, split.validation)
    write_jsonl(paths.test, split.test)
    made = manifest.make("split", spec, [paths.pairs], paths.started)
    write_json(paths.report, {**split.report(), "manifest": made})


if __name__ == "__main__":
    main()
