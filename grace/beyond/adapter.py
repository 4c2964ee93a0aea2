"""adapter: InfoNCE through embeddings with a rationale of the frozen backbone, direct ones, or half of each.

The direct and the reasoning embedding of a text begin with the same chat prompt and the model is causal, so one pass
over prompt and rationale gives both: pooled over the prompt alone, and over the prompt and the rationale.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor

from grace.config.schema import Pooling
from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.encoder import reads
from grace.method.prompt import PromptTemplate
from grace.training.contrastive import ContrastiveTrainer, PooledText, features
from grace.training.rationales import looked_up, sample
from grace.training.run import train_and_save

Lookup = Callable[[list[str]], list[list[int]]]  # texts -> token ids of their rationales


class PooledReasoning(PooledText):
    """A text's embedding with its rationale, [N, d], or both embeddings side by side, [N, 2 d].

    Args:
        rationales: of the backbone.
        both: with the direct embedding before the other.
    """

    def __init__(
        self, model: Any, template: PromptTemplate, pooling: Pooling, rationales: Lookup, both: bool = False
    ) -> None:
        super().__init__(model, template, pooling, "chat")
        self.rationales, self.both = rationales, both

    def preprocess(self, inputs: Any, prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        texts = list(inputs)
        prompts = self.template.ids(texts)
        given = reads.written(self.template, prompts, self.rationales(texts), self.pooling, self.ends)
        return features(given, [len(ids) for ids in prompts])

    def spans(self, position: Tensor, features: dict[str, Tensor]) -> list[Tensor]:
        [whole] = super().spans(position, features)
        return [whole & (position < features["prompt_tokens"]), whole] if self.both else [whole]

    def get_embedding_dimension(self) -> int:
        return super().get_embedding_dimension() * (2 if self.both else 1)


class HalvesLoss(MultipleNegativesRankingLoss):
    """Mean of the losses of the two halves of [N, 2 d] embeddings."""

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        first, second = zip(*(part.chunk(2, 1) for part in embeddings), strict=True)
        of = super().compute_loss_from_embeddings
        return (of(list(first), labels) + of(list(second), labels)) / 2


class CachedHalvesLoss(CachedMultipleNegativesRankingLoss):
    """The same with a gradient cache."""

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        total = torch.zeros((), device=reps[0][0].device)
        for half in (0, 1):
            columns = [[part.chunk(2, 1)[half] for part in column] for column in reps]
            total = total + super().calculate_loss(columns, labels, with_backward=with_backward) / 2
        if with_backward:  # each half has added its whole gradient
            for part in (part for column in reps for part in column):
                assert part.grad is not None
                part.grad /= 2
        return total


HALVES = (HalvesLoss, CachedHalvesLoss)


class AdapterTrainer(ContrastiveTrainer):
    """With the embeddings that `loss` asks for.

    Args:
        rationales: of the texts of `rows`, where the settings need them.
    """

    def __init__(self, *args: Any, rationales: Lookup | None = None, **kwargs: Any) -> None:
        self.rationales = rationales
        super().__init__(*args, **kwargs)

    def embedder(self, model: Any, template: PromptTemplate, spec: TrainSpec) -> PooledText:
        assert spec.contrastive is not None
        loss = spec.contrastive.loss
        if loss == "direct":
            return super().embedder(model, template, spec)
        if loss == "rationale":
            reads.check(spec.pooling, True)
        elif spec.direct_prompt != "chat":
            raise UserError(
                f"config: {spec.method}.loss: half needs evaluation.direct_prompt: chat, where one pass gives both "
                "embeddings."
            )
        elif spec.pooling.tokens != "both" or spec.pooling.closing:
            raise UserError(
                f"config: {spec.method}.loss: half takes both embeddings from one pass, so it needs pooling.tokens: "
                "both and no closing; set loss: direct or rationale."
            )
        else:
            self.losses = HALVES
        assert self.rationales is not None
        return PooledReasoning(model, template, spec.pooling, self.rationales, loss == "half")


def train(
    spec: TrainSpec, rows: list[dict[str, Any]], paths: SimpleNamespace, checkpoints: Path, make: Any = AdapterTrainer
) -> None:
    """Train and save. Rationales that the store lacks are written first; without a store, beside the checkpoints."""
    assert spec.contrastive is not None
    rows = sample(rows, spec.contrastive.rows)
    rationales = None
    if spec.rationales:
        rationales = looked_up(spec.rationales, paths.backbone, rows, paths.store or checkpoints / "rationales")
    train_and_save(make, spec, rows, paths, checkpoints, rationales)
