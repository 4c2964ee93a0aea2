"""What reaches the advantage: the reward code, run on random embeddings with and without d- and lambda2."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from grace.paper.check_subset import spread
from grace.paper.finding import Missing, Outcome, Printed, check, grid
from grace.settings import RewardConfig

if TYPE_CHECKING:
    from torch import Tensor

SEED = 0
INSTANCES, ROLLOUTS, NEGATIVES, WIDTH = 16, 8, 1, 64
EQUAL = 1e-12  # float64: rewards are of the order of 10, and a sum of a few of them errs by about 1e-15
ESTIMATORS = {"grpo": "GRPO (eq. 18)", "dapo": "DAPO", "reinforce++": "REINFORCE++"}
WHY = (
    "q and d- are sampled once per instance, so cos(q, d-) and eq. 15 are equal for all its rollouts, and subtracting "
    "the group's mean removes them. A truncated rollout has -gamma instead of its reward, so in its group they do not "
    "cancel."
)
BY_ALGORITHM = "By algorithm, no rollout truncated; REINFORCE++ subtracts the mean of the batch, not that of the group:"


class Batch(NamedTuple):
    """Random embeddings: query [B, d], positives [B, K, d], negatives [B, M, d], truncated [B, K]."""

    query: Tensor
    positives: Tensor
    negatives: Tensor
    truncated: Tensor


class Change(NamedTuple):
    """A change of the reward whose effect is measured: whether d- enters before and after it, and the new lambda2."""

    label: str
    before: bool
    after: bool
    lambda2: float


def batch(truncate: bool = False) -> Batch:
    """Positives and negatives scattered about their query. truncate: one rollout was cut, the very first."""
    import torch

    dice = torch.Generator().manual_seed(SEED)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, WIDTH, generator=dice, dtype=torch.float64)

    query = noise(INSTANCES)
    positives = query.unsqueeze(1) + noise(INSTANCES, ROLLOUTS)
    negatives = query.unsqueeze(1) + 2 * noise(INSTANCES, NEGATIVES)
    truncated = torch.zeros(INSTANCES, ROLLOUTS, dtype=torch.bool)
    truncated[0, 0] = truncate
    return Batch(query, positives, negatives, truncated)


def advantages(at: Batch, config: RewardConfig, negatives: bool, estimator: str = "grpo") -> Tensor:
    """[B, K] advantages; negatives: whether d- enters (never without supervision)."""
    from grace.method.advantages import group_advantages
    from grace.method.rewards import compute_rewards

    rewards = compute_rewards(at.query, at.positives, at.negatives if negatives else None, at.truncated, config)
    return group_advantages(rewards.total, estimator)


def largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@check("negatives-cancel", "Negatives that cancel, supervised", "Eqs. 12-18, figure 3")
def supervised(printed: Printed, lambda1: float, lambda2: float) -> Outcome:
    config = RewardConfig(lambda1=lambda1, lambda2=lambda2)
    rollout = config.model_copy(update={"negatives": "rollout"})
    changes = [Change("without d-", True, False, lambda2), *_weights(lambda2, True)]
    whole, cut = batch(), batch(truncate=True)
    lines, kept = [], []
    for change in changes:
        kept.append(largest(*_compared(whole, config, change)))
        inside, outside = _groups(*_compared(cut, config, change))
        across = largest(*_compared(whole, rollout, change))
        lines.append([change.label, *map(_number, (kept[-1], inside, outside, across))])
    head = ["change", "none truncated", "one truncated: its group", "the other groups", "`negatives: rollout`"]
    by_estimator = [
        [label, *(_number(largest(*_compared(whole, config, change, name))) for change in changes)]
        for name, label in ESTIMATORS.items()
    ]
    text = (
        f"Random embeddings, seed {SEED}, float64: {INSTANCES} instances, {ROLLOUTS} rollouts, {NEGATIVES} negative, "
        f"lambda1 = {lambda1:g}, lambda2 = {lambda2:g}; the largest advantage is "
        f"{float(advantages(whole, config, True).abs().max()):.2f}. Shown is the largest change of an advantage. {WHY}"
    )
    algorithms = grid(["algorithm", *(change.label for change in changes)], by_estimator)
    gone = max(kept) <= EQUAL
    found = f"Without truncation no advantage changes by more than {max(kept):.1e}."
    found += " The gradient depends neither on d- nor on lambda2." if gone else ""
    claim = "Eqs. 13, 15 and 16 let d- and the hardest in-batch negatives shape the training."
    claim += _printed_effect(printed, "supervised")
    arithmetic = "\n\n".join([text, grid(head, lines), BY_ALGORITHM, algorithms])
    return Outcome(claim, found, "contradicted" if gone else "confirmed", arithmetic)


@check("unsupervised-negatives", "Negatives that cancel, unsupervised", "Eqs. 20-21, figure 3")
def unsupervised(printed: Printed, lambda1: float, lambda2: float) -> Outcome:
    config = RewardConfig(lambda1=lambda1, lambda2=lambda2)
    code = config.model_copy(update={"negatives": "rollout"})
    whole, cut = batch(), batch(truncate=True)
    lines, kept, by_code = [], [], []
    for change in _weights(lambda2, False):
        kept.append(largest(*_compared(whole, config, change)))
        inside, outside = _groups(*_compared(cut, config, change))
        by_code.append(largest(*_compared(whole, code, change)))
        lines.append([change.label, *map(_number, (kept[-1], inside, outside, by_code[-1]))])
    head = ["change", "text: none truncated", "one truncated: its group", "the other groups", "code: none truncated"]
    text = (
        "The same embeddings, q as the anchor and no d-. Text: each anchor against the other instances' rollouts, as "
        "supervised (eq. 15). Code: each rollout against the other anchors, which differs within a group."
    )
    gone = max(kept) <= EQUAL
    found = f"As the text describes it, no advantage changes by more than {max(kept):.1e} when lambda2 does"
    found += f"; as the code does it, by up to {max(by_code):.3f}."
    claim = "Hard negatives, as in the supervised case, shape the training."
    claim += _printed_effect(printed, "unsupervised")
    return Outcome(claim, found, "contradicted" if gone else "confirmed", f"{text}\n\n{grid(head, lines)}")


def _weights(lambda2: float, negatives: bool) -> list[Change]:
    return [Change(f"lambda2 = {v:g}", negatives, negatives, v) for v in (0.0, 0.2, 1.0) if v != lambda2]


def _compared(at: Batch, config: RewardConfig, change: Change, estimator: str = "grpo") -> tuple[Tensor, Tensor]:
    """Advantages before and after a change."""
    changed = config.model_copy(update={"lambda2": change.lambda2})
    return advantages(at, config, change.before, estimator), advantages(at, changed, change.after, estimator)


def _groups(one: Tensor, other: Tensor) -> tuple[float, float]:
    """The largest difference in the first group, which has the truncated rollout, and in the others."""
    return largest(one[0], other[0]), largest(one[1:], other[1:])


def _number(value: float) -> str:
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def _printed_effect(printed: Printed, kind: str) -> str:
    try:
        return f" Figure 3: lambda2 moves the 16-task average {spread(printed, kind)}."
    except Missing:
        return ""
