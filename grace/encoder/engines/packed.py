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

from grace.encoder.engines.reading import MAX_TOKENS, Reader, batches, first_blocks, hidden_states, layer_of
from grace.encoder.engines.slots import Slots, attending
from grace.encoder.reads import Read
from grace.method.pooling import pool
from grace.settings import Pooling


@torch.no_grad()
def embed(
    model: Any,
    reads: list[Read],
    *,
    pooling: Pooling,
    packed: bool | None = None,
    max_tokens: int | None = None,
) -> Tensor:
    """Pool given token sequences.

    Of a layer before the last only the blocks below it are computed.

    Args:
        model: a causal LM of transformers, unwrapped.
        packed: one row or padded ones; None takes what is faster for the model.
        max_tokens: memory and speed only; None takes the device's.

    Returns:
        [N, d] float32, not normalised, in the order of `reads`.
    """
    device, blocks = next(model.parameters()).device, layer_of(model, pooling)
    pooled = torch.zeros(len(reads), model.config.get_text_config().hidden_size, device=device)
    reader = Reader(model, Slots(0, 0, blocks), pooling)
    room = max_tokens or reader.max_tokens
    with first_blocks(model, blocks):
        if runs_flash_attention(model) if packed is None else packed:
            for rows in batches([len(one.ids) for one in reads], room, similar=0):
                pooled[rows] = forward_packed(model, [reads[i] for i in rows], pooling)
            return pooled
        with attending(model):
            reader.read_prefix([one.ids for one in reads], min((one.start for one in reads), default=0))
            for rows in batches([len(one.ids) - reader.cache.prefix for one in reads], room):
                pooled[rows] = reader.embed([reads[i] for i in rows])
    return pooled


@torch.no_grad()
def embed_layers(model: Any, reads: list[Read], *, pooling: Pooling, layers: list[int]) -> Tensor:
    """`embed` by the states after each of L numbers of blocks, whatever layer `pooling` names: [N, L, d], one pass."""
    device = next(model.parameters()).device
    pooled = torch.zeros(len(reads), len(layers), model.config.get_text_config().hidden_size, device=device)
    for rows in batches([len(one.ids) for one in reads], MAX_TOKENS.get(device.type, 4096)):
        some = [reads[i] for i in rows]
        ids, mask = left_pad([one.ids for one in some], device)
        position = (mask.cumsum(1) - 1).clamp(min=0)
        states = model.get_decoder()(
            input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False, output_hidden_states=True
        ).hidden_states
        start, stop = torch.tensor([(one.start, one.stop) for one in some], device=device).T[:, :, None]
        used = mask.bool() & (position >= start) & (position < stop)
        pooled[rows] = torch.stack([pool(states[layer].float(), used, pooling.method) for layer in layers], 1)
    return pooled


def runs_flash_attention(model: Any) -> bool:
    """Whether attention is told the lengths of packed sequences instead of a mask."""
    return "flash" in str(model.config._attn_implementation)


def forward_packed(model: Any, reads: list[Read], pooling: Pooling) -> Tensor:
    """[n, d] float32 embeddings of n sequences in one forward pass."""
    device = next(model.parameters()).device
    lengths, start, stop = torch.tensor([(len(one.ids), one.start, one.stop) for one in reads]).T
    owner = torch.arange(len(reads)).repeat_interleave(lengths)
    first = lengths.cumsum(0) - lengths
    position = torch.arange(int(lengths.sum())) - first[owner]
    found, _ = hidden_states(
        model,
        pooling,
        input_ids=torch.tensor([[token for one in reads for token in one.ids]], device=device),
        position_ids=position.unsqueeze(0).to(device),
        attention_mask=None,
        use_cache=False,
    )
    hidden = found[0]
    used = (position >= start[owner]) & (position < stop[owner])
    return pool_segments(hidden[used.to(device)].float(), owner[used].to(device), len(reads), pooling.method)


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
