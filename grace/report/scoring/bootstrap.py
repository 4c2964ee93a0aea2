"""Resampled scores for paired intervals, in numpy.

A resample is a vector of counts: how often each item was drawn. Every statistic is computed from the counts, over all
resamples at once. All runs share the counts, so that intervals of differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Array = np.ndarray
CELLS = 1 << 18  # counts held at a time (2 MB): four times as fast as blocks that no cache holds


def counts(size: int, resamples: int, seed: int, name: str) -> Iterator[Array]:
    """Blocks [R', size] of counts, R in all, of `size` items drawn with replacement. Seeded by `seed` and `name`."""
    rng = np.random.default_rng([seed, *name.encode()])
    block = max(1, CELLS // size)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def statistic(name: str, values: Array, gold: Array | None, drawn: Array) -> Array:
    """The statistic of each resample.

    Args:
        name: mean, average_precision, spearman or perplexity (see `grace.evaluation.items`).
        values, gold: [N]; a mean needs no gold.
        drawn: [R, N] counts.

    Returns:
        [R]; NaN where a resample has no positive or no spread.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return STATISTICS[name](values, np.empty(0) if gold is None else gold, drawn)


def _mean(values: Array, gold: Array, drawn: Array) -> Array:
    return drawn @ values / drawn.sum(1)


def _perplexity(values: Array, gold: Array, drawn: Array) -> Array:
    """exp(-sum of log-likelihoods / sum of tokens); `gold` holds the tokens."""
    return np.exp(-(drawn @ values) / (drawn @ gold))


def _average_precision(values: Array, gold: Array, drawn: Array) -> Array:
    """As scikit-learn's: equal scores are one threshold, so an item drawn twice is too."""
    order = np.argsort(-values, kind="stable")
    last = _ends(values[order])
    weights = drawn[:, order]
    hits = np.cumsum(weights * gold[order], axis=1)[:, last]
    seen = np.cumsum(weights, axis=1)[:, last]
    gained = np.diff(hits, axis=1, prepend=0.0)
    return np.where(gained > 0, gained * hits / seen, 0.0).sum(1) / hits[:, -1]


def _spearman(values: Array, gold: Array, drawn: Array) -> Array:
    """Pearson correlation of the average ranks within each resample."""
    total = drawn.sum(1)
    a, b = (_ranks(side, drawn) - (total[:, None] + 1) / 2 for side in (values, gold))
    weighted = drawn * a
    return (weighted * b).sum(1) / np.sqrt((weighted * a).sum(1) * (drawn * b * b).sum(1))


def _ranks(values: Array, drawn: Array) -> Array:
    """[R, N]: the average rank that each item has in each resample."""
    order = np.argsort(values, kind="stable")
    last = _ends(values[order])
    upto = np.cumsum(drawn[:, order], axis=1)[:, last]
    ranks = upto - (np.diff(upto, axis=1, prepend=0.0) - 1) / 2
    group = np.empty(len(values), dtype=int)
    group[order] = np.repeat(np.arange(len(last)), np.diff(last, prepend=-1))
    return ranks[:, group]


def _ends(ordered: Array) -> Array:
    """Index of the last item of each run of equal values."""
    return np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)


STATISTICS = {
    "mean": _mean,
    "average_precision": _average_precision,
    "spearman": _spearman,
    "perplexity": _perplexity,
}


def interval(samples: Array) -> tuple[float, float]:
    """The 95 % percentile interval, resamples without a value left out."""
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return float(low), float(high)
