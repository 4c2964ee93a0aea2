"""Rewards to advantages (eq. 18 and the algorithms of table 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EPSILON = 1e-4  # as in TRL's GRPO


def _grpo(rewards: Tensor) -> Tensor:
    return rewards - rewards.mean(1, keepdim=True)


def _grpo_std(rewards: Tensor) -> Tensor:
    return _grpo(rewards) / (rewards.std(1, keepdim=True) + EPSILON)


def _reinforce_pp(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean()) / (rewards.std() + EPSILON)


ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "grpo": _grpo,  # eq. 18: the group mean only
    "grpo_std": _grpo_std,  # the original GRPO, divided by the group's deviation
    "dapo": _grpo_std,  # DAPO differs from it in the loss, which TRL computes
    "reinforce++": _reinforce_pp,  # whitened over the whole batch
}


def group_advantages(rewards: Tensor, estimator: str = "grpo", baseline: Tensor | None = None) -> Tensor:
    """Advantage of each rollout.

    Args:
        rewards: [B, K], B groups of K rollouts of one prompt.
        estimator: grpo, grpo_std, dapo, reinforce++ or remax.
        baseline: [B], for remax only: the reward of the group's greedy rollout.

    Returns:
        [B, K].

    Raises:
        ValueError: for an unknown estimator, K < 2, or remax without its baseline.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be [B, K] with K >= 2, not {tuple(rewards.shape)}")
    if estimator == "remax":
        if baseline is None or baseline.shape != rewards.shape[:1]:
            raise ValueError("remax needs the reward of each group's greedy rollout as baseline [B]")
        return rewards - baseline.unsqueeze(1)
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator {estimator!r}; known: {', '.join([*ESTIMATORS, 'remax'])}")
    return ESTIMATORS[estimator](rewards)


def within_group_deviation(term: Tensor) -> float:
    """Mean over groups of the deviation within a group; 0 means the term teaches nothing.

    Args:
        term: [B, K].
    """
    return torch.nan_to_num(term.float().std(1)).mean().item()
