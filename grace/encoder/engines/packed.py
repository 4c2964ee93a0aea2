"""Embeddings of token sequences that are there already, such as rationales that vLLM wrote.

Rows of at most so many tokens go through the model together, in one of two ways that give the same vectors:

- packed: all sequences in one row without padding. Positions start at 0 with each of them, and transformers, given
  no mask, keeps attention inside each. Flash attention does that by lengths, at no cost; the other kinds of attention
  build a mask of T x T for T tokens and compute all of it.
- padded: sequences of similar length side by side, the short ones padded.

So a model that runs flash attention gets packed rows, any other padded ones: docs/measurements.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from grace.encoder.engines.transformers import forward_pooled, left_pad
from grace.settings import Pooling

# Tokens that go through the model together; a longer sequence goes alone. A CPU is fastest while they fit its cache.
MAX_TOKENS = {"cpu": 1024, "cuda": 16384}


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
    """Pool given token sequences; equals `engines.transformers.embed` up to floating-point error.

    Args:
        model: a causal LM of transformers, unwrapped.
        sequences: token ids; every token from `pool_from` on is pooled.
        packed: one row or padded ones; None takes what is faster for the model.
        max_tokens: memory and speed only; None takes the device's.

    Returns:
        [N, d] float32, not normalised, in the order of `sequences`; zeros where there is nothing to pool.
    """
    device = next(model.parameters()).device
    packed = runs_flash_attention(model) if packed is None else packed
    pooled = torch.zeros(len(sequences), model.config.get_text_config().hidden_size, device=device)
    for rows in batches([len(ids) for ids in sequences], max_tokens or MAX_TOKENS.get(device.type, 4096)):
        texts = [sequences[i] for i in rows]
        if packed:
            pooled[rows] = forward_packed(model, texts, pool_from, pooling)
        else:
            pooled[rows] = forward_pooled(model, *left_pad(texts, device), pool_from, pooling)
    return pooled


def runs_flash_attention(model: Any) -> bool:
    """Whether attention is told the lengths of packed sequences instead of a mask."""
    return "flash" in str(model.config._attn_implementation)


def batches(lengths: list[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences that go together, longest first: at most `max_tokens` once all are padded to the longest.

    Empty sequences are in no batch.
    """
    rows: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] == 0:
            break
        if rows and (len(rows) + 1) * lengths[rows[0]] > max_tokens:
            yield rows
            rows = []
        rows.append(i)
    if rows:
        yield rows


def forward_packed(model: Any, sequences: list[list[int]], pool_from: int, pooling: Pooling) -> Tensor:
    """[n, d] float32 embeddings of n sequences, none of them empty, in one forward pass."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(ids) for ids in sequences])
    owner = torch.arange(len(sequences)).repeat_interleave(lengths)
    first = lengths.cumsum(0) - lengths
    position = torch.arange(int(lengths.sum())) - first[owner]
    deeper = pooling.layer == "penultimate"
    out = model.get_decoder()(
        input_ids=torch.tensor([[token for ids in sequences for token in ids]], device=device),
        position_ids=position.unsqueeze(0).to(device),
        attention_mask=None,
        use_cache=False,
        output_hidden_states=deeper,
    )
    hidden = (out.hidden_states[-2] if deeper else out.last_hidden_state)[0]
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
