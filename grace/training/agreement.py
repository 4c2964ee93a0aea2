"""What gradients of independent batches say of each other: the signal that they share, and the noise of each."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 1000
BLOCK = 1 << 20  # numbers of each gradient that are in double precision at a time


def products(gradients: dict[str, list[Tensor]]) -> dict[tuple[str, str], np.ndarray]:
    """Dot products [n, n] of the gradients of n batches, for each pair of parts."""
    n = len(next(iter(gradients.values())))
    found = {(a, b): np.zeros((n, n)) for a in gradients for b in gradients}
    for start in range(0, len(next(iter(gradients.values()))[0]), BLOCK):
        some = {name: torch.stack([g[start : start + BLOCK] for g in of]).double() for name, of in gradients.items()}
        for a, b in found:
            found[a, b] += (some[a] @ some[b].T).numpy()
    return found


def statistics(dots: dict[tuple[str, str], np.ndarray], rollouts: int, seed: int) -> dict[str, Any]:
    """Cosines and shares with 95 % intervals, bootstrapped over the n batches.

    Args:
        dots: of `products`, with the parts `reward` and `length`.
        rollouts: of a batch.

    Returns:
        `cosine` of two batches' gradients, whole and of each part (None where no two batches have the part; where one
        lacks it, the cosine is 0);
        `rollouts_for_half`: those of a batch with which it would be 1/2, None as below;
        `length_share`: the length rule's share of |mean gradient|^2, estimated from pairs of different batches, so that
        their noise has no part in it; None where that mean's square cannot be told from zero;
        `length_of_norm`: its share of the mean |gradient|^2 of a batch, noise and all.
        The other share is the reward's; each has half of what they have in common.
    """
    parts = ("reward", "length")
    total = sum(dots[pair] for pair in itertools.product(parts, parts))
    length = dots["length", "length"] + (dots["length", "reward"] + dots["reward", "length"]) / 2
    assert isinstance(total, np.ndarray)
    n = len(total)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    weights = np.concatenate((np.ones((1, n)), drawn))  # the first is the sample itself

    def between(matrix: np.ndarray) -> np.ndarray:
        """Weighted mean over pairs of different batches."""
        off = matrix - np.diag(np.diag(matrix))
        pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
        return np.einsum("ri,ij,rj->r", weights, off, weights) / np.where(pairs > 0, pairs, np.nan)

    def cosine(matrix: np.ndarray) -> np.ndarray | None:
        norms = np.sqrt(np.diag(matrix))
        if (norms > 0).sum() < 2:
            return None
        there = np.outer(norms, norms)
        return between(np.divide(matrix, there, out=np.zeros_like(matrix), where=there > 0))

    whole = cosine(total)
    if whole is None:
        unknown = dict.fromkeys(("rollouts_for_half", "length_share", "length_of_norm"))
        return {"batches": n, "cosine": dict.fromkeys(("total", *parts)), **unknown}
    half, common = rollouts * (1 - whole[0]) / whole[0], between(total)
    certain = np.nanquantile(common[1:], 0.025) > 0
    return {
        "batches": n,
        "cosine": {name: told(of) for name, of in [("total", whole), *((p, cosine(dots[p, p])) for p in parts)]},
        "rollouts_for_half": float(half) if certain and whole[0] > 0 else None,
        "length_share": told(between(length) / common) if certain else None,
        "length_of_norm": told((weights @ np.diag(length)) / (weights @ np.diag(total))),
    }


def told(values: np.ndarray | None) -> dict[str, Any] | None:
    """The first of the values, and the middle 95 % of the others."""
    if values is None:
        return None
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return {"value": float(values[0]), "interval": [float(low), float(high)]}
