"""Hold out test and validation rows, and take their copies out of what is trained on.

Rows are read several times and never held, but for the held-out ones; only the tf-idf that near-duplicates need takes
memory by the row.
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

from grace import manifest, stage
from grace.data.similarity import Flags, Index, Tfidf, nearest, normal
from grace.files import write_json, write_jsonl
from grace.reader import read_jsonl
from grace.section import UserError
from grace.specs import SplitSpec

Rows = list[dict[str, Any]]
Read = Callable[[], Iterable[dict[str, Any]]]
TRAIN, VALIDATION, TEST = range(3)
CHUNK = 1024  # rows looked at together


def texts(row: dict[str, Any]) -> list[str]:
    """The texts of a row that may not be in two parts of the split. Negatives are not among them: see `Split`."""
    return [row["text"]] if "text" in row else [row["query"], row["positive"]]


def size(value: float, rows: int) -> int:
    """Number of rows that a setting means: rows from 1 on, below 1 a share, rounded up."""
    return int(value) if value >= 1 else int(np.ceil(value * rows))


def draw(sources: list[str], spec: SplitSpec) -> np.ndarray:
    """TRAIN, VALIDATION or TEST for each row, before leakage is looked at; uint8, shape (rows,).

    `split: random` is a shuffle by the seed; `first` holds out the first rows, and where `test` and `validation` are
    shares, the first of each row's source, as files have differing subjects.

    Args:
        sources: of each row.
    """
    order = np.arange(len(sources))
    groups = [order]
    if spec.split == "random":
        shuffled = order.tolist()
        random.Random(spec.seed).shuffle(shuffled)
        groups = [np.array(shuffled, dtype=np.int64)]
    elif spec.test < 1 and spec.validation < 1:
        numbers: dict[str, int] = {}
        of = np.fromiter((numbers.setdefault(name, len(numbers)) for name in sources), np.int64, len(sources))
        groups = [np.flatnonzero(of == number) for number in numbers.values()]
    part = np.full(len(sources), TRAIN, dtype=np.uint8)
    for group in groups:
        first = size(spec.test, len(group))
        part[group[:first]] = TEST
        part[group[first : first + size(spec.validation, len(group))]] = VALIDATION
    return part


class Held:
    """Held-out texts, and which others are copies of them (case and white space apart) or near to one.

    Args:
        cosine: tf-idf cosine over which a text is near; None looks for copies only.
        tfidf: the vectors to compare, where there is a cosine.
    """

    def __init__(self, held: list[str], cosine: float | None, tfidf: Tfidf | None = None) -> None:
        self.cosine, self.tfidf, self.size = cosine, tfidf, len(held)
        self.known = {normal(text) for text in held}
        self.index = self.vectors = None
        if cosine is not None and tfidf is not None and held:
            self.vectors = tfidf(held)
            self.index = Index(self.vectors, cosine)
        self.checked, self.largest = 0, 0.0

    def leaks(self, candidates: list[str]) -> Flags:
        """Whether each candidate is a copy of a held-out text, or has a tf-idf cosine over `cosine` with one."""
        found = np.array([normal(text) in self.known for text in candidates], dtype=bool)
        if self.index is not None and self.tfidf is not None and candidates:
            near, _ = self.index.pairs(self.tfidf(candidates))
            found[near] = True
        return found

    def check(self, kept: list[str]) -> None:
        """Assert that no text of `kept` is a copy of a held-out text nor nearer to one than `cosine`.

        It computes every pair, unlike `leaks`, so that each checks the other.

        Raises:
            AssertionError: quoting the first pair found.
        """
        self.checked += len(kept)
        for text in kept:
            assert normal(text) not in self.known, f"leakage: the held-out text {text[:80]!r} is trained on"
        if self.vectors is not None and self.tfidf is not None and self.cosine is not None and kept:
            cosines = nearest(self.tfidf(kept), self.vectors)
            at = int(cosines.argmax())
            self.largest = max(self.largest, float(cosines[at]))
            # float32 sums in another order differ by some 1e-7
            assert cosines[at] <= self.cosine + 1e-5, f"leakage: {kept[at][:80]!r} has a cosine of {cosines[at]:.4f}"

    def summary(self) -> dict[str, Any]:
        """{"texts", "held_texts", "max_cosine"}; the cosine is None where only copies are looked for."""
        largest = None if self.cosine is None else round(self.largest, 4)
        return {"texts": self.checked, "held_texts": self.size, "max_cosine": largest}


class Split:
    """The parts of a file: held-out texts and their near-duplicates are removed from what is trained on.

    Queries and positives of the test are compared with queries and positives of the training rows, each text on its
    own. Rows are removed from training, never from the test: two functions may rightly share a short summary.
    Negatives that a held-out text also is are removed from their list, as they would be trained on too.

    Attributes:
        test, validation: rows.

    Args:
        read: gives the rows anew each time it is called.

    Raises:
        UserError: when no training row is left.
    """

    def __init__(self, read: Read, spec: SplitSpec) -> None:
        self.read, self.spec = read, spec
        # One string for each name, not one for each row.
        self.part = draw([sys.intern(row.get("source", "")) for row in read()], spec)
        self._enough(int((self.part == TRAIN).sum()))
        cosine = spec.near_duplicate_cosine
        tfidf = Tfidf([text for row in read() for text in texts(row)]) if cosine is not None else None
        drawn: dict[int, Rows] = {TEST: [], VALIDATION: []}
        for row, part in zip(read(), self.part, strict=True):
            if part != TRAIN:
                drawn[part].append(row)
        self.test = drawn[TEST]
        test, both = _texts(self.test), _texts(self.test + drawn[VALIDATION])
        self.removed: dict[str, dict[str, int]] = {"train": {"rows": 0}, "validation": {"rows": 0}}
        held = Held(test, cosine, tfidf)
        self.validation = self._clean(drawn[VALIDATION], held, "validation")
        held.check(_texts(self.validation))
        self.held = Held(both, cosine, tfidf)
        self.checks = {
            "train against test": Held(test, cosine, tfidf),
            "train against validation": Held(_texts(self.validation), cosine, tfidf),
            "validation against test": held,
        }
        self.kept = 0

    def train(self) -> Iterator[dict[str, Any]]:
        """Stream the training rows; at the end their number is in the report."""
        self.kept = 0
        every = tqdm(zip(self.read(), self.part, strict=True), "split", len(self.part), mininterval=1)
        rows = (row for row, part in every if part == TRAIN)
        while chunk := list(islice(rows, CHUNK)):
            clean = self._clean(chunk, self.held, "train")
            for name in ("test", "validation"):
                self.checks[f"train against {name}"].check(_texts(clean))
            self.kept += len(clean)
            yield from clean
        self._enough(self.kept)

    def report(self) -> dict[str, Any]:
        drawn = {name: int((self.part == at).sum()) for at, name in enumerate(("train", "validation", "test"))}
        return {
            "rows": len(self.part),
            "drawn": drawn,
            "removed": self.removed,
            "checked": {name: held.summary() for name, held in self.checks.items()},
            "kept": {"train": self.kept, "validation": len(self.validation), "test": len(self.test)},
        }

    def _clean(self, rows: Rows, held: Held, name: str) -> Rows:
        """Rows that are not held out, without the negatives that are; a row that loses all of its negatives goes."""
        if not rows:
            return rows
        leaking = np.asarray(held.leaks(_texts(rows)).reshape(-1, len(texts(rows[0]))).any(axis=1))
        clean = [row for row, bad in zip(rows, leaking, strict=True) if not bad]
        flags = iter(held.leaks([text for row in clean for text in row.get("negatives", [])]))
        kept = []
        for row in clean:
            if "negatives" not in row:
                kept.append(row)
            elif remaining := [text for text in row["negatives"] if not next(flags)]:
                kept.append({**row, "negatives": remaining})
        removed = self.removed[name]
        removed["rows"] += len(rows) - len(kept)
        if lost := _negatives(rows) - _negatives(kept):
            removed["negatives"] = removed.get("negatives", 0) + lost
        return kept

    def _enough(self, train: int) -> None:
        if not train:
            raise UserError(
                f"config: data.test = {self.spec.test:g} and data.validation = {self.spec.validation:g} leave no "
                f"training row of {len(self.part)}; hold out fewer rows."
            )


def _texts(rows: Rows) -> list[str]:
    return [text for row in rows for text in texts(row)]


def _negatives(rows: Rows) -> int:
    return sum(len(row.get("negatives", [])) for row in rows)


@stage.entry(SplitSpec, inputs=("pairs",), outputs=("train", "validation", "test", "report"))
def main(spec: SplitSpec, paths: SimpleNamespace) -> None:
    found = Split(lambda: read_jsonl(paths.pairs), spec)
    write_jsonl(paths.train, found.train())
    write_jsonl(paths.validation, found.validation)
    write_jsonl(paths.test, found.test)
    made = manifest.make("split", spec, [paths.pairs], paths.started)
    write_json(paths.report, {**found.report(), "manifest": made})


if __name__ == "__main__":
    main()
