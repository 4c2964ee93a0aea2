"""Vectorised statistics against scikit-learn, scipy and a slow loop over explicit resamples."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from grace.report.scoring import bootstrap

REFERENCE = {
    "mean": lambda values, gold: values.mean(),
    "perplexity": lambda values, gold: math.exp(-values.sum() / gold.sum()),
    "average_precision": lambda values, gold: average_precision_score(gold, values),
    "spearman": lambda values, gold: spearmanr(gold, values).statistic,
}


def sample(name: str, size: int, ties: bool, seed: int = 0):
    rng = np.random.default_rng(seed)
    values = rng.integers(8, size=size).astype(float) if ties else rng.normal(size=size)
    if name == "average_precision":
        return values, (rng.random(size) < 0.4).astype(float)
    if name == "perplexity":
        return -np.abs(values), rng.integers(1, 20, size=size).astype(float)
    return values, rng.integers(3, size=size) + 0.3 * values


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("name", REFERENCE)
def test_every_statistic_is_that_of_the_drawn_items(name, ties):
    values, gold = sample(name, 60, ties)
    drawn = np.concatenate([np.ones((1, 60)), *bootstrap.counts(60, 40, 0, name)])
    fast = bootstrap.statistic(name, values, gold, drawn)
    for counts, found in zip(drawn, fast, strict=True):
        items = np.repeat(np.arange(60), counts.astype(int))
        assert found == pytest.approx(REFERENCE[name](values[items], gold[items]), abs=1e-12)


def test_counts_draw_as_many_as_there_are_and_repeat_for_a_seed(monkeypatch):
    whole = np.concatenate(list(bootstrap.counts(50, 30, 7, "task")))
    assert whole.shape == (30, 50) and (whole.sum(1) == 50).all()
    assert np.array_equal(whole, np.concatenate(list(bootstrap.counts(50, 30, 7, "task"))))
    assert not np.array_equal(whole, np.concatenate(list(bootstrap.counts(50, 30, 7, "other"))))
    monkeypatch.setattr(bootstrap, "CELLS", 50 * 4)  # in blocks, for large tasks
    assert np.array_equal(whole, np.concatenate(list(bootstrap.counts(50, 30, 7, "task"))))


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(1).normal(size=400)
    drawn = np.concatenate(list(bootstrap.counts(400, 4000, 0, "x")))
    low, high = bootstrap.interval(bootstrap.statistic("mean", values, None, drawn))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_a_resample_without_positives_is_left_out():
    found = bootstrap.statistic(
        "average_precision", np.arange(3.0), np.array([1.0, 0, 0]), np.array([[0, 1, 2], [1, 1, 1]])
    )
    assert np.isnan(found[0]) and bootstrap.interval(found) == (found[1], found[1])


def test_a_thousand_resamples_of_the_demo_take_seconds():
    started = time.perf_counter()
    for name, size in (("average_precision", 2000), ("spearman", 1200)):
        values, gold = sample(name, size, ties=False)
        for drawn in bootstrap.counts(size, 1000, 0, name):
            bootstrap.statistic(name, values, gold, drawn)
    assert time.perf_counter() - started < 5
