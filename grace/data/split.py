"""Hold out test and validation rows, and take their copies out of what is trained on."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np

from grace import manifest, stage
from grace.data.similarity import Flags, Tfidf, near, nearest, normal
from grace.files import read_jsonl, write_json, write_jsonl
from grace.section import UserError
from grace.specs import SplitSpec

Rows = list[dict[str, Any]]


def texts(row: dict[str, Any]) -> list[str]:
    """The texts of a row that may not be in two parts of the split. Negatives are not among them: see `split`."""
    return [row["text"]] if "text" in row else [row["query"], row["positive"]]


def size(value: float, rows: int) -> int:
    """Number of rows that a setting means: rows from 1 on, below 1 a share, rounded up."""
    return int(value) if value >= 1 else int(np.ceil(value * rows))


def parts(rows: Rows, test: float, validation: float, split: str, seed: int) -> tuple[Rows, Rows, Rows]:
    """(train, validation, test) before leakage is looked at.

    Args:
        test: rows (>= 1) or share (< 1).
        split: `random`, shuffled by `seed`; or `first`: the first rows are held out, and where `test` and
            `validation` are shares, the first of each row's `source`, as files have differing subjects.
    """
    order = list(range(len(rows)))
    if split == "random":
        random.Random(seed).shuffle(order)
        groups = [order]
    elif test < 1 and validation < 1:
        by_source: dict[str, list[int]] = {}
        for at in order:
            by_source.setdefault(rows[at].get("source", ""), []).append(at)
        groups = list(by_source.values())
    else:
        groups = [order]
    held: tuple[list[int], list[int], list[int]] = ([], [], [])
    for group in groups:
        ends = size(test, len(group)), size(test, len(group)) + size(validation, len(group))
        held[2].extend(group[: ends[0]])
        held[1].extend(group[ends[0] : ends[1]])
        held[0].extend(group[ends[1] :])
    train, middle, last = ([rows[at] for at in sorted(part)] for part in held)
    return train, middle, last


def leaks(candidates: list[str], held: list[str], cosine: float | None, tfidf: Tfidf | None = None) -> Flags:
    """Whether each candidate is a copy of a held-out text, or has a tf-idf cosine over `cosine` with one.

    Args:
        cosine: None looks for copies only (case and white space apart).
        tfidf: the vectors to compare; fitted on all the texts when it is not given.
    """
    known = {normal(text) for text in held}
    found = np.array([normal(text) in known for text in candidates], dtype=bool)
    if cosine is not None and candidates and held:
        found |= near(candidates, held, cosine, tfidf or Tfidf(candidates + held), "leakage")
    return found


def assert_no_leakage(
    train: list[str], held: list[str], cosine: float | None, tfidf: Tfidf | None = None
) -> dict[str, Any]:
    """Check that no text of `train` is a copy of a text of `held` nor nearer to one than `cosine`.

    It computes every pair, unlike `leaks`, so that each checks the other.

    Returns:
        {"texts", "held_texts", "max_cosine"}; the cosine is None where only copies are looked for.

    Raises:
        AssertionError: quoting the first pair found.
    """
    known = {normal(text) for text in held}
    for text in train:
        assert normal(text) not in known, f"leakage: the held-out text {text[:80]!r} is trained on"
    largest = None
    if cosine is not None:
        largest = 0.0
        if train and held:
            tfidf = tfidf or Tfidf(train + held)
            cosines = nearest(tfidf(held), tfidf(train), "leakage check")
            at = int(cosines.argmax())
            largest = round(float(cosines[at]), 4)
            # float32 sums in another order differ by some 1e-7
            assert cosines[at] <= cosine + 1e-5, f"leakage: {held[at][:80]!r} has a cosine of {largest} with a text"
    return {"texts": len(train), "held_texts": len(held), "max_cosine": largest}


def split(rows: Rows, spec: SplitSpec) -> tuple[Rows, Rows, Rows, dict[str, Any]]:
    """(train, validation, test, report): held-out texts and their near-duplicates are removed from what is trained on.

    Queries and positives of the test are compared with queries and positives of the training rows, each text on
    its own. Rows are removed from training, never from the test: two functions may rightly share a short summary.
    Negatives that a held-out text also is are removed from their list, as they would be trained on too.

    Raises:
        UserError: when no training row is left.
    """
    train, validation, test = parts(rows, spec.test, spec.validation, spec.split, spec.seed)
    _enough(rows, train, spec)
    cosine = spec.near_duplicate_cosine
    tfidf = Tfidf([text for row in rows for text in texts(row)]) if cosine is not None else None
    report: dict[str, Any] = {"rows": len(rows), "drawn": _counts(train, validation, test), "removed": {}}
    held = {"test": _texts(test), "validation": _texts(validation)}
    for name in ("train", "validation"):
        part = train if name == "train" else validation
        against = held["test"] + (held["validation"] if name == "train" else [])
        found = leaks(_texts(part), against, cosine, tfidf)
        width = len(texts(part[0])) if part else 1
        bad = np.asarray(found.reshape(-1, width).any(axis=1))
        clean = [row for row, leaking in zip(part, bad, strict=True) if not leaking]
        clean = _without_held_negatives(clean, against, cosine, tfidf)
        lost = _negatives(part) - _negatives(clean)
        report["removed"][name] = {"rows": len(part) - len(clean), **({"negatives": lost} if lost else {})}
        if name == "train":
            train = clean
        else:
            validation = clean
    _enough(rows, train, spec)
    report["checked"] = {
        "train against test": assert_no_leakage(_texts(train), held["test"], cosine, tfidf),
        "train against validation": assert_no_leakage(_texts(train), _texts(validation), cosine, tfidf),
        "validation against test": assert_no_leakage(_texts(validation), held["test"], cosine, tfidf),
    }
    report["kept"] = _counts(train, validation, test)
    return train, validation, test, report


def _without_held_negatives(rows: Rows, held: list[str], cosine: float | None, tfidf: Tfidf | None) -> Rows:
    """Rows without the negatives that are (nearly) held-out texts, and without the rows that lose all of theirs."""
    negatives = [text for row in rows for text in row.get("negatives", [])]
    if not negatives:
        return rows
    leaking = iter(leaks(negatives, held, cosine, tfidf))
    kept = []
    for row in rows:
        if "negatives" not in row:
            kept.append(row)
        elif remaining := [text for text in row["negatives"] if not next(leaking)]:
            kept.append({**row, "negatives": remaining})
    return kept


def _enough(rows: Rows, train: Rows, spec: SplitSpec) -> None:
    if not train:
        raise UserError(
            f"config: data.test = {spec.test:g} and data.validation = {spec.validation:g} leave no training row of "
            f"{len(rows)}; hold out fewer rows."
        )


def _texts(rows: Rows) -> list[str]:
    return [text for row in rows for text in texts(row)]


def _negatives(rows: Rows) -> int:
    return sum(len(row.get("negatives", [])) for row in rows)


def _counts(train: Rows, validation: Rows, test: Rows) -> dict[str, int]:
    return {"train": len(train), "validation": len(validation), "test": len(test)}


@stage.entry(SplitSpec, inputs=("pairs",), outputs=("train", "validation", "test", "report"))
def main(spec: SplitSpec, paths: SimpleNamespace) -> None:
    train, validation, test, report = split(list(read_jsonl(paths.pairs)), spec)
    write_jsonl(paths.train, train)
    write_jsonl(paths.validation, validation)
    write_jsonl(paths.test, test)
    write_json(paths.report, {**report, "manifest": manifest.make("split", spec, [paths.pairs], paths.started)})


if __name__ == "__main__":
    main()
