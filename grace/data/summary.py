"""How numbers are summed up in the reports of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean and quantiles; empty for no values."""
    if not len(values):
        return {}
    points = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
    numbers = np.asarray(values, dtype=np.float64)
    found = np.quantile(numbers, list(points.values()))
    return {
        "mean": round(float(np.mean(numbers)), 4),
        **{name: round(float(value), 4) for name, value in zip(points, found, strict=True)},
    }


def bin_names(edges: Sequence[int]) -> list[str]:
    """`0-7`, `8-15`, ..., `1024-` for the edges 8, 16, ..., 1024: an edge opens the next bin."""
    low = [0, *edges]
    return [f"{start}-{end - 1}" for start, end in pairwise(low)] + [f"{low[-1]}-"]


def histogram(values: Sequence[int] | np.ndarray, edges: Sequence[int]) -> dict[str, int]:
    """Number of values in each bin, by its name."""
    counts = np.bincount(np.searchsorted(edges, np.asarray(values), side="right"), minlength=len(edges) + 1)
    return dict(zip(bin_names(edges), counts.tolist(), strict=True))
