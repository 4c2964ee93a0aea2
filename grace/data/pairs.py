"""Normalise a source's rows, drop what is empty or a duplicate, and write a data card."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, count
from types import SimpleNamespace
from typing import Any

from grace import manifest, stage
from grace.data.rows import Unusable, layout
from grace.data.similarity import distinct, normal
from grace.data.summary import bin_names
from grace.files import write_json, write_jsonl
from grace.reader import IDS, read_jsonl, same_id
from grace.section import UserError
from grace.specs import PairsSpec

BINS = (8, 16, 32, 64, 128, 256, 512, 1024)  # words


def normalised(row: dict[str, Any], form: str, changed: Counter[str]) -> list[dict[str, Any]]:
    """A row in the project's layout, texts stripped: {id, text}, or for each positive {id, query, positive} and, where
    there are some, negatives, of which none is a copy of the query, of a positive or of another.

    Args:
        changed: counts what is added or left out.

    Raises:
        Unusable: with the reason why the row is dropped.
    """
    read = layout(row, form)
    name = next((found for field in IDS if (found := same_id(row.get(field))) is not None), None)
    named: dict[str, Any] = {"id": name}
    labels = {field: str(row[field]) for field in ("label", "sublabel", "source") if row.get(field) not in (None, "")}
    texts = list(dict.fromkeys(text.strip() for text in read.positives if text.strip()))
    if not texts or (form != "texts" and not read.query.strip()):
        raise Unusable("empty", "a text is empty")
    if form == "texts":
        made = [{**named, "text": text, **labels} for text in texts]
    else:
        query = normal(read.query)
        positives = [text for text in texts if normal(text) != query]
        if not positives:
            raise Unusable("query is its positive", "the query is its positive")
        taken = {query, "", *map(normal, positives)}
        negatives: dict[str, str] = {}
        for text in read.negatives or []:
            if normal(text) not in taken:
                negatives.setdefault(normal(text), text.strip())
        if form == "triples" and not negatives:
            raise Unusable("no negative", "no negative is left")
        more = {"negatives": [*negatives.values()]} if negatives else {}
        made = [{**named, "query": read.query.strip(), "positive": text, **more, **labels} for text in positives]
    changed["rows added for further positives"] += len(made) - 1
    changed["rows whose instructions are left out"] += read.instructed
    return made


def cleaned(
    rows: Iterable[dict[str, Any]], form: str, dropped: Counter[str], changed: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Normalised rows without empty ones and exact duplicates, ids unique; counts the dropped ones by reason."""
    seen: set[bytes] = set()
    ids: set[str] = set()
    number = count()
    for row in rows:
        try:
            made = normalised(row, form, changed)
        except Unusable as error:
            dropped[error.reason] += 1
            next(number)
            continue
        for kept, at in zip(made, number, strict=False):
            digest = hashlib.blake2b(normal(whole(kept)).encode(), digest_size=16).digest()
            if digest in seen:
                dropped["exact duplicate"] += 1
                continue
            seen.add(digest)
            name = str(at) if kept["id"] is None else kept["id"]
            while name in ids:
                name = f"{name}#{at}"
            kept["id"] = name
            ids.add(name)
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
    changed: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for row in read_jsonl(paths.source):
            read["rows"] += 1
            yield row

    rows: Iterable[dict[str, Any]] = cleaned(counted(), spec.form, dropped, changed)
    if spec.near_duplicate_cosine is not None:
        rows = without_near(list(rows), spec.near_duplicate_cosine, dropped)
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise UserError(f"{paths.source}: of {read['rows']} rows none is left ({reasons or 'the file is empty'}).")
    card = Card()
    write_jsonl(paths.out, card.count(chain([first], rows)))
    report = {"read": read["rows"], "dropped": dict(dropped), "changed": dict(+changed), **card.summary()}
    write_json(paths.card, {**report, "manifest": manifest.make("pairs", spec, [paths.source], paths.started)})


if __name__ == "__main__":
    main()
