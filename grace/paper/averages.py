"""Which weights, and which order of columns, explain a printed average: exhaustive searches in whole numbers.

Scores and averages are in percent, printed with two decimals: each stands for anything within half a hundredth. A
weighted mean therefore agrees with a printed average when they differ by a hundredth at most, half of it from the
average and half from the scores. All comparisons are made in whole hundredths, where nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from math import gcd

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog

LIMIT = 500_000  # candidates of one total
Weights = tuple[int, ...]


def hundredths(values: ArrayLike) -> np.ndarray:
    """Numbers with two decimals as whole hundredths, in their shape."""
    return np.rint(np.asarray(values, dtype=float) * 100).astype(np.int64)


def mean(weights: Sequence[int], scores: Sequence[float]) -> float:
    """The weighted mean of scores."""
    return float(np.dot(weights, scores) / sum(weights))


def fits(weights: Sequence[int], scores: Sequence[float], average: float, step: int = 1) -> bool:
    """Whether the weighted mean of printed scores agrees with a printed average.

    Args:
        step: hundredths between two numbers that could be printed: 1 with two decimals, 10 with one.
    """
    total = sum(weights)
    gap = int(np.dot(weights, hundredths(scores))) - total * int(hundredths([average])[0])
    return abs(gap) <= step * total


def step(values: Sequence[float]) -> int:
    """Hundredths between two numbers that could be printed, seen from numbers of equal precision: 10 or 1."""
    return 10 if not (hundredths(values) % 10).any() else 1


def search(scores: np.ndarray, averages: np.ndarray, bound: int = 200) -> list[Weights]:
    """All whole weights, none negative, of total 1 to `bound` that fit every row; smallest total first.

    The shares of the total that fit form a polytope; linear programs give the least and the largest share of each
    category, and every whole vector within these limits is tried.

    Args:
        scores, averages: [rows, categories] and [rows], as printed.

    Raises:
        ValueError: when the rows leave so much room that the vectors are too many to try.
    """
    s, a = hundredths(scores), hundredths(averages)
    limits = _shares(s, a)
    if limits is None:
        return []
    found: list[Weights] = []
    for total in range(1, bound + 1):
        candidates = _candidates(limits, total)
        gaps = np.abs(candidates @ s.T - total * a)
        found += [tuple(map(int, vector)) for vector in candidates[(gaps <= total).all(axis=1)]]
    return found


def smallest(found: list[Weights]) -> list[Weights]:
    """Those that are no multiple of another."""
    return [vector for vector in found if gcd(*vector) == 1]


def _shares(s: np.ndarray, a: np.ndarray) -> np.ndarray | None:
    """[categories, 2], least and largest share of each category; None when no shares fit."""
    slack = 1 + 1e-6
    above, below = np.vstack([s, -s]), np.concatenate([a + slack, slack - a])
    out = []
    for goal in np.eye(s.shape[1]):
        ends = [
            linprog(sign * goal, A_ub=above, b_ub=below, A_eq=np.ones((1, len(goal))), b_eq=[1], bounds=(0, 1))
            for sign in (1, -1)
        ]
        if any(end.status == 2 for end in ends):
            return None
        out.append([ends[0].fun, -ends[1].fun])
    return np.array(out)


def _candidates(limits: np.ndarray, total: int) -> np.ndarray:
    """[n, categories], the whole vectors of a total within the limits."""
    ranges = [
        np.arange(np.ceil(low * total - 1e-5), np.floor(high * total + 1e-5) + 1, dtype=np.int64)
        for low, high in limits
    ]
    if not all(map(len, ranges)):
        return np.empty((0, len(limits)), dtype=np.int64)
    if np.prod([float(len(one)) for one in ranges[:-1]]) > LIMIT:
        raise ValueError(f"too many weights of total {total} to try: the rows do not narrow them down")
    free = np.stack(np.meshgrid(*ranges[:-1], indexing="ij"), axis=-1).reshape(-1, len(ranges) - 1)
    vectors = np.column_stack([free, total - free.sum(axis=1)])  # the last one follows from the total
    return vectors[(vectors[:, -1] >= ranges[-1][0]) & (vectors[:, -1] <= ranges[-1][-1])]


def remaining(scores: np.ndarray, averages: np.ndarray, known: Sequence[int]) -> tuple[float, float] | None:
    """Least and largest weight of the last category that fits every row, given the others'; None when none does.

    Args:
        scores, averages: [rows, categories] and [rows], as printed.
    """
    s, a = hundredths(scores), hundredths(averages)
    rest, weight = s[:, :-1] @ np.asarray(known), sum(known)
    # rest + x last - (weight + x) average lies between -(weight + x) and weight + x: two linear bounds on x.
    slope = np.concatenate([s[:, -1] - a - 1, a - s[:, -1] - 1])
    room = np.concatenate([weight * (a + 1) - rest, rest - weight * (a - 1)])
    if (room[slope == 0] < 0).any():
        return None
    high = min((room[slope > 0] / slope[slope > 0]).tolist(), default=float("inf"))
    low = max((room[slope < 0] / slope[slope < 0]).tolist(), default=0.0)
    return (max(low, 0.0), high) if max(low, 0.0) <= high else None


def orders(scores: Sequence[float], average: float, weights: Sequence[int]) -> list[Weights]:
    """All orders of the columns under which a row fits its average.

    Returns:
        Tuples whose n-th number says which category the n-th printed score belongs to.
    """
    every = np.array(list(permutations(range(len(weights)))))
    gaps = np.asarray(weights)[every] @ hundredths(scores) - sum(weights) * hundredths([average])[0]
    return [tuple(map(int, order)) for order in every[np.abs(gaps) <= sum(weights)]]


def ordered(scores: Sequence[float], order: Sequence[int]) -> list[float]:
    """A printed row put back: by category instead of by column."""
    return [score for _, score in sorted(zip(order, scores, strict=True))]


def distance(scores: Sequence[float], others: Sequence[Sequence[float]]) -> float:
    """Mean absolute difference over the categories to the nearest of other rows; infinite when there is none."""
    return min((float(np.abs(np.subtract(scores, one)).mean()) for one in others), default=float("inf"))
