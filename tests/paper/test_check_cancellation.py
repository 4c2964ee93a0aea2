"""What the run of the reward code says, also of code in which nothing cancels."""

import re

import pytest
import torch

from grace.method import advantages, rewards
from grace.paper import check_cancellation
from grace.settings import RewardConfig
from tests.paper.altered import printed


def lines(finding) -> dict[str, list[float]]:
    """First cell of each line of the finding's tables -> its numbers."""
    found = {}
    for line in finding.arithmetic.splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells and re.fullmatch(r"[\d.e+-]+", cells[0]) and re.search(r"\d", cells[0]):
            found[name] = [float(cell) for cell in cells]
    return found


def test_the_published_advantage_depends_neither_on_negatives_nor_on_lambda2():
    finding = check_cancellation.supervised(printed(), 0.2, 0.2)
    assert finding.verdict == "contradicted"
    table = lines(finding)
    for change in ("without d-", "lambda2 = 0", "lambda2 = 1"):
        none, group, others, rollout = table[change]
        assert none < 1e-12 and others < 1e-12 and group > 0.1 and rollout > 0.1
    assert max(table["GRPO (eq. 18)"]) < 1e-12 and max(table["DAPO"]) < 1e-12 and min(table["REINFORCE++"]) > 0.01


def test_unsupervised_the_text_cancels_and_the_code_does_not():
    finding = check_cancellation.unsupervised(printed(), 0.2, 0.2)
    assert finding.verdict == "contradicted"
    for none, group, others, code in lines(finding).values():
        assert none < 1e-12 and others < 1e-12 and group > 0.1 and code > 0.1


def test_in_a_group_with_a_truncated_rollout_the_change_is_the_removed_term():
    # A term c that K - 1 of K rollouts share, taken away, moves theirs by c / K and the truncated one by c (K - 1) / K.
    at = check_cancellation.batch(truncate=True)
    config = RewardConfig()
    cosine = torch.nn.functional.cosine_similarity(at.query[0], at.negatives[0, 0], dim=0)
    moved = check_cancellation.advantages(at, config, False) - check_cancellation.advantages(at, config, True)
    k = at.positives.shape[1]
    assert moved[0, 0].item() == pytest.approx(-10 * cosine.item() * (k - 1) / k)
    assert moved[0, 1:].tolist() == pytest.approx([10 * cosine.item() / k] * (k - 1))


def test_without_the_groups_mean_nothing_cancels(monkeypatch):
    monkeypatch.setattr(advantages, "group_advantages", lambda totals, estimator: totals)
    assert check_cancellation.supervised(printed(), 0.2, 0.2).verdict == "confirmed"
    assert check_cancellation.unsupervised(printed(), 0.2, 0.2).verdict == "confirmed"


def test_with_a_reward_that_compares_each_rollout_nothing_cancels(monkeypatch):
    real = rewards.compute_rewards

    def each(query, positives, negatives, truncated, config):
        return real(query, positives, negatives, truncated, config.model_copy(update={"negatives": "rollout"}))

    monkeypatch.setattr(rewards, "compute_rewards", each)
    assert check_cancellation.supervised(printed(), 0.2, 0.2).verdict == "confirmed"


def test_other_weights_of_a_study_are_used():
    table = lines(check_cancellation.supervised(printed(), 0.1, 1.0))
    assert "lambda2 = 0.2" in table and "lambda2 = 1" not in table


def test_the_figures_effect_is_named_where_it_is_printed():
    assert "from 49.66" in check_cancellation.supervised(printed(), 0.2, 0.2).claim
    without = check_cancellation.supervised(printed(without=("figure3",)), 0.2, 0.2)
    assert without.verdict == "contradicted" and "Figure 3" not in without.claim
