"""What is near what: the best documents for every text, and where the true one stands."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from grace.use.page.corpus import DOCUMENT, QUERY, Corpus

HITS = 10
CHUNK = 512  # texts scored together: 512 x 5,000 scores are 10 MB


class Hits(NamedTuple):
    """For each of n texts; empty for a text without embedding.

    numbers: its best documents, by falling cosine. scores: their cosines. rank: that of its best true document (1 is
    first, 0 without one); this document is in `numbers` too, after the others where its rank is over HITS.
    """

    numbers: list[list[int]]
    scores: list[list[float]]
    rank: list[int]


def search(corpus: Corpus, known: np.ndarray, vectors: np.ndarray) -> Hits:
    """Cosine ranking among the documents that have an embedding, a document's own left out; ties by number.

    Args:
        known: [n] bool, which texts have an embedding.
        vectors: [m, d] unit length, of those.
    """
    rows = np.flatnonzero(known)
    kinds = corpus.kinds[rows]
    documents, targets = rows[kinds == DOCUMENT], vectors[kinds == DOCUMENT]
    column = {int(number): j for j, number in enumerate(documents)}
    found = Hits([[] for _ in known], [[] for _ in known], [0] * len(known))
    for start in range(0, len(rows), CHUNK):
        scores = vectors[start : start + CHUNK] @ targets.T
        for i, line in zip(rows[start : start + CHUNK].tolist(), scores, strict=True):
            if i in column:
                line[column[i]] = -np.inf
            order = np.argsort(-line, kind="stable")[: len(line) - (i in column)]
            best = order[:HITS]
            if corpus.texts[i].kind == QUERY:
                wanted = [column[j] for j in corpus.true[i] if j in column]
                at = np.flatnonzero(np.isin(order, wanted))[:1]
                found.rank[i] = int(at[0]) + 1 if len(at) else 0
                best = np.concatenate([best, order[at[at >= HITS]]])
            found.numbers[i], found.scores[i] = documents[best].tolist(), line[best].tolist()
    return found


def shares(hits: Hits) -> tuple[int, float, float]:
    """Queries whose true document is known here, and the shares of them that rank it first and among HITS."""
    ranks = np.array([rank for rank in hits.rank if rank])
    if not len(ranks):
        return 0, 0.0, 0.0
    return len(ranks), float((ranks == 1).mean()), float((ranks <= HITS).mean())
