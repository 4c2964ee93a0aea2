"""The contrastive signals as rewards (eqs. 13-17, 20-21, 28)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from grace.config.schema import RewardConfig

__all__ = ["RewardBreakdown", "RewardConfig", "compute_rewards"]


class RewardBreakdown(NamedTuple):
    """Rewards of B instances x K rollouts, each [B, K].

    `contrastive`, `consistency` and `hard` are the unscaled terms, `negative` the part of
    `contrastive` that comes from d-. `total` is scaled, with the rule for failed rollouts applied.
    """

    contrastive: Tensor
    consistency: Tensor
    hard: Tensor
    total: Tensor
    negative: Tensor


def compute_rewards(
    query: Tensor,
    positives: Tensor,
    negatives: Tensor | None,
    failed: Tensor,
    config: RewardConfig,
    generator: torch.Generator | None = None,
) -> RewardBreakdown:
    """Reward of each rollout.

    total = scale * (contrastive + lambda1 * consistency + lambda2 * hard), or -gamma for a
    failed rollout: the length rule replaces the reward (eq. 28), unless gamma is None. With
    `config.gamma_unit == "deviation"` it is what lies gamma standard deviations of the group's
    other rollouts below their mean, and 0 where all of a group have failed.

    With `config.negatives == "anchor"` (as published) the terms are
        contrastive = cos(q, d+(k)) - sum_m cos(q, d-m)                      (eq. 13)
        hard        = - mean over j != i of max_l cos(q_i, d_j+(l))          (eq. 15)
    in which everything but cos(q, d+(k)) is the same for all K rollouts of an instance, so it
    vanishes from the advantage unless a rollout of the group has failed. With `"rollout"`
        contrastive = cos(q, d+(k)) - sum_m cos(d+(k), d-m)
        hard        = - mean over j != i of cos(d_i+(k), q_j)
    In both, consistency = mean over j != k of cos(d+(k), d+(j))             (eq. 14).

    Unsupervised (eqs. 20-21): `query` is the anchor rationale's embedding, `negatives` None.

    Args:
        query: [B, d]; needs no normalisation.
        positives: [B, K, d], the rollouts of d+.
        negatives: [B, M, d] or None.
        failed: [B, K] bool, rollouts that reached the length limit without an end token, and
            those of another form if `config.form`.
        config: weights and choices. With `reward == "random"` the terms of a group's other
            rollouts are dealt to these rollouts at random.
        generator: source of that randomness.

    Raises:
        ValueError: when K < 2 or the shapes do not match.
    """
    instances, rollouts = _check(query, positives, negatives, failed)
    query, positives = F.normalize(query, dim=-1), F.normalize(positives, dim=-1)
    near = torch.einsum("bd,bkd->bk", query, positives)

    negative = torch.zeros_like(near)
    if negatives is not None:
        negatives = F.normalize(negatives, dim=-1)
        if config.negatives == "anchor":
            negative = -torch.einsum("bd,bmd->b", query, negatives).unsqueeze(1).expand_as(near)
        else:
            negative = -torch.einsum("bkd,bmd->bk", positives, negatives)
    contrastive = near + negative

    # The mean over j != k of cos(k, j) without a K x K matrix: (sum_j cos(k, j) - 1) / (K - 1).
    among = torch.einsum("bkd,bd->bk", positives, positives.sum(1))
    own = torch.einsum("bkd,bkd->bk", positives, positives)
    consistency = (among - own) / (rollouts - 1)

    hard = torch.zeros_like(near)
    if instances > 1:
        others = 1 - torch.eye(instances, device=query.device, dtype=query.dtype)
        if config.negatives == "anchor":
            hardest = torch.einsum("id,jkd->ijk", query, positives).amax(-1)
            hard = -((hardest * others).sum(1) / (instances - 1)).unsqueeze(1).expand_as(near)
        else:
            across = torch.einsum("ikd,jd->ikj", positives, query)
            hard = -(across * others.unsqueeze(1)).sum(-1) / (instances - 1)

    ruled = failed if config.gamma is not None else torch.zeros_like(failed)
    if config.reward == "random":
        deal = _deal(ruled, generator)
        contrastive, consistency, hard, negative = (
            t.gather(1, deal) for t in (contrastive, consistency, hard, negative)
        )
    total = config.scale * (contrastive + config.lambda1 * consistency + config.lambda2 * hard)
    if config.gamma is not None:
        fixed = config.gamma_unit == "reward"
        penalty = torch.full_like(total, -config.gamma) if fixed else _below(total, ruled, config.gamma)
        total = torch.where(ruled, penalty, total)
    return RewardBreakdown(contrastive, consistency, hard, total, negative)


def _below(total: Tensor, failed: Tensor, deviations: float) -> Tensor:
    """[B, 1]: so many standard deviations of each group's other rollouts below their mean; 0 without others."""
    others = total.masked_fill(failed, torch.nan)
    mean = others.nanmean(1, keepdim=True)
    deviation = (others - mean).square().nanmean(1, keepdim=True).sqrt()
    return torch.nan_to_num(mean - deviations * deviation)


def _check(query: Tensor, positives: Tensor, negatives: Tensor | None, failed: Tensor) -> tuple[int, int]:
    if positives.ndim != 3 or query.shape != (positives.shape[0], positives.shape[2]):
        raise ValueError(f"query {tuple(query.shape)} must be [B, d] and positives {tuple(positives.shape)} [B, K, d]")
    instances, rollouts, width = positives.shape
    if rollouts < 2:
        raise ValueError("K = 1: a group needs at least two rollouts")
    if failed.shape != (instances, rollouts) or failed.dtype != torch.bool:
        raise ValueError(f"failed must be bool [{instances}, {rollouts}], not {tuple(failed.shape)}")
    if negatives is not None and (negatives.ndim != 3 or negatives.shape[::2] != (instances, width)):
        raise ValueError(f"negatives {tuple(negatives.shape)} must be [B, M, d]")
    return instances, rollouts


def _deal(failed: Tensor, generator: torch.Generator | None) -> Tensor:
    """[B, K] index that permutes the other rollouts of each group and leaves the failed in place."""
    noise = torch.rand(failed.shape, generator=generator).to(failed.device)
    places = torch.arange(failed.shape[1], device=failed.device).expand_as(noise)
    target = torch.where(failed, torch.inf, places.float()).argsort(dim=1, stable=True)
    source = torch.where(failed, torch.inf, noise).argsort(dim=1, stable=True)
    return torch.empty_like(target).scatter(1, target, source)
