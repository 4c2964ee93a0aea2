"""Embeds a job's texts by way of the store, and keeps the figures that describe them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from grace.encoder.digests import Index, digests_of
from grace.encoder.store import REFRESH, Store
from grace.section import UserError

BLOCK = 8192  # rationales of another store that are in memory at once
log = logging.getLogger(__name__)


class Embedder:
    """Gives embeddings as the store keeps them, so that a job gives the same whether it embeds or finds them.

    Args:
        encoder: has `encode_batches(texts)`, as `grace.encoder.encoder.RationaleEncoder`.
        store: of the encoder's model and settings.
        written: of the same model under settings that let it write the same rationales, or longer ones: what lies
            there is pooled again by the encoder's `encode_written(texts, token_ids)` and not written again.
    """

    def __init__(self, encoder: Any, store: Store, written: Store | None = None) -> None:
        self.encoder, self.store, self.written = encoder, store, written
        self.standard: tuple[np.ndarray, np.ndarray] | None = None  # mean and deviation [d] of each dimension
        self.seen = Index()  # the distinct texts of this job, in the store before or not
        self.tokens = self.truncated = self.well_formed = self.reused = 0

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
        found = self.store.read(digests)
        return found if self.standard is None else (found - self.standard[0]) / self.standard[1]

    def standardize(self, texts: list[str]) -> None:
        """From now on give each dimension with the mean 0 and the deviation 1 that it has over `texts`."""
        vectors = Embedder(self.encoder, self.store, self.written).encode(texts).astype(np.float64)
        deviation = vectors.std(0)
        parts = vectors.mean(0), np.where(deviation > 0, deviation, 1)
        self.standard = parts[0].astype(np.float32), parts[1].astype(np.float32)

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
        there = self._written(digests[fresh])
        if self.written is not None:
            log.info("the rationales of %d of them are there and are pooled again", there.sum())
        with tqdm(total=len(fresh), desc="encode", unit="text", mininterval=5) as bar:
            for some, made in self._batches(texts, digests, fresh[there], fresh[~there]):
                self.store.add(digests[some], made.embeddings, made.rationales)
                bar.update(len(some))

    def _batches(
        self, texts: list[str], digests: np.ndarray, there: np.ndarray, missing: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Numbers of n texts and what the encoder made of them."""
        for start in range(0, len(there), BLOCK):
            block = there[start : start + BLOCK]
            assert self.written is not None
            rationales = self.written.rationales(digests[block])
            for rows, made in self.encoder.encode_written([texts[i] for i in block], rationales):
                yield block[rows], made
        if len(missing):
            for rows, made in self.encoder.encode_batches([texts[i] for i in missing]):
                yield missing[rows], made

    def _written(self, digests: np.ndarray) -> np.ndarray:
        """[n] bool: whose rationale lies in `written`."""
        if self.written is None:
            return np.zeros(len(digests), dtype=bool)
        if not self.written.known(digests).all():
            self.written.refresh(older_than=REFRESH)
        return self.written.known(digests)

    def _count(self, digests: np.ndarray) -> None:
        new = digests[self.seen.find(digests) < 0]
        self.seen.add(new, np.zeros(len(new)))
        tokens, truncated, well_formed = self.store.notes(new)
        self.tokens += int(tokens.sum())
        self.truncated += int(truncated.sum())
        self.well_formed += int(well_formed.sum())
        self.reused += int(self._written(new).sum())

    def rationale(self) -> dict[str, Any] | None:
        """Mean length in tokens and the shares cut off and well formed; None for a run without rationales.

        `reused` counts the texts whose rationale lies in `written`, so that a resumed job says the same.
        """
        texts = len(self.seen)
        if not self.tokens:
            return None
        return {
            "mean_tokens": self.tokens / texts,
            "truncated_share": self.truncated / texts,
            "well_formed_share": self.well_formed / texts,
            "texts": texts,
            "reused": self.reused,
        }
