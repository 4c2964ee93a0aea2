"""InfoNCE over two embeddings of each text at once: half by the direct ones, half by those with a rationale."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor


class Halves(MultipleNegativesRankingLoss):
    """Mean of the losses of the two halves of [N, 2 d] embeddings."""

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        first, second = zip(*(part.chunk(2, 1) for part in embeddings), strict=True)
        of = super().compute_loss_from_embeddings
        return (of(list(first), labels) + of(list(second), labels)) / 2


class CachedHalves(CachedMultipleNegativesRankingLoss):
    """The same with a gradient cache."""

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        total = torch.zeros((), device=reps[0][0].device)
        for half in (0, 1):
            columns = [[part.chunk(2, 1)[half] for part in column] for column in reps]
            total = total + super().calculate_loss(columns, labels, with_backward=with_backward) / 2
        if with_backward:  # each half has given its gradient whole
            for part in (part for column in reps for part in column):
                assert part.grad is not None
                part.grad /= 2
        return total


def info_nce(student: Any, *, half: bool, mini_batch_size: int | None, scale: float, gather: bool) -> Any:
    """InfoNCE over the embeddings of `student`, with a cosine times `scale`.

    Args:
        half: of [N, 2 d] embeddings.
        mini_batch_size: of the gradient cache; None: without.
        gather: take the other processes' texts as negatives too.
    """
    common: dict[str, Any] = {"scale": scale, "gather_across_devices": gather}
    if mini_batch_size is None:
        return (Halves if half else MultipleNegativesRankingLoss)(student, **common)
    kind = CachedHalves if half else CachedMultipleNegativesRankingLoss
    return kind(student, mini_batch_size=mini_batch_size, **common)
