"""Digests of texts, and a table from digest to row number that stays small at tens of millions of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

Block = tuple[np.ndarray, np.ndarray, np.ndarray]  # high halves (sorted), low halves, rows


def digests_of(texts: Iterable[str]) -> np.ndarray:
    """BLAKE2b digests of texts: [N, 2] uint64, equal on every machine."""
    joined = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64).reshape(-1, 2)


class Index:
    """Digest -> row number, in sorted arrays: 20 bytes per text, where a dictionary takes over 150.

    New digests make a block of their own; blocks of like size are merged, so that there are few.
    A digest that is added twice keeps its first row.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []  # oldest first

    def __len__(self) -> int:
        return sum(len(rows) for _, _, rows in self.blocks)

    def add(self, digests: np.ndarray, rows: np.ndarray) -> None:
        """Args: digests [n, 2] uint64, rows [n] of less than 2^32."""
        if not len(digests):
            return
        self.blocks.append(_sorted(digests[:, 0], digests[:, 1], rows.astype(np.uint32)))
        while len(self.blocks) > 1 and len(self.blocks[-2][2]) < 2 * len(self.blocks[-1][2]):
            newer, older = self.blocks.pop(), self.blocks.pop()
            self.blocks.append(_sorted(*(np.concatenate(halves) for halves in zip(older, newer, strict=True))))

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Rows [n] int64 of digests [n, 2]; -1 where unknown."""
        found = np.full(len(digests), -1, dtype=np.int64)
        for high, low, rows in self.blocks:
            todo = np.flatnonzero(found < 0)
            at = np.searchsorted(high, digests[todo, 0])
            while len(todo):  # once, and again only where two digests share their first half
                here = at < len(high)
                here[here] = high[at[here]] == digests[todo[here], 0]
                todo, at = todo[here], at[here]
                same = low[at] == digests[todo, 1]
                found[todo[same]] = rows[at[same]]
                todo, at = todo[~same], at[~same] + 1
        return found


def _sorted(high: np.ndarray, low: np.ndarray, rows: np.ndarray) -> Block:
    order = np.argsort(high, kind="stable")  # stable: of equal digests the older comes first
    return high[order], low[order], rows[order]
