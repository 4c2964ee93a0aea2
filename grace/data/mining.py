"""Hard negatives for rows that bring none, taken from the positives of all rows, in memory that hardly grows.

Counts as `sentence_transformers.util.mine_hard_negatives` does, which keeps all texts, all embeddings and all query
vectors in memory and compares each batch of queries with the whole corpus at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from grace.config import Mining
from grace.data.similarity import normal
from grace.data.summary import quantiles
from grace.data.vectors import Cosines, load

Row = dict[str, Any]
DOCUMENTS = 1 << 16  # compared with a block of queries at a time
SCORES = 1 << 26  # cosines held at a time (256 MB in float32)
FIELDS = ("query", "positive")


class Texts(Sequence[str]):
    """Texts at places (row, field) of rows that may lie on disk."""

    def __init__(self, rows: Sequence[Row], places: np.ndarray) -> None:
        self.rows, self.places = rows, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, at: Any) -> Any:
        row, field = divmod(int(self.places[at]), len(FIELDS))
        return self.rows[row][FIELDS[field]]


class Miner:
    """Finds M = `mining.negatives` hard negatives for each row.

    The `rank_max` texts most similar to the query (and as many more as a query has positives) are candidates; the
    query's positives and what `margin` and `max_score` forbid are taken out; of the rest, ranked anew, the negatives
    are the first M from `rank_min` on that differ from the query. Texts that differ only in case and white space are
    one text, and positives of equal queries are never each other's negatives.

    Args:
        rows: with query and positive; a list, or `grace.files.JsonLines`.
        folder: on the disk that takes the embeddings.

    Attributes:
        report: after the first of `negatives`, how many rows were dropped, and the cosines of positives and negatives.

    Raises:
        UserError: when the encoder cannot be had, or there is too little disk for its embeddings.
    """

    def __init__(self, rows: Sequence[Row], mining: Mining, folder: Path) -> None:
        self.rows, self.mining = rows, mining
        self.report: dict[str, Any] = {}
        first, text = _identical(rows)
        query_texts, self.query = _in_order(text[0::2])
        positive_texts, self.positive = _in_order(text[1::2])
        self.queries, self.documents = Texts(rows, first[query_texts]), Texts(rows, first[positive_texts])
        number = np.full(len(first), -1, dtype=np.int64)
        number[positive_texts] = np.arange(len(positive_texts))
        self.itself = number[query_texts]  # the document that a query also is, or -1
        self.most = int(np.bincount(self.query).max())
        # Each query's positives, once each and in their order: `owned[starts[q]:starts[q + 1]]`.
        pairs = self.query.astype(np.int64) * len(self.documents) + self.positive
        unique, self.pair = _in_order(pairs)
        owner = unique // len(self.documents)
        order = np.argsort(owner, kind="stable")
        self.pair = np.argsort(order)[self.pair]
        self.owner, self.owned = owner[order], (unique % len(self.documents))[order]
        self.starts = np.searchsorted(self.owner, np.arange(len(self.queries) + 1))
        self.cosines = load(mining.encoder, self.queries, self.documents, folder)

    def negatives(self) -> Iterator[list[str] | None]:
        """The M negatives of each row, or None for a row with fewer, in the order of the rows."""
        m = self.mining.negatives
        documents = np.full((len(self.queries), m), -1, dtype=np.int32)
        scores = np.full((len(self.queries), m), np.nan, dtype=np.float32)
        of_positive = np.empty(len(self.owned), dtype=np.float32)
        for block in self._blocks():
            here = slice(self.starts[block.start], self.starts[block.stop])
            documents[block], scores[block], of_positive[here] = self._block(block)
        enough = np.asarray((documents >= 0).all(axis=1))[self.query]
        self.report = {
            "dropped": {"fewer than M negatives in the window": int((~enough).sum())} if not enough.all() else {},
            "similarity_of_positives": quantiles(of_positive[self.pair[enough]]),
            "similarity_of_negatives": quantiles(scores[self.query[enough]].ravel()),
        }
        for query, whole in zip(self.query, enough, strict=True):
            yield [self.documents[at] for at in documents[query]] if whole else None

    def _blocks(self) -> Iterator[slice]:
        width = max(min(DOCUMENTS, len(self.documents)), self.mining.rank_max + self.most)
        step = max(1, SCORES // width)
        starts = range(0, len(self.queries), step)
        for start in tqdm(starts, "mine negatives", mininterval=1):
            yield slice(start, min(start + step, len(self.queries)))

    def _block(self, block: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(documents, shape (queries, M), -1 where there is none; their cosines; cosines of the block's positives)."""
        mining, count = self.mining, block.stop - block.start
        vectors = self.cosines.queries(block.start, block.stop)
        scores, indices = nearest(self.cosines, vectors, len(self.documents), mining.rank_max + self.most)
        own = slice(self.starts[block.start], self.starts[block.stop])
        rows = self.owner[own] - block.start
        positives = self.cosines.pairs(vectors, rows, self.owned[own])

        key = np.arange(count)[:, None] * len(self.documents)
        forbidden = np.isin(key + indices, rows * len(self.documents) + self.owned[own])
        if mining.margin is not None:
            # Of several positives the least similar one counts.
            least = np.minimum.reduceat(positives, self.starts[block] - self.starts[block.start])
            forbidden |= scores + np.float32(mining.margin) > least[:, None]
        if mining.max_score is not None:
            forbidden |= scores > np.float32(mining.max_score)
        scores[forbidden] = -np.inf

        ranked, at = torch.topk(torch.from_numpy(scores), mining.rank_max, dim=1)
        window = slice(mining.rank_min, mining.rank_min + mining.negatives + 1)  # one more: it may be the query
        found, kept = np.take_along_axis(indices, at.numpy(), axis=1)[:, window], ranked.numpy()[:, window]
        valid = np.isfinite(kept) & (found != self.itself[block, None])
        best = np.argsort(~valid, axis=1, kind="stable")[:, : mining.negatives]
        found, kept, valid = (np.take_along_axis(array, best, axis=1) for array in (found, kept, valid))
        out = np.full((count, mining.negatives), -1, dtype=np.int32)
        values = np.full((count, mining.negatives), np.nan, dtype=np.float32)
        width = valid.shape[1]
        out[:, :width], values[:, :width] = np.where(valid, found, -1), np.where(valid, kept, np.nan)
        return out, values, positives


def nearest(cosines: Cosines, queries: Any, documents: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest cosines of each query and their documents, falling; shape (queries, k), padded with -inf and -1.

    The documents are gone through in slices, and only the best so far are kept.
    """
    best: tuple[torch.Tensor, torch.Tensor] | None = None
    for start in range(0, documents, DOCUMENTS):
        scores = cosines.scores(queries, start, min(start + DOCUMENTS, documents))
        values, indices = torch.topk(scores, min(k, scores.shape[1]), dim=1)
        indices += start
        if best is not None:
            values, indices = torch.cat([best[0], values], dim=1), torch.cat([best[1], indices], dim=1)
            values, at = torch.topk(values, min(k, values.shape[1]), dim=1)
            indices = indices.gather(1, at)
        best = values, indices
    assert best is not None
    missing = (0, k - best[0].shape[1])
    pad = torch.nn.functional.pad
    return pad(best[0], missing, value=-np.inf).cpu().numpy(), pad(best[1], missing, value=-1).cpu().numpy()


def _identical(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """(first place of each distinct text, the text of each place), a place being 2 x row + field.

    Texts that are equal after `normal` are one. They are told apart by 64 bits: among 3 million the chance that two
    are taken for one is 2.4e-7.
    """
    digests = np.empty(len(FIELDS) * len(rows), dtype=np.uint64)
    for number, row in enumerate(tqdm(rows, "texts", mininterval=1)):
        for field, name in enumerate(FIELDS):
            digest = hashlib.blake2b(normal(row[name]).encode(), digest_size=8).digest()
            digests[len(FIELDS) * number + field] = int.from_bytes(digest, "little")
    _, first, text = np.unique(digests, return_index=True, return_inverse=True)
    return first, text


def _in_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct values in the order of their first appearance, number of each value)."""
    unique, first, number = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return unique[order], np.argsort(order)[number]
