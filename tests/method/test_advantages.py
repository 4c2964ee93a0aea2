"""Advantages against a float64 loop."""

import statistics

import pytest
import torch

from grace.method.advantages import EPSILON, group_advantages, within_group_deviation

REWARDS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1


def by_loop(name):
    everything = REWARDS.flatten().tolist()
    rows = []
    for group in REWARDS.tolist():
        mean = statistics.fmean(group)
        if name == "grpo":
            rows.append([r - mean for r in group])
        elif name in ("grpo_std", "dapo"):
            rows.append([(r - mean) / (statistics.stdev(group) + EPSILON) for r in group])
        else:
            whole = statistics.fmean(everything)
            rows.append([(r - whole) / (statistics.stdev(everything) + EPSILON) for r in group])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", ["grpo", "grpo_std", "dapo", "reinforce++"])
def test_against_loop(name):
    torch.testing.assert_close(group_advantages(REWARDS, name), by_loop(name))


def test_remax_subtracts_the_greedy_reward():
    baseline = torch.arange(6, dtype=torch.float64)
    got = group_advantages(REWARDS, "remax", baseline)
    assert got[2, 1].item() == pytest.approx(REWARDS[2, 1].item() - 2)
    with pytest.raises(ValueError, match="greedy"):
        group_advantages(REWARDS, "remax")


def test_bad_input():
    with pytest.raises(ValueError, match="unknown estimator"):
        group_advantages(REWARDS, "ppo")
    with pytest.raises(ValueError, match="K >= 2"):
        group_advantages(REWARDS[:, :1])


def test_within_group_deviation():
    flat = torch.arange(6.0).unsqueeze(1).expand(6, 4)  # differs between groups, not within
    assert within_group_deviation(flat) == 0.0
    expected = statistics.fmean(statistics.stdev(group) for group in REWARDS.tolist())
    assert within_group_deviation(REWARDS) == pytest.approx(expected, rel=1e-6)
