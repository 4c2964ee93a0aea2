"""`grace search`: the texts of a corpus that are nearest to a query, and why they are near."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from grace.section import UserError
from grace.use import corpus, texts
from grace.use.kept import Kept
from grace.use.model import Options, load

if TYPE_CHECKING:
    from grace.encoder.encoder import Encoding, Rationale, RationaleEncoder
    from grace.encoder.explain import Explanation


class Hit(NamedTuple):
    """A text of the corpus. score: its cosine with the query. row: its place in the corpus, from 0."""

    score: float
    row: int
    id: str | None
    text: str
    why: Explanation | None  # a: the query, b: this text


class Found(NamedTuple):
    """A query with its hits, the nearest first."""

    query: str
    rationale: Rationale | None
    hits: list[Hit]


def run(
    source: str, queries: list[str], options: Options, field: str, k: int, why: bool, folder: Path | None, rebuild: bool
) -> Iterator[Found]:
    """Answer each query; "-" stands for the lines of standard input.

    Args:
        source, field: the corpus, as `texts.read`. folder: of its index; None is beside it.
        why: explain each hit. rebuild: make the index again.

    Raises:
        UserError: for a mistake in any of them.
    """
    folder = corpus.folder_of(source, folder)
    asked = _queries(queries, field)
    typed = texts.STANDARD_INPUT in queries and sys.stdin.isatty()
    if not typed:  # a mistake in the first one need not wait for the model
        asked = chain(list(islice(asked, 1)), asked)
    encoder, settings = load(options)
    there = corpus.prepare(source, folder, field, encoder, settings, rebuild)
    size = 1 if typed else encoder.spec.batch_size
    with Kept(encoder, settings, folder / corpus.STORE) if why else nullcontext() as kept:
        while some := list(islice(asked, size)):
            yield from answer(encoder, there, kept, some, k)


def answer(
    encoder: RationaleEncoder, there: corpus.Corpus, kept: Kept | None, queries: list[str], k: int
) -> Iterator[Found]:
    """Answers to some queries at once, in their order; explained if `kept`, the corpus's store, is given."""
    made = encoder.encode_query(queries)
    lengths = np.linalg.norm(made.embeddings, axis=1, keepdims=True)
    scores, rows = there.index.search(made.embeddings / np.maximum(lengths, 1e-12), k)
    for i, query in enumerate(queries):
        near = [(float(score), int(row)) for score, row in zip(scores[i], rows[i], strict=True) if row >= 0]
        found = [there.row(row) for _, row in near]
        reasons = _explained(kept, query, made, i, [row.text for row in found]) if kept else [None] * len(found)
        hits = [
            Hit(score, number, row.id, row.text, reason)
            for (score, number), row, reason in zip(near, found, reasons, strict=True)
        ]
        yield Found(query, made.rationales[i] if made.rationales else None, hits)


def _explained(kept: Kept, query: str, made: Encoding, i: int, near: list[str]) -> list[Any]:
    """Explanations of a query against texts of the corpus: all rationales are there, so that none is written."""
    from grace.encoder.explain import compare, read

    written = kept.rationales(kept.fill(near))
    (asked,) = read(kept.encoder, [query], token_ids=[made.rationales[i].token_ids] if made.rationales else None)
    those = read(kept.encoder, near, token_ids=[rationale.token_ids for rationale in written] if written else None)
    return [compare(asked, one) for one in those]


def _queries(given: list[str], field: str) -> Iterator[str]:
    if not all(query.strip() for query in given):
        raise UserError("the query is empty.")
    for query in given:
        texts.check_argument(query)
        if query == texts.STANDARD_INPUT:
            yield from (row.text for row in texts.read(query, field) if row.text.strip())
        else:
            yield query
