"""`grace search`: the texts of a corpus that are nearest to a query, and why they are near."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from grace.cli import index, texts
from grace.cli.embed import CachedEncoder
from grace.cli.index import Corpus
from grace.cli.model import Options, load
from grace.config.section import UserError

if TYPE_CHECKING:
    from grace.encoder.encoder import Rationale, RationaleEncoder
    from grace.encoder.explain import Explanation


class Hit(NamedTuple):
    """A text of the corpus. score: its cosine with the query. row: its number in the corpus, from 0."""

    score: float
    row: int
    id: str | None
    text: str
    why: Explanation | None  # a: the query, b: this text


class Answer(NamedTuple):
    """A query with its hits, the nearest first."""

    query: str
    rationale: Rationale | None
    hits: list[Hit]


def run(
    source: str, queries: list[str], options: Options, field: str, k: int, why: bool, folder: Path | None, rebuild: bool
) -> Iterator[Answer]:
    """Answer each query; "-" stands for the lines of standard input.

    Args:
        source, field: the corpus, as `texts.read`.
        why: explain each hit.
        folder: of the index; None: beside the corpus.
        rebuild: make the index again.

    Raises:
        UserError: for a mistake in any of them.
    """
    folder = index.folder_of(source, folder)
    asked = _queries(queries, field)
    typed = texts.STANDARD_INPUT in queries and sys.stdin.isatty()
    if not typed:  # find a mistake in the first query before the model is loaded
        asked = chain(list(islice(asked, 1)), asked)
    encoder, settings = load(options)
    corpus = index.prepare(source, folder, field, encoder, settings, rebuild)
    size = 1 if typed else encoder.spec.batch_size
    with CachedEncoder(encoder, settings, folder / index.STORE) if why else nullcontext() as cached:
        while batch := list(islice(asked, size)):
            yield from _answers(encoder, corpus, cached, batch, k)


def _queries(given: list[str], field: str) -> Iterator[str]:
    if not all(query.strip() for query in given):
        raise UserError("the query is empty.")
    for query in given:
        texts.check_argument(query)
        if query == texts.STANDARD_INPUT:
            yield from (row.text for row in texts.read(query, field) if row.text.strip())
        else:
            yield query


def _answers(
    encoder: RationaleEncoder, corpus: Corpus, cached: CachedEncoder | None, queries: list[str], k: int
) -> Iterator[Answer]:
    """Answers to a batch of queries, in their order; explained if `cached`, the corpus's encoder, is given."""
    made = encoder.encode_query(queries)
    written: Sequence[Rationale | None] = made.rationales or [None] * len(queries)
    scores, rows = corpus.index.search(index.unit_length(made.embeddings), k)
    for i, (query, rationale) in enumerate(zip(queries, written, strict=True)):
        near = [(float(score), int(row)) for score, row in zip(scores[i], rows[i], strict=True) if row >= 0]
        found = [corpus.row(number) for _, number in near]
        reasons: Sequence[Explanation | None] = [None] * len(found)
        if cached:
            reasons = _explanations(cached, query, rationale, [row.text for row in found])
        hits = [Hit(*at, *row, reason) for at, row, reason in zip(near, found, reasons, strict=True)]
        yield Answer(query, rationale, hits)


def _explanations(cached: CachedEncoder, query: str, rationale: Rationale | None, near: list[str]) -> list[Explanation]:
    """Explanations of a query against texts of the corpus, from rationales that are already written."""
    from grace.encoder.explain import compare, read

    written = cached.rationales(cached.fill(near))
    (asked,) = read(cached.encoder, [query], token_ids=[rationale.token_ids] if rationale else None)
    readings = read(cached.encoder, near, token_ids=[one.token_ids for one in written] if written else None)
    return [compare(asked, reading) for reading in readings]
