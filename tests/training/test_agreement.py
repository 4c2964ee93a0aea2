"""Statistics of gradients against Python loops, and intervals against what is known."""

import itertools
import math

import pytest
import torch

from grace.training import agreement
from grace.training.agreement import products, statistics


def vectors(common, n=7, size=40, seed=0):
    """Gradients of n batches, in two parts, that have `common` of something in common."""
    draw = torch.Generator().manual_seed(seed)
    same = torch.randn(size, generator=draw)
    return {
        part: [share * common * same + torch.randn(size, generator=draw) for _ in range(n)]
        for part, share in (("reward", 1.0), ("length", 0.5))
    }


def test_statistics_against_a_loop():
    parts = vectors(1.0)
    got = statistics(products(parts), rollouts=32, seed=0)
    reward, length = ([v.double().tolist() for v in parts[name]] for name in ("reward", "length"))
    whole = [[a + b for a, b in zip(r, s, strict=True)] for r, s in zip(reward, length, strict=True)]

    def dot(a, b):
        return math.fsum(x * y for x, y in zip(a, b, strict=True))

    def cosine(of):
        pairs = list(itertools.combinations(of, 2))
        return math.fsum(dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) for a, b in pairs) / len(pairs)

    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    share = math.fsum(dot(length[i], whole[j]) for i, j in pairs) / math.fsum(dot(whole[i], whole[j]) for i, j in pairs)
    norms = math.fsum(dot(length[i], whole[i]) for i in range(7)) / math.fsum(dot(v, v) for v in whole)
    for name, of in (("total", whole), ("reward", reward), ("length", length)):
        assert got["cosine"][name]["value"] == pytest.approx(cosine(of), rel=1e-9)
    assert got["length_share"]["value"] == pytest.approx(share, rel=1e-9)
    assert got["length_of_norm"]["value"] == pytest.approx(norms, rel=1e-9)
    assert got["rollouts_for_half"] == pytest.approx(32 * (1 - cosine(whole)) / cosine(whole))


def test_intervals_hold_the_truth_nine_times_in_ten():
    """|signal|^2 / E |gradient|^2 of these vectors is known; the interval of few batches is narrow, but not blind."""
    held = 0
    for seed in range(40):
        parts = vectors(0.0, n=12, seed=seed)
        low, high = statistics(products(parts), 32, 0)["cosine"]["total"]["interval"]
        held += low <= 0 <= high
    assert held >= 32


def test_gradients_that_are_zero_have_no_cosine():
    parts = {part: [torch.ones(4), *[torch.zeros(4)] * 3] for part in ("reward", "length")}
    found = statistics(products(parts), rollouts=8, seed=0)
    assert found["batches"] == 4 and set(found["cosine"].values()) == {None}
    assert found["rollouts_for_half"] is found["length_share"] is found["length_of_norm"] is None


def test_products_do_not_depend_on_the_block(monkeypatch):
    parts = vectors(0.5)
    whole = products(parts)
    monkeypatch.setattr(agreement, "BLOCK", 7)
    for pair, dots in products(parts).items():
        assert dots == pytest.approx(whole[pair], rel=1e-12)
