"""Keys and values of the rows that are being written: one slot each, and a prefix that all of them share.

A slot holds its row's tokens from position 0 on, so rows of different lengths and ages lie side by side. Rows that are
written lie in the first slots: what comes after them costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.cache_utils import CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

KIND = "grouped"


class Slots(Cache):
    """The cache that a transformers model reads and writes while its rationales are written.

    Args:
        count: slots.
        capacity: tokens that a slot can hold, the prefix among them.
        layers: of the model.
        fixed: what is compiled needs memory that stays where it is.
    """

    def __init__(self, count: int, capacity: int, layers: int, fixed: bool = False) -> None:
        self.count, self.capacity, self.fixed = count, capacity, fixed
        self.prefix = 0  # tokens that all rows begin with
        self.lengths: Tensor | None = None  # [n] of the rows that take one more token; None: prompts are read
        self.width = 0  # the longest of them, the new token included
        self.parts = [_Layer(self) for _ in range(layers)]
        super().__init__(layers=list(self.parts))

    def keep_prefix(self) -> None:
        """What was read last, one row, is what all rows begin with."""
        for layer in self.parts:
            assert layer.fresh is not None
            layer.prefix = layer.fresh
            self.prefix = layer.fresh[0].shape[2]

    def place(self, slots: Tensor, source: Tensor) -> None:
        """Put rows `source` of what was read last into `slots`; a row may go to many of them."""
        for layer in self.parts:
            layer.place(slots, source)

    def move(self, to: Tensor, of: Tensor, width: int) -> None:
        """Copy the first `width` tokens of the slots `of` into the slots `to`."""
        for layer in self.parts:
            layer.keys[to, :, :width] = layer.keys[of, :, :width]
            layer.values[to, :, :width] = layer.values[of, :, :width]


class _Layer(CacheLayerMixin):
    keys: Any
    values: Any

    def __init__(self, at: Slots) -> None:
        super().__init__()
        self.at = at
        self.prefix: tuple[Tensor, Tensor] | None = None
        self.fresh: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take new keys and values [n, heads, tokens, d]; returns all that their rows attend to."""
        at = self.at
        key_states = key_states.to(value_states.dtype)  # under autocast rotation makes them float32; attention does not
        if at.lengths is None:
            self.fresh = key_states, value_states
            if self.prefix is None:
                return self.fresh
            first = (part.expand(len(key_states), -1, -1, -1) for part in self.prefix)
            return tuple(torch.cat(parts, 2) for parts in zip(first, self.fresh, strict=True))  # type: ignore[return-value]
        n = len(key_states)
        rows = torch.arange(n, device=key_states.device)
        self.keys[rows, :, at.lengths] = key_states[:, :, 0]
        self.values[rows, :, at.lengths] = value_states[:, :, 0]
        return self.keys[:n, :, : at.width], self.values[:n, :, : at.width]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.at.count, key_states.shape[1], self.at.capacity)
        self.keys = key_states.new_zeros(*shape, key_states.shape[3])
        self.values = value_states.new_zeros(*shape, value_states.shape[3])
        for kept, first in zip((self.keys, self.values), self.prefix or (), strict=False):
            kept[:, :, : self.at.prefix] = first
        if self.at.fixed:
            torch._dynamo.mark_static_address(self.keys)
            torch._dynamo.mark_static_address(self.values)
        self.is_initialized = True

    def place(self, slots: Tensor, source: Tensor) -> None:
        assert self.fresh is not None
        if not self.is_initialized:
            self.lazy_initialization(*self.fresh)
        end = self.at.prefix + self.fresh[0].shape[2]
        for kept, fresh in zip((self.keys, self.values), self.fresh, strict=True):
            kept[slots, :, self.at.prefix : end] = fresh[source]

    def get_seq_length(self) -> int:
        return self.at.prefix if self.at.lengths is None else self.at.width - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self.at.capacity


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention by torch, which reads keys once for all query heads that share them.

    For one new token a row: query [n, heads, 1, d], key and value [n, key heads, tokens, d]. transformers copies keys
    for each query head instead, which takes longer than all else of a step.
    """
    n, heads, tokens, width = query.shape
    if tokens > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(n, key.shape[1], heads // key.shape[1], width),
        key,
        value,
        attn_mask=attention_mask,
        scale=kwargs.get("scaling"),
    )
    return out.reshape(n, 1, heads, -1), None


AttentionInterface.register(KIND, grouped_attention)
AttentionMaskInterface.register(KIND, sdpa_mask)


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """Let `model` attend by `grouped_attention`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(KIND)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
