"""Rationale engine on a transformers model whose pooling has an adapter of its own: written first, then embedded.

What is written and what is pooled are two models on one set of frozen weights, so hidden states cannot be pooled while
they are written: each batch of finished rationales is read once more, with the adapter on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grace.encoder import adapters
from grace.encoder.engines import packed
from grace.encoder.engines import transformers as engine
from grace.encoder.engines.transformers import Written
from grace.settings import Pooling


def generate_batches(
    model: Any, prompts: list[list[int]], *, pool_from: int, pooling: Pooling, **settings: Any
) -> Iterator[Written]:
    """`engines.transformers.generate_batches` of `adapters.writing(model)`, pooled by `adapters.embedding(model)`.

    Between two batches the model is as it was.
    """
    with adapters.writing(model) as writer:
        batches = engine.generate_batches(writer, prompts, pool_from=pool_from, pooling=None, **settings)
    while True:
        with adapters.writing(model):
            made = next(batches, None)
        if made is None:
            return
        read = [prompts[row] + ids[:-1] for row, ids in zip(made.rows, made.token_ids, strict=True)]
        with adapters.embedding(model) as pools:
            pooled = packed.embed(pools, read, pool_from=pool_from, pooling=pooling)
        yield made._replace(pooled=pooled.cpu())
