"""The held-out texts of a study: queries, documents, and which document belongs to which query."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grace.files import read_json
from grace.reader import read_jsonl
from grace.section import UserError

QUERY, DOCUMENT = 0, 1


class Text(NamedTuple):
    """A text of the page. kind: QUERY or DOCUMENT; name: its row's id, or ""; label: what colours it, or ""."""

    text: str
    kind: int
    name: str
    label: str


class Corpus(NamedTuple):
    """n distinct texts, the queries first; true[i] holds the numbers of the documents of query i, or of the queries
    of document i."""

    texts: list[Text]
    true: list[list[int]]

    @property
    def kinds(self) -> np.ndarray:
        """[n] QUERY or DOCUMENT."""
        return np.array([one.kind for one in self.texts], dtype=int)

    def where(self, kept: np.ndarray) -> Corpus:
        """The texts for which `kept` [n] is true."""
        number = np.where(kept, np.cumsum(kept) - 1, -1)
        left = np.flatnonzero(kept)
        true = [[int(number[j]) for j in self.true[i] if kept[j]] for i in left]
        return Corpus([self.texts[i] for i in left], true)


def read(results: Path) -> Corpus:
    """The held-out texts of a study.

    Raises:
        UserError: when there is no folder `results`, or it holds no held-out texts.
    """
    if not results.is_dir():
        raise UserError(f"{results}: no such folder; give the folder of a study's results, such as results/demo.")
    files = sorted(results.glob("data/split/*/test.jsonl"))
    rows = [_labelled(row, path.parent.name if len(files) > 1 else "") for path in files for row in read_jsonl(path)]
    if not files and (tasks := results / "data" / "tasks.json").exists():
        rows = read_json(tasks).get("test", [])
    found = of(rows)
    if not found.texts:
        raise UserError(
            f"{results}: holds no held-out texts (data/split/*/test.jsonl); run snakemake for this study first."
        )
    return found


def _labelled(row: dict[str, Any], source: str) -> dict[str, Any]:
    return {**row, "label": row.get("label") or row.get("source") or source}


def of(rows: Iterable[dict[str, Any]]) -> Corpus:
    """The distinct texts of rows {"query", "positive"} or {"text"}, with "id" and "label" where they have them."""
    queries: dict[str, Text] = {}
    documents: dict[str, Text] = {}
    pairs: list[tuple[str, str]] = []
    for row in rows:
        name, label = str(row.get("id", "")), str(row.get("label", ""))
        document, query = row.get("positive", row.get("text")), row.get("query")
        if isinstance(document, str):
            documents.setdefault(document, Text(document, DOCUMENT, name, label))
        if isinstance(query, str):
            queries.setdefault(query, Text(query, QUERY, name, label))
            if isinstance(document, str):
                pairs.append((query, document))
    first = {text: i for i, text in enumerate(queries)}
    second = {text: len(queries) + i for i, text in enumerate(documents)}
    true: list[list[int]] = [[] for _ in range(len(first) + len(second))]
    for query, document in dict.fromkeys(pairs):
        true[first[query]].append(second[document])
        true[second[document]].append(first[query])
    return Corpus([*queries.values(), *documents.values()], true)


def some(corpus: Corpus, at_most: int) -> np.ndarray:
    """[n] bool: at most so many texts, pairs kept together, in the order of the BLAKE2b digests of the documents."""
    kept = np.zeros(len(corpus.texts), dtype=bool)
    if len(corpus.texts) <= at_most:
        return ~kept
    left = at_most
    # Documents first, each with its queries; queries without a document come last.
    heads = [i for i, text in enumerate(corpus.texts) if text.kind == DOCUMENT or not corpus.true[i]]
    for i in sorted(heads, key=lambda i: (-corpus.texts[i].kind, _digest(corpus.texts[i].text))):
        group = [j for j in (i, *corpus.true[i]) if not kept[j]]
        if len(group) <= left:
            kept[group] = True
            left -= len(group)
    return kept


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
