"""What GRACE trains on, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datasets import Dataset
from trl.trainer.utils import RepeatSampler

from grace.section import UserError


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
