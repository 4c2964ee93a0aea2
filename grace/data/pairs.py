"""Normalise a source's rows, drop what is empty or a duplicate, and write a data card.

The layouts in which a row may come are those of docs/data.md.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, count
from types import SimpleNamespace
from typing import Any, NamedTuple

from grace.config.section import UserError
from grace.config.specs import PairsSpec
from grace.data.lengths import histogram
from grace.data.similarity import distinct, normal
from grace.jobs import manifest, stage
from grace.jobs.files import write_json, write_jsonl
from grace.jobs.reader import IDS, number, read_jsonl, same_id

BINS = (8, 16, 32, 64, 128, 256, 512, 1024)  # words
# Names of a field; the first one that a row has is read.
NAMES = {
    "query": ("query", "anchor", "question", "sentence1"),
    "positive": ("positive", "positives", "pos", "answer", "sentence2"),
    "negatives": ("negatives", "negative", "neg"),
    "text": ("text", "sentence", "positive", "pos"),
}
NUMBERED = re.compile(r"negative_?(\d+)")  # columns of sentence-transformers for several negatives
SCORES = ("score", "label", "gold_label")  # of a pair of sentences
LEAST_SCORE, LOW_SCORE = 0.5, "score under .5"  # of a pair of similar texts; the reason to drop the others
LIST_AS_TEXT = re.compile(r"""\[\s*["'].*["']\s*\]""", re.DOTALL)

Row = dict[str, Any]


class Unusable(Exception):
    """A row that cannot be used. reason: under which it is counted. whole_file: its file cannot be used either."""

    def __init__(self, reason: str, message: str, whole_file: bool = False) -> None:
        super().__init__(message)
        self.reason, self.whole_file = reason, whole_file


class RowTexts(NamedTuple):
    """A row's texts, unchanged. Of form texts, `positives` are the texts.

    negatives: None where the row has no such field.
    instructed: whether instructions came with the texts; they are left out, as the study has its own.
    """

    query: str
    positives: list[str]
    negatives: list[str] | None
    instructed: bool


def layout(row: Row, form: str) -> RowTexts:
    """The texts of a row in any layout of docs/data.md; triples need negatives.

    Raises:
        Unusable: when a field is missing or no text, or the score of a pair is too low.
    """
    if form == "texts":
        texts, instructed = _texts(row, "text")
        return RowTexts("", texts, None, instructed)
    (query, *more), of_query = _texts(row, "query")
    name = _name(row, "query")
    if more:
        raise Unusable("field is not text", f"the field {name!r} is not one text but {len(more) + 1}")
    paired = isinstance(row[str(name)], list)  # then a flat list of two is [instruction, text] too
    positives, of_positives = _texts(row, "positive", paired)
    if name == "sentence1" and (score := next((field for field in SCORES if field in row), None)):
        _check_score(row, score)
    columns = sorted((int(found[1]), field) for field in row if (found := NUMBERED.fullmatch(field)))
    numbered = [row[field] for _, field in columns if row[field] is not None]
    negatives: list[str] | None = None
    of_negatives = False
    if (name := _name(row, "negatives")) is not None and row[name] == []:
        negatives = []
    elif name is None and numbered:
        negatives, of_negatives = _texts({"negatives": numbered}, "negatives")
    elif name is not None or form == "triples":
        negatives, of_negatives = _texts(row, "negatives", paired)
    return RowTexts(query, positives, negatives, of_query or of_positives or of_negatives)


def problem(row: Row, form: str) -> Unusable | None:
    """Why a row is not of this form, or None. A low score is no such problem."""
    try:
        layout(row, form)
    except Unusable as error:
        return error if error.reason != LOW_SCORE else None
    return None


def _name(row: Row, field: str) -> str | None:
    return next((name for name in NAMES[field] if row.get(name) is not None), None)


def _texts(row: Row, field: str, paired: bool = False) -> tuple[list[str], bool]:
    """(one or more texts of a field, whether instructions come with them). Raises: Unusable."""
    if (name := _name(row, field)) is None:
        names = " or ".join(map(repr, NAMES[field]))
        has = ", ".join(map(repr, row)) or "no field"
        raise Unusable("missing field", f"the field {names} is missing (the row has {has})")
    values = row[name] if isinstance(row[name], list) else [row[name]]
    if (field == "query" or paired) and len(values) == 2 and isinstance(values[0], str):  # [instruction, text]
        values = [values]
    if not values:
        raise Unusable("missing field", f"the field {name!r} is an empty list")
    texts, instructed = [], False
    for value in values:
        if isinstance(value, list) and len(value) == 2:
            instruction, value = value
            instructed = instructed or bool(instruction)
        if not isinstance(value, str):
            raise Unusable("field is not text", f"the field {name!r} is not text but {type(value).__name__}")
        if LIST_AS_TEXT.fullmatch(value.strip()):
            raise Unusable("field is not text", f"the field {name!r} is a list that was written as text")
        texts.append(value)
    return texts, instructed


def _check_score(row: Row, name: str) -> None:
    try:
        score = float(row[name]) if isinstance(row[name], bool) else number(row, name, "")
    except UserError:
        raise Unusable("field is no score", f"the field {name!r} is {row[name]!r} and no score") from None
    if not 0 <= score <= 1:  # then the scores of the other rows mean something else too
        wrong = f"the field {name!r} is {score:g}, and a score lies between 0 and 1"
        raise Unusable("field is no score", wrong, whole_file=True)
    if score < LEAST_SCORE:
        raise Unusable(LOW_SCORE, f"the field {name!r} is {score:g}")


def normalised(row: Row, form: str, changed: Counter[str]) -> list[Row]:
    """A row in the project's layout, texts stripped: {id, text}, or {id, query, positive} for each positive, with
    `negatives` where there are some. No negative is a copy of the query, of a positive or of another negative.

    `changed` counts what is added or left out. Raises: Unusable, when the row is to be dropped.
    """
    found = layout(row, form)
    name = next((value for field in IDS if (value := same_id(row.get(field))) is not None), None)
    labels = {field: str(row[field]) for field in ("label", "sublabel", "source") if row.get(field) not in (None, "")}
    texts = list(dict.fromkeys(text.strip() for text in found.positives if text.strip()))
    if not texts or (form != "texts" and not found.query.strip()):
        raise Unusable("empty", "a text is empty")
    if form == "texts":
        made = [{"id": name, "text": text, **labels} for text in texts]
    else:
        query = normal(found.query)
        positives = [text for text in texts if normal(text) != query]
        if not positives:
            raise Unusable("query is its positive", "the query is its positive")
        known = {query, "", *map(normal, positives)}
        negatives: dict[str, str] = {}
        for text in found.negatives or []:
            if normal(text) not in known:
                negatives.setdefault(normal(text), text.strip())
        if form == "triples" and not negatives:
            raise Unusable("no negative", "no negative is left")
        more: Row = {"negatives": [*negatives.values()]} if negatives else {}
        made = [{"id": name, "query": found.query.strip(), "positive": one, **more, **labels} for one in positives]
    changed["rows added for further positives"] += len(made) - 1
    changed["rows whose instructions are left out"] += found.instructed
    return made


class Card:
    """What the data card says: counts of the rows that are read, dropped, changed, and kept.

    dropped, changed: by reason. groups: by source and label. words: by length in words. negatives: by their number.
    """

    def __init__(self) -> None:
        self.read = self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.groups: dict[str, Counter[str]] = {"source": Counter(), "label": Counter()}
        self.words: dict[str, Counter[int]] = {}
        self.negatives: Counter[int] = Counter()

    def count(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass on the rows that are kept."""
        for row in rows:
            self.kept += 1
            for name, counter in self.groups.items():
                if name in row:
                    counter[row[name]] += 1
            for name in ("query", "positive", "text"):
                if name in row:
                    self.words.setdefault(name, Counter())[len(row[name].split())] += 1
            if "negatives" in row:
                self.negatives[len(row["negatives"])] += 1
            yield row

    def summary(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "dropped": dict(self.dropped),
            "changed": dict(+self.changed),
            "kept": self.kept,
            **{f"kept_per_{name}": dict(sorted(counter.items())) for name, counter in self.groups.items() if counter},
            "length_in_words": {name: histogram([*counter.elements()], BINS) for name, counter in self.words.items()},
            **({"negatives_per_row": dict(sorted(self.negatives.items()))} if self.negatives else {}),
        }


def cleaned(rows: Iterable[Row], form: str, card: Card) -> Iterator[Row]:
    """Normalised rows with unique ids, without exact duplicates."""
    seen: set[bytes] = set()
    ids: set[str] = set()
    numbers = count()
    for row in rows:
        card.read += 1
        try:
            made = normalised(row, form, card.changed)
        except Unusable as error:
            card.dropped[error.reason] += 1
            next(numbers)
            continue
        for one, at in zip(made, numbers, strict=False):
            digest = hashlib.blake2b(normal(whole_text(one)).encode(), digest_size=16).digest()
            if digest in seen:
                card.dropped["exact duplicate"] += 1
                continue
            seen.add(digest)
            name = str(at) if one["id"] is None else one["id"]
            while name in ids:
                name = f"{name}#{at}"
            ids.add(name)
            yield {**one, "id": name}


def without_near(rows: list[Row], cosine: float, card: Card) -> list[Row]:
    """Rows without those whose whole text has a tf-idf cosine over `cosine` with an earlier row that stays."""
    if not rows:
        return rows
    keep = distinct([whole_text(row) for row in rows], cosine)
    card.dropped["near duplicate"] += int((~keep).sum())
    return [row for row, stays in zip(rows, keep, strict=True) if stays]


def whole_text(row: Row) -> str:
    return row["text"] if "text" in row else f"{row['query']}\n{row['positive']}"


@stage.entry(PairsSpec, inputs=("source",), outputs=("out", "card"))
def main(spec: PairsSpec, paths: SimpleNamespace) -> None:
    card = Card()
    rows: Iterable[Row] = cleaned(read_jsonl(paths.source), spec.form, card)
    if spec.near_duplicate_cosine is not None:
        rows = without_near(list(rows), spec.near_duplicate_cosine, card)
    kept = card.count(rows)
    first = next(kept, None)
    if first is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in card.dropped.items())
        raise UserError(f"{paths.source}: of {card.read} rows none is left ({reasons or 'the file is empty'}).")
    write_jsonl(paths.out, chain([first], kept))
    made = manifest.make("pairs", spec, [paths.source], paths.started)
    write_json(paths.card, {**card.summary(), "manifest": made})


if __name__ == "__main__":
    main()
