"""Per-text sampling: the right distribution, and independence of the neighbours."""

import torch
from scipy import stats

from grace.encoder.sampling import gumbel, sample, text_key


def keys(count):
    return torch.tensor([text_key(0, i) for i in range(count)])


def test_frequencies_follow_the_softmax():
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.1])
    draws = sample(logits.expand(40_000, 5), keys(40_000), 3, torch.full((40_000,), 0.7))
    expected = (logits.double() / 0.7).softmax(0) * 40_000
    assert stats.chisquare(torch.bincount(draws, minlength=5).numpy(), expected.numpy()).pvalue > 1e-3


def test_noise_is_gumbel():
    noise = gumbel(keys(64), 0, 1001).flatten()
    assert torch.isfinite(noise).all()
    assert stats.kstest(noise[::7].numpy(), stats.gumbel_r.cdf).pvalue > 1e-3


def test_steps_rows_and_entries_are_uncorrelated():
    noise = torch.stack([gumbel(keys(32), step, 512) for step in range(32)])
    for flat in (noise.flatten(1), noise.transpose(0, 1).flatten(1)):
        assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.04  # 5 deviations of 1 / sqrt(16384)


def test_a_row_does_not_depend_on_its_neighbours():
    some = keys(8)
    assert torch.equal(gumbel(some, 5, 100)[3], gumbel(some[3:4], 5, 100)[0])


def test_zero_temperature_is_greedy_in_a_mixed_batch():
    logits = torch.randn(6, 50)
    drawn = sample(logits, keys(6), 0, torch.tensor([0.0, 5.0] * 3))
    assert torch.equal(drawn[::2], logits.argmax(-1)[::2])


def test_key_is_stable():
    assert text_key(0, "text") == text_key(0, "text") != text_key(1, "text")
    assert text_key("a", "b") != text_key("ab", "")
