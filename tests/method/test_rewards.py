"""Rewards against a float64 loop, and the cancellation of the published negatives."""

import math

import pytest
import torch

from grace.method.advantages import group_advantages
from grace.method.rewards import RewardConfig, compute_rewards

B, K, M, D = 5, 4, 2, 7


def batch(seed=0, negatives=M):
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(B, D, generator=g)
    positives = torch.randn(B, K, D, generator=g)
    others = torch.randn(B, negatives, D, generator=g) if negatives else None
    return query, positives, others, torch.zeros(B, K, dtype=torch.bool)


def cos(a, b):
    a, b = [float(x) for x in a], [float(x) for x in b]
    norm = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm


def by_loop(query, positives, negatives, truncated, config):
    """Eqs. 13-17 and 28 as written, one rollout at a time in Python floats."""
    totals = []
    for i in range(B):
        row = []
        for k in range(K):
            here = positives[i][k]
            r_cl = cos(query[i], here)
            for m in range(0 if negatives is None else negatives.shape[1]):
                r_cl -= cos(query[i] if config.negatives == "anchor" else here, negatives[i][m])
            r_consist = sum(cos(here, positives[i][j]) for j in range(K) if j != k) / (K - 1)
            if config.negatives == "anchor":
                each = [max(cos(query[i], positives[j][n]) for n in range(K)) for j in range(B) if j != i]
            else:
                each = [cos(here, query[j]) for j in range(B) if j != i]
            r_hard = -sum(each) / len(each)
            total = config.scale * (r_cl + config.lambda1 * r_consist + config.lambda2 * r_hard)
            row.append(-config.gamma if truncated[i][k] else total)
        totals.append(row)
    return torch.tensor(totals, dtype=torch.float64)


@pytest.mark.parametrize("negatives", ["anchor", "rollout"])
@pytest.mark.parametrize("m", [0, 1, 2])
def test_against_loop(negatives, m):
    query, positives, others, truncated = batch(1, m)
    truncated[1, 2] = truncated[3, 0] = True
    config = RewardConfig(negatives=negatives, lambda1=0.3, lambda2=0.7, scale=4.0, gamma=1.5)
    got = compute_rewards(query, positives, others, truncated, config)
    torch.testing.assert_close(
        got.total.double(), by_loop(query, positives, others, truncated, config), atol=1e-5, rtol=0
    )
    assert all(term.shape == (B, K) for term in got)


def test_defaults_are_the_papers():
    config = RewardConfig()
    assert (config.lambda1, config.lambda2, config.scale, config.gamma) == (0.2, 0.2, 10.0, 1.0)
    assert (config.reward, config.negatives) == ("contrastive", "anchor")


def test_published_negatives_cancel():
    """Without truncation, d- and lambda2 leave the published advantage alone (eqs. 12-19)."""
    query, positives, others, truncated = batch(2)
    plain = group_advantages(compute_rewards(query, positives, others, truncated, RewardConfig()).total)
    no_negatives = compute_rewards(query, positives, None, truncated, RewardConfig(lambda2=0.0))
    assert (plain - group_advantages(no_negatives.total)).abs().max() < 1e-5
    assert plain.abs().max() > 0.1  # there is a signal, and it is not theirs


def test_published_negatives_return_with_a_truncated_rollout():
    query, positives, others, truncated = batch(2)
    truncated[0, 1] = True
    with_all = group_advantages(compute_rewards(query, positives, others, truncated, RewardConfig()).total)
    without = compute_rewards(query, positives, None, truncated, RewardConfig(lambda2=0.0))
    difference = (with_all - group_advantages(without.total)).abs().amax(1)
    assert difference[0] > 0.1
    assert difference[1:].max() < 1e-5


def test_rollout_negatives_survive():
    query, positives, others, truncated = batch(2)
    config = RewardConfig(negatives="rollout")
    full = group_advantages(compute_rewards(query, positives, others, truncated, config).total)
    bare = compute_rewards(query, positives, None, truncated, RewardConfig(negatives="rollout", lambda2=0.0))
    assert (full - group_advantages(bare.total)).abs().max() > 0.1


def test_length_rule_replaces():
    query, positives, others, truncated = batch(3)
    truncated[:] = True
    total = compute_rewards(query, positives, others, truncated, RewardConfig(gamma=2.5)).total
    assert torch.equal(total, torch.full((B, K), -2.5))


def test_a_rule_in_deviations_keeps_to_the_groups_scale():
    """By hand: q = (1, 0) and rollouts at cosines 1, 0, .5 and one that failed; a group where all have failed."""
    query = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    half = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, math.sqrt(0.75)], [-1.0, 0.0]])
    failed = torch.tensor([[False, False, False, True], [True] * 4])
    config = RewardConfig(lambda1=0.0, lambda2=0.0, scale=2.0, gamma=3.0, gamma_unit="deviation")
    total = compute_rewards(query, torch.stack((half, half)), None, failed, config).total
    below = 1 - 3 * math.sqrt((1 + 1 + 0) / 3)
    torch.testing.assert_close(total, torch.tensor([[2.0, 0.0, 1.0, below], [0.0] * 4]))


@pytest.mark.parametrize("unit", ["reward", "deviation"])
def test_the_control_fails_the_same_rollouts_by_as_much(unit):
    query, positives, others, failed = batch(5)
    failed[0, 1] = failed[2, 0] = failed[2, 3] = True
    config = RewardConfig(gamma=2.0, gamma_unit=unit)
    real = compute_rewards(query, positives, others, failed, config).total
    control = config.model_copy(update={"reward": "random"})
    dealt = compute_rewards(query, positives, others, failed, control, torch.Generator().manual_seed(1)).total
    torch.testing.assert_close(dealt[failed], real[failed])
    assert not torch.allclose(dealt, real)


@pytest.mark.parametrize("reward", ["contrastive", "random"])
def test_without_the_length_rule_a_truncated_rollout_keeps_its_reward(reward):
    query, positives, others, truncated = batch(3)
    config = RewardConfig(gamma=None, reward=reward)
    whole = compute_rewards(query, positives, others, truncated, config, torch.Generator().manual_seed(0)).total
    truncated[:, 1] = True
    cut = compute_rewards(query, positives, others, truncated, config, torch.Generator().manual_seed(0)).total
    assert torch.equal(cut, whole)


def test_random_deals_the_finished_rollouts():
    query, positives, others, truncated = batch(4)
    truncated[0, 1] = True
    real = compute_rewards(query, positives, others, truncated, RewardConfig())
    seen = []
    for seed in range(200):
        dice = torch.Generator().manual_seed(seed)
        dealt = compute_rewards(query, positives, others, truncated, RewardConfig(reward="random"), dice)
        torch.testing.assert_close(dealt.total.sort(1).values, real.total.sort(1).values)
        assert dealt.total[0, 1] == -1.0
        seen.append(group_advantages(dealt.total))
    mean = torch.stack(seen).mean(0)
    # No information: the expected advantage is 0 (row 0 keeps its penalised rollout in place).
    assert mean[1:].abs().max() < 5 * torch.stack(seen)[:, 1:].std() / math.sqrt(200)


def test_one_instance_has_no_in_batch_negative():
    query, positives, others, truncated = (t[:1] for t in batch())
    assert torch.equal(compute_rewards(query, positives, others, truncated, RewardConfig()).hard, torch.zeros(1, K))


def test_one_rollout_is_refused():
    query, positives, others, truncated = batch()
    with pytest.raises(ValueError, match="K = 1"):
        compute_rewards(query, positives[:, :1], others, truncated[:, :1], RewardConfig())
