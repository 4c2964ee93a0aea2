"""Embeds a job's texts by way of the store, and keeps the figures that describe them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from grace.encoder.digests import Index, digests_of
from grace.encoder.store import REFRESH, Store
from grace.section import UserError

SAMPLE = 4000  # texts behind the geometry's mean cosine
log = logging.getLogger(__name__)


class Embedder:
    """Gives embeddings as the store keeps them, so that a job gives the same whether it embeds or finds them.

    Args:
        encoder: has `encode_batches(texts)`, as `grace.encoder.encoder.RationaleEncoder`.
        store: of the encoder's model and settings.
    """

    def __init__(self, encoder: Any, store: Store) -> None:
        self.encoder, self.store = encoder, store
        self.seen = Index()  # the distinct texts of this job, in the store before or not
        self.sample = np.zeros((0, 2), dtype=np.uint64)
        self.tokens = self.truncated = self.well_formed = 0

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings [N, d] float32 of `texts`, in their order. Raises: whatever the encoder or the store raises."""
        digests = digests_of(texts)
        if not self.store.known(digests).all():
            self.store.refresh(older_than=REFRESH)
        unknown = np.flatnonzero(~self.store.known(digests))
        if len(unknown):
            _, first = np.unique(digests[unknown], axis=0, return_index=True)
            self._embed(texts, digests, unknown[np.sort(first)])
        self._count(np.unique(digests, axis=0))
        return self.store.read(digests)

    def check_room(self, batches: Iterable[list[str]], at_most: int) -> None:
        """Raises: UserError when the disk has no room for the unknown ones of at most `at_most` texts."""
        try:
            self.store.check_room(at_most)
        except UserError:
            self.store.refresh()
            found = (np.unique(digests_of(texts), axis=0) for texts in batches)
            self.store.check_room(sum(int((~self.store.known(digests)).sum()) for digests in found))

    def _embed(self, texts: list[str], digests: np.ndarray, fresh: np.ndarray) -> None:
        log.info("encoding %d texts (%d asked, %d known)", len(fresh), len(texts), len(self.store))
        self.store.check_room(len(fresh))
        with tqdm(total=len(fresh), desc="encode", unit="text", mininterval=5) as bar:
            for rows, made in self.encoder.encode_batches([texts[i] for i in fresh]):
                self.store.add(digests[fresh[rows]], made.embeddings, made.rationales)
                bar.update(len(rows))

    def _count(self, digests: np.ndarray) -> None:
        new = digests[self.seen.find(digests) < 0]
        self.seen.add(new, np.zeros(len(new)))
        tokens, truncated, well_formed = self.store.notes(new)
        self.tokens += int(tokens.sum())
        self.truncated += int(truncated.sum())
        self.well_formed += int(well_formed.sum())
        # The smallest digests: a random sample that does not depend on the texts' order.
        both = np.concatenate([self.sample, new])
        self.sample = both[np.lexsort((both[:, 1], both[:, 0]))[:SAMPLE]]

    def geometry(self) -> dict[str, Any]:
        """Mean cosine of the pairs of distinct texts, over all or SAMPLE of them: near 1 when all point one way."""
        texts, n = len(self.seen), len(self.sample)
        if n < 2:
            return {"random_pair_cosine": None, "pairs": 0, "texts": texts}
        vectors = self.store.read(self.sample).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        # The squared length of the sum is the sum of all n^2 cosines, of which n are those of a text with itself.
        cosine = (np.square(vectors.sum(0)).sum() - n) / (n * (n - 1))
        return {"random_pair_cosine": float(cosine), "pairs": n * (n - 1) // 2, "texts": texts}

    def rationale(self) -> dict[str, Any] | None:
        """Mean length in tokens and the shares cut off and well formed; None for a run without rationales."""
        texts = len(self.seen)
        if not self.tokens:
            return None
        return {
            "mean_tokens": self.tokens / texts,
            "truncated_share": self.truncated / texts,
            "well_formed_share": self.well_formed / texts,
            "texts": texts,
        }
