"""Hidden states to one vector per text (eqs. 10-11, figure 6)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    lowest = torch.finfo(hidden.dtype).min
    return hidden.masked_fill(~mask.bool().unsqueeze(-1), lowest).amax(1)


def _eos(hidden: Tensor, mask: Tensor) -> Tensor:
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask.bool(), positions, -1).amax(1).clamp(min=0)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "max": _max, "eos": _eos}


def pool(hidden: Tensor, mask: Tensor, method: str = "mean") -> Tensor:
    """Pool the masked-in positions of each row.

    Which side the padding is on makes no difference, only `mask` decides.

    Args:
        hidden: [N, L, d] hidden states of one layer.
        mask: [N, L], 1 or True where a token is pooled (L_sys < t <= L and no padding, eq. 11).
        method: `mean` (eq. 11), `max` (per dimension) or `eos` (the last pooled position).

    Returns:
        [N, d] in the dtype of `hidden`; zeros for a row with no position to pool.

    Raises:
        ValueError: for an unknown method or shapes that do not match.
    """
    if method not in METHODS:
        raise ValueError(f"unknown pooling {method!r}; known: {', '.join(METHODS)}")
    if hidden.shape[:2] != mask.shape:
        raise ValueError(f"hidden {tuple(hidden.shape)} and mask {tuple(mask.shape)} do not match")
    pooled = METHODS[method](hidden, mask)
    return pooled * mask.bool().any(1, keepdim=True).to(pooled.dtype)
