"""How a model's embeddings of held-out (query, positive) pairs lie in space.

All figures are of unit-length embeddings in float64. A text that several pairs hold counts once, but for `alignment`,
which is a mean over the pairs. Memory is the embeddings as they are read, and blocks of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from grace.evaluation.held_out import by_hash
from grace.section import UserError

BLOCK = 2048  # rows that are compared with as many others at a time


def read_pairs(paths: list[Path], count: int) -> tuple[list[str], list[str]]:
    """Queries and positives of `count` held-out rows, of fewer where there are fewer; taken by hash, since a file may
    hold one source after another.

    Raises:
        UserError: when there are none, or naming file and row for a row that lacks a field.
    """
    rows = [row for path in paths for row in by_hash(path)][:count]
    if not rows:
        raise UserError(f"spec.pairs: {count} held-out pairs are wanted but no file is given; correct --pairs.")
    return [row["query"] for row in rows], [row["positive"] for row in rows]


def measure(queries: list[str], positives: list[str], embed: Callable[[list[str]], np.ndarray]) -> dict[str, Any]:
    """Geometry of N pairs.

    Args:
        queries, positives: N texts each.
        embed: texts -> embeddings [M, d].

    Returns:
        pairs (N), texts (M distinct ones), the figures below, width (d) and items: the squared distance of each
        pair. `random_pair_cosine` and `uniformity` are None for less than two distinct texts.
    """
    texts = list(dict.fromkeys([*queries, *positives]))
    vectors, row = embed(texts), {text: i for i, text in enumerate(texts)}
    squared = distances(vectors, np.array([row[text] for text in queries]), np.array([row[text] for text in positives]))
    several = len(texts) > 1
    return {
        "pairs": len(queries),
        "texts": len(texts),
        "random_pair_cosine": random_pair_cosine(vectors) if several else None,
        "uniformity": uniformity(vectors) if several else None,
        "alignment": float(squared.mean()),
        "effective_rank": effective_rank(vectors),
        "width": vectors.shape[1],
        "items": {"alignment": squared.tolist()},
    }


def random_pair_cosine(vectors: np.ndarray) -> float:
    """Mean cosine of the pairs of different rows of [M, d]: near 1 when all point one way."""
    n, total, own = len(vectors), np.zeros(vectors.shape[1]), 0.0
    for block in _unit(vectors):
        total += block.sum(0)
        own += np.square(block).sum()
    # The squared length of the sum is the sum of all n^2 cosines; `own` is those of a row with itself.
    return float((np.square(total).sum() - own) / (n * (n - 1)))


def uniformity(vectors: np.ndarray) -> float:
    """Log of the mean of exp(-2 |x - y|^2) over pairs of different rows (Wang and Isola 2020); 0 when all are one."""
    n, total = len(vectors), 0.0
    for i, left in enumerate(_unit(vectors)):
        for j, right in enumerate(_unit(vectors)):
            near = np.exp(-2 * (np.square(left).sum(1)[:, None] + np.square(right).sum(1) - 2 * left @ right.T))
            if i == j:
                np.fill_diagonal(near, 0.0)
            total += near.sum()
    return float(np.log(total / (n * (n - 1))))


def distances(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[N] squared distances of rows `left` [N] and `right` [N]; Wang and Isola's (2020) alignment is their mean."""
    return np.concatenate(
        [np.square(x - y).sum(1) for x, y in zip(_unit(vectors, left), _unit(vectors, right), strict=True)]
    )


def effective_rank(vectors: np.ndarray) -> float:
    """exp of the entropy of the singular values, divided by their sum (Roy and Vetterli 2007): 1 to d.

    Of the rows as they are, not centred: a common direction of all rows makes it smaller.
    """
    triangle: Any = np.zeros((0, vectors.shape[1]))
    for block in _unit(vectors):  # a QR decomposition's triangle has the singular values of the whole
        triangle = np.linalg.qr(np.concatenate([triangle, block]), mode="r")
    values = np.linalg.svd(triangle, compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _unit(vectors: np.ndarray, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Blocks of the rows in float64, at unit length; a row of zeros stays one."""
    rows = np.arange(len(vectors)) if rows is None else rows
    for start in range(0, len(rows), BLOCK):
        block = vectors[rows[start : start + BLOCK]].astype(np.float64)
        yield block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), np.finfo(np.float64).tiny)
