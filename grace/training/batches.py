"""What GRACE trains on, in which order, and how a generation is cut into batches and groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from datasets import Dataset
from torch import Tensor
from trl.trainer.utils import RepeatSampler

from grace.method.prompt import PromptTemplate, is_well_formed
from grace.section import UserError


class Embeddings(NamedTuple):
    """Embeddings of b instances, each [b, ., d]; `greedy` [b, 1, d] for ReMax only."""

    query: Tensor
    positives: Tensor
    negatives: Tensor | None
    greedy: Tensor | None

    @classmethod
    def split(cls, pooled: Tensor, instances: int, rollouts: int, anchors: int) -> Embeddings:
        """Of [n, d]: K rollouts of each instance, then the anchors of each (q and the d-), then greedy rollouts."""
        parts = [instances * rollouts, instances * anchors, len(pooled) - instances * (rollouts + anchors)]
        positives, others, greedy = pooled.split(parts)
        others = others.unflatten(0, (instances, anchors))
        return cls(
            query=others[:, 0],
            positives=positives.unflatten(0, (instances, rollouts)),
            negatives=others[:, 1:] if anchors > 1 else None,
            greedy=greedy.unsqueeze(1) if len(greedy) else None,
        )


class GroupSampler(RepeatSampler):
    """TRL's sampler with an order that follows from (seed, epoch), not from how often it was asked."""

    def __init__(self, *args: Any, trainer: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        epoch = int((self.trainer.state.epoch or 0.0) + 1e-6)
        self.generator.manual_seed((self.seed or 0) * 1_000_003 + epoch)
        return super().__iter__()


def training_set(rows: list[dict[str, Any]], data: str) -> Dataset:
    """Rows as TRL wants them: `prompt` is d+ itself, the other texts ride along.

    Unsupervised, the anchor is the text itself and there are no negatives (eqs. 20-21).
    """
    if data == "unsupervised":
        return Dataset.from_list(
            [{"id": r["id"], "prompt": r["text"], "query": r["text"], "negatives": []} for r in rows]
        )
    counts = {len(row.get("negatives") or []) for row in rows}
    if len(counts) > 1:
        raise UserError(
            f"the triples have between {min(counts)} and {max(counts)} negatives; give all the same number."
        )
    return Dataset.from_list(
        [
            {"id": r["id"], "prompt": r["positive"], "query": r["query"], "negatives": r.get("negatives") or []}
            for r in rows
        ]
    )


def exchanged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `training_set` with q and d+ in each other's place, so that rollouts are written of q."""
    return [{**row, "id": f"{row['id']}/q", "prompt": row["query"], "query": row["prompt"]} for row in rows]


def failures(
    token_ids: list[list[int]], ends: list[int], template: PromptTemplate, form: bool
) -> dict[str, list[bool]]:
    """Which rationales were truncated and, if `form` is asked for, which were so or are ill-formed."""
    cut = [ids[-1] not in ends for ids in token_ids]
    if not form:
        return {"truncated": cut}
    bare = [ids if over else ids[:-1] for ids, over in zip(token_ids, cut, strict=True)]
    tokenizer: Any = template.tokenizer
    said = tokenizer.batch_decode(bare, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    wrong = [over or not is_well_formed(template.opening + text) for text, over in zip(said, cut, strict=True)]
    return {"truncated": cut, "ill_formed": wrong}


def in_groups(batch: dict[str, Any], size: int) -> dict[str, Any]:
    """A batch of rows [N, ...] as one of groups [N / size, size, ...]: TRL shuffles and splits along the first
    dimension, so `size` rows in a row stay together."""
    return {
        name: value.unflatten(0, (-1, size)) if isinstance(value, Tensor) and value.ndim else value
        for name, value in batch.items()
    }


def in_rows(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of `in_groups`, or one of rows, as rows without the columns in which all of them are padded.

    TRL pads all rollouts of a generation to its longest; those that go through the model together rarely need it.
    """
    grouped = batch["prompt_ids"].ndim == 3
    batch = {
        name: value.flatten(0, 1) if grouped and isinstance(value, Tensor) and value.ndim else value
        for name, value in batch.items()
    }
    first = int(batch["prompt_mask"].any(0).int().argmax())
    padded = batch["completion_mask"].shape[1]
    last = int(batch["completion_mask"].sum(1).max())
    for name, value in batch.items():
        if name in ("prompt_ids", "prompt_mask"):
            batch[name] = value[:, first:]
        elif isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] == padded:
            batch[name] = value[:, :last]
    return batch
