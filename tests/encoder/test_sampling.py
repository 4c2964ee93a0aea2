"""Per-text sampling: the right distribution, and independence of the neighbours."""

import torch
from scipy import stats

from grace.encoder.sampling import gumbel, sample, text_key


def at(step, count):
    return torch.full((count,), step)


def keys(count):
    return torch.tensor([text_key(0, i) for i in range(count)])


def test_frequencies_follow_the_softmax():
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.1])
    draws = sample(logits.expand(40_000, 5), keys(40_000), at(3, 40_000), torch.full((40_000,), 0.7))
    expected = (logits.double() / 0.7).softmax(0) * 40_000
    assert stats.chisquare(torch.bincount(draws, minlength=5).numpy(), expected.numpy()).pvalue > 1e-3


def test_noise_is_gumbel():
    noise = gumbel(keys(64), at(0, 64), 1001).flatten()
    assert torch.isfinite(noise).all()
    assert stats.kstest(noise[::7].numpy(), stats.gumbel_r.cdf).pvalue > 1e-3


def test_steps_rows_and_entries_are_uncorrelated():
    noise = torch.stack([gumbel(keys(32), at(step, 32), 512) for step in range(32)])
    for flat in (noise.flatten(1), noise.transpose(0, 1).flatten(1)):
        assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.04  # 5 deviations of 1 / sqrt(16384)


def test_a_row_does_not_depend_on_its_neighbours():
    some = keys(8)
    assert torch.equal(gumbel(some, at(5, 8), 100)[3], gumbel(some[3:4], at(5, 1), 100)[0])


def test_rows_at_different_steps_have_the_noise_of_their_own():
    some, steps = keys(3), torch.tensor([0, 7, 2**20])
    noise = gumbel(some, steps, 50)
    for row in range(3):
        assert torch.equal(noise[row], gumbel(some[row : row + 1], steps[row : row + 1], 50)[0])
    assert not torch.equal(noise[0], gumbel(some[:1], at(1, 1), 50)[0])


def test_zero_temperature_is_greedy_in_a_mixed_batch():
    logits = torch.randn(6, 50)
    drawn = sample(logits, keys(6), at(0, 6), torch.tensor([0.0, 5.0] * 3))
    assert torch.equal(drawn[::2], logits.argmax(-1)[::2])


def test_key_is_stable():
    assert text_key(0, "text") == text_key(0, "text") != text_key(1, "text")
    assert text_key("a", "b") != text_key("ab", "")
