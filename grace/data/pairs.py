"""Normalise a source's rows, drop what is empty or a duplicate, and write a data card."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from types import SimpleNamespace
from typing import Any

from grace import manifest, stage
from grace.data.rows import NEEDED, field, problem
from grace.data.similarity import distinct, normal
from grace.data.summary import bin_names
from grace.files import read_jsonl, write_json, write_jsonl
from grace.section import UserError
from grace.specs import PairsSpec

BINS = (8, 16, 32, 64, 128, 256, 512, 1024)  # words


def normalise(row: dict[str, Any], form: str) -> dict[str, Any] | str:
    """The row with the fields of its form, texts stripped; or the reason why it is dropped."""
    if any(field(row, name) is None for name in NEEDED[form]):
        return "missing field"
    if problem(row, form):
        return "field is not text"
    if form == "texts":
        text = field(row, "text").strip()
        kept = {"id": row.get("id"), "text": text, **_labels(row)}
        return kept if text else "empty"
    query, positive = field(row, "query").strip(), field(row, "positive").strip()
    if not query or not positive:
        return "empty"
    if normal(query) == normal(positive):
        return "query is its positive"
    kept = {"id": row.get("id"), "query": query, "positive": positive}
    given = field(row, "negatives")
    if given is not None:
        taken = {normal(query), normal(positive), ""}
        negatives = []
        for negative in [given] if isinstance(given, str) else given:
            if normal(negative) not in taken:
                taken.add(normal(negative))
                negatives.append(negative.strip())
        if not negatives and form == "triples":
            return "no negative"
        if negatives:
            kept["negatives"] = negatives
    return {**kept, **_labels(row)}


def _labels(row: dict[str, Any]) -> dict[str, Any]:
    return {name: str(row[name]) for name in ("label", "sublabel", "source") if row.get(name) not in (None, "")}


def cleaned(rows: Iterable[dict[str, Any]], form: str, dropped: Counter[str]) -> Iterator[dict[str, Any]]:
    """Normalised rows without empty ones and exact duplicates, ids unique; counts the dropped ones by reason."""
    seen: set[bytes] = set()
    ids: set[str] = set()
    for number, row in enumerate(rows):
        kept = normalise(row, form)
        if isinstance(kept, str):
            dropped[kept] += 1
            continue
        digest = hashlib.blake2b(normal(whole(kept)).encode(), digest_size=16).digest()
        if digest in seen:
            dropped["exact duplicate"] += 1
            continue
        seen.add(digest)
        name = str(kept["id"]) if kept["id"] is not None else str(number)
        kept["id"] = name if name not in ids else f"{name}#{number}"
        ids.add(kept["id"])
        yield kept


def without_near(rows: list[dict[str, Any]], cosine: float, dropped: Counter[str]) -> list[dict[str, Any]]:
    """Rows without those whose whole text has a tf-idf cosine over `cosine` with an earlier kept row."""
    if not rows:
        return rows
    keep = distinct([whole(row) for row in rows], cosine)
    dropped["near duplicate"] += int((~keep).sum())
    return [row for row, kept in zip(rows, keep, strict=True) if kept]


def whole(row: dict[str, Any]) -> str:
    return row["text"] if "text" in row else f"{row['query']}\n{row['positive']}"


class Card:
    """Counts the rows that pass: by source and label, by length in words."""

    def __init__(self) -> None:
        self.kept = 0
        self.groups: dict[str, Counter[str]] = {"source": Counter(), "label": Counter()}
        self.lengths: dict[str, Counter[int]] = {}
        self.negatives: Counter[int] = Counter()

    def count(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            self.kept += 1
            for name, counter in self.groups.items():
                if name in row:
                    counter[row[name]] += 1
            for name in ("query", "positive", "text"):
                if name in row:
                    self.lengths.setdefault(name, Counter())[bisect_right(BINS, len(row[name].split()))] += 1
            if "negatives" in row:
                self.negatives[len(row["negatives"])] += 1
            yield row

    def summary(self) -> dict[str, Any]:
        names = bin_names(BINS)
        return {
            "kept": self.kept,
            **{f"kept_per_{name}": dict(sorted(counter.items())) for name, counter in self.groups.items() if counter},
            "length_in_words": {
                name: {label: counter[at] for at, label in enumerate(names)} for name, counter in self.lengths.items()
            },
            **({"negatives_per_row": dict(sorted(self.negatives.items()))} if self.negatives else {}),
        }


@stage.entry(PairsSpec, inputs=("source",), outputs=("out", "card"))
def main(spec: PairsSpec, paths: SimpleNamespace) -> None:
    read: Counter[str] = Counter()
    dropped: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for row in read_jsonl(paths.source):
            read["rows"] += 1
            yield row

    rows: Iterable[dict[str, Any]] = cleaned(counted(), spec.form, dropped)
    if spec.near_duplicate_cosine is not None:
        rows = without_near(list(rows), spec.near_duplicate_cosine, dropped)
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise UserError(f"{paths.source}: of {read['rows']} rows none is left ({reasons or 'the file is empty'}).")
    card = Card()
    write_jsonl(paths.out, card.count(chain([first], rows)))
    report = {"read": read["rows"], "dropped": dict(dropped), **card.summary()}
    write_json(paths.card, {**report, "manifest": manifest.make("pairs", spec, [paths.source], paths.started)})


if __name__ == "__main__":
    main()
