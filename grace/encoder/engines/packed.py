"""Embeddings of token sequences that are there already, such as rationales that vLLM wrote.

Rows of at most so many tokens go through the model together, in one of two ways that give the same vectors:

- packed: all sequences in one row without padding. Positions start at 0 with each of them, and transformers, given
  no mask, keeps attention inside each. Flash attention does that by lengths, at no cost; the other kinds of attention
  build a mask of T x T for T tokens and compute all of it.
- padded: sequences of similar length side by side, the short ones padded, and what all begin with is read once.

So a model that runs flash attention gets packed rows, any other padded ones: docs/measurements.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grace.encoder.engines.reading import Reader, batches, hidden_states
from grace.encoder.engines.slots import Slots, attending
from grace.method.pooling import pool
from grace.settings import Pooling


@torch.no_grad()
def embed(
    model: Any,
    sequences: list[list[int]],
    *,
    pool_from: int,
    pooling: Pooling,
    packed: bool | None = None,
    max_tokens: int | None = None,
) -> Tensor:
    """Pool given token sequences; equals `forward_pooled` up to floating-point error.

    Args:
        model: a causal LM of transformers, unwrapped.
        sequences: token ids; every token from `pool_from` on is pooled.
        packed: one row or padded ones; None takes what is faster for the model.
        max_tokens: memory and speed only; None takes the device's.

    Returns:
        [N, d] float32, not normalised, in the order of `sequences`; zeros where there is nothing to pool.
    """
    device, config = next(model.parameters()).device, model.config.get_text_config()
    pooled = torch.zeros(len(sequences), config.hidden_size, device=device)
    reader = Reader(model, Slots(0, 0, config.num_hidden_layers), pool_from, pooling)
    room = max_tokens or reader.max_tokens
    if runs_flash_attention(model) if packed is None else packed:
        for rows in batches([len(ids) for ids in sequences], room, similar=0):
            pooled[rows] = forward_packed(model, [sequences[i] for i in rows], pool_from, pooling)
        return pooled
    with attending(model):
        reader.read_prefix([ids for ids in sequences if ids])
        for rows in batches([max(0, len(ids) - reader.cache.prefix) for ids in sequences], room):
            pooled[rows] = reader.embed([sequences[i] for i in rows])
    return pooled


def runs_flash_attention(model: Any) -> bool:
    """Whether attention is told the lengths of packed sequences instead of a mask."""
    return "flash" in str(model.config._attn_implementation)


def forward_packed(model: Any, sequences: list[list[int]], pool_from: int, pooling: Pooling) -> Tensor:
    """[n, d] float32 embeddings of n sequences, none of them empty, in one forward pass."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(ids) for ids in sequences])
    owner = torch.arange(len(sequences)).repeat_interleave(lengths)
    first = lengths.cumsum(0) - lengths
    position = torch.arange(int(lengths.sum())) - first[owner]
    found, _ = hidden_states(
        model,
        pooling,
        input_ids=torch.tensor([[token for ids in sequences for token in ids]], device=device),
        position_ids=position.unsqueeze(0).to(device),
        attention_mask=None,
        use_cache=False,
    )
    hidden = found[0]
    used = position >= pool_from
    return pool_segments(hidden[used.to(device)].float(), owner[used].to(device), len(sequences), pooling.method)


def pool_segments(hidden: Tensor, owner: Tensor, count: int, method: str) -> Tensor:
    """Pool the rows of `hidden` [t, d] by the sequence each belongs to, `owner` [t], in rising order.

    Returns:
        [count, d]; zeros for a sequence that owns no row.
    """
    pooled = hidden.new_zeros(count, hidden.shape[1])
    if method == "eos":
        last = torch.ones_like(owner, dtype=torch.bool)
        last[:-1] = owner[1:] != owner[:-1]
        pooled[owner[last]] = hidden[last]
        return pooled
    index = owner.unsqueeze(1).expand_as(hidden)
    return pooled.scatter_reduce(0, index, hidden, {"mean": "mean", "max": "amax"}[method], include_self=False)


def forward_pooled(model: Any, ids: Tensor, mask: Tensor, pool_from: int, pooling: Pooling) -> Tensor:
    """[N, d] float32 embeddings of padded `ids` [N, L] with `mask` [N, L], gradients kept."""
    position = (mask.cumsum(1) - 1).clamp(min=0)
    hidden, _ = hidden_states(
        model, pooling, input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False
    )
    return pool(hidden.float(), mask.bool() & (position >= pool_from), pooling.method)


def left_pad(rows: list[list[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Token rows of different lengths as ids [N, L] (0 where padded) and mask [N, L]."""
    width = max(1, max(map(len, rows)))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
    return ids.to(device), mask.to(device)
