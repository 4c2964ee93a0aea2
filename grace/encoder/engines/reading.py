"""Forward passes that read tokens: prompts behind a prefix that is read once, and one new token of each row.

The latter by `one_token` where it knows the model, else by transformers, as all that is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from grace.encoder.engines.one_token import OneToken, fits
from grace.encoder.engines.slots import Slots
from grace.encoder.reads import Read
from grace.method.pooling import pool
from grace.section import UserError
from grace.settings import Pooling

# Tokens that go through the model together; a longer sequence goes alone. A CPU is fastest while they fit its cache.
MAX_TOKENS = {"cpu": 1024, "cuda": 16384}
# Of what goes through together, lengths differ by no more than this ratio once an eighth of those tokens is reached:
# padding then costs more than another pass.
SIMILAR = 0.8
# Of `compiled` decoding: CUDA graphs of generated kernels, one for each width, which grows by doubling.
COMPILER: dict[str, Any] = {"mode": "reduce-overhead"}
NARROWEST = 256
SHAPES = 128  # of calls: numbers of slots, capacities and widths; above torch's own limit of 8 it would raise
# A prefix is read apart, which takes a pass of its own, where at least so many rows share it.
SHARED_BY = 8


class Reader:
    """Reads rows of tokens into `cache`, pooling on the way.

    Args:
        model: a causal LM of transformers, which attends by `slots.attending`.
        pooling: None pools nothing.
        compiled: let torch compile what reads one token of every slot.
    """

    def __init__(self, model: Any, cache: Slots, pooling: Pooling | None, compiled: bool = False) -> None:
        self.model, self.cache, self.pooling, self.compiled = model, cache, pooling, compiled
        self.device = next(model.parameters()).device
        self.max_tokens = MAX_TOKENS.get(self.device.type, 4096)
        self.layer = layer_of(model, pooling)
        if (
            compiled and self.layer < model.config.get_text_config().num_hidden_layers
        ):  # the first use installs transformers' own hooks, which torch does not trace
            one = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            model.get_decoder()(input_ids=one, output_hidden_states=True, use_cache=False)

    @cached_property
    def one_token(self) -> OneToken | None:
        """Made by the first row that is written; what only reads needs none."""
        return OneToken(self.model, self.cache, self.layer) if fits(self.model) and not self.compiled else None

    def read_prefix(self, rows: list[list[int]], at_most: int) -> None:
        """Read what all rows begin with, if it is `at_most` tokens, none of them pooled; each must have more."""
        first = rows[0][:at_most] if rows else []
        if first and len(rows) >= SHARED_BY and all(len(r) > len(first) and r[: len(first)] == first for r in rows):
            self._forward(torch.tensor([first], device=self.device), torch.arange(len(first), device=self.device)[None])
            self.cache.keep_prefix()

    def read(self, rows: list[Read]) -> tuple[Tensor, Tensor]:
        """Read n rows that begin with the prefix.

        Returns:
            Sums (`mean`), maxima or last ones of the hidden states to pool [n, d] float32, zeros where there are none;
            and the last position's hidden state [n, d].
        """
        self.cache.lengths = None
        start = self.cache.prefix
        lengths = torch.tensor([len(row.ids) - start for row in rows], device=self.device)
        ids = torch.zeros(len(rows), max(len(row.ids) for row in rows) - start, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids) - start] = torch.tensor(row.ids[start:])
        position = torch.arange(start, start + ids.shape[1], device=self.device)[None]
        hidden, last = self._forward(ids.to(self.device), position)
        last = last[torch.arange(len(rows), device=self.device), lengths - 1]
        if self.pooling is None:
            return last.new_zeros(len(rows), 0, dtype=torch.float32), last
        first, stop = torch.tensor([row[1:3] for row in rows], device=self.device).T[:, :, None]
        used = (position >= first) & (position < stop)
        if self.pooling.method == "mean":
            return (hidden.float() * used.unsqueeze(-1)).sum(1), last  # no product of matrices: autocast would round it
        return pool(hidden.float(), used, self.pooling.method), last

    def embed(self, rows: list[Read]) -> Tensor:
        """[n, d] float32 embeddings of n rows that begin with the prefix."""
        pooled, _ = self.read(rows)
        if self.pooling is not None and self.pooling.method == "mean":
            pooled /= torch.tensor([[row.stop - row.start] for row in rows], device=self.device)
        return pooled

    def feed(self, tokens: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Read one more token of each of the first n slots.

        Args:
            tokens: [n]. lengths: [n] tokens that the slots hold. width: the longest, the new token included.

        Returns:
            Hidden states to pool and those of the last layer, each [n, d].
        """
        if self.compiled:
            width = min(self.cache.capacity, max(NARROWEST, 1 << (width - 1).bit_length()))
            torch.compiler.cudagraph_mark_step_begin()  # what the last step gave may be written over
        self.cache.lengths, self.cache.width = lengths, width
        if self.one_token is not None:
            return self.one_token(tokens, lengths, width)
        return (compiled(Reader._feed) if self.compiled else Reader._feed)(self, tokens, lengths)

    def _feed(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        hidden, last = self._forward(tokens[:, None], lengths[:, None])
        return hidden[:, 0], last[:, 0]

    def _forward(self, ids: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        width = self.cache.width if self.cache.lengths is not None else self.cache.prefix + ids.shape[1]
        return hidden_states(
            self.model,
            self.pooling,
            input_ids=ids,
            position_ids=position.expand(len(ids), -1),
            attention_mask=_mask(self.model.config.get_text_config(), position, width),
            past_key_values=self.cache,
            use_cache=True,
        )


def compiled_capacity(tokens: int) -> int:
    """Of slots that hold `tokens`, and one more, as free slots are read too; a multiple, so few shapes are compiled."""
    return tokens + NARROWEST - tokens % NARROWEST


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled by torch, traced whole, once for each shape that it is called with."""
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    return torch.compile(function, fullgraph=True, dynamic=False, **COMPILER)


def layer_of(model: Any, pooling: Pooling | None) -> int:
    """Blocks after which the states to pool come; all of them where nothing is.

    Raises:
        UserError: when the model has fewer.
    """
    count = model.config.get_text_config().num_hidden_layers
    layer = "last" if pooling is None else pooling.layer
    number = {"last": count, "penultimate": count - 1}.get(layer, layer) if isinstance(layer, str) else layer
    if number > count:
        raise UserError(f"config: pooling.layer: {number}, but this model has {count} blocks; give at most {count}.")
    return int(number)


@contextmanager
def first_blocks(model: Any, count: int) -> Iterator[None]:
    """Let `model` end after `count` blocks, for states before the last that nothing is written with."""
    decoder = model.get_decoder()
    layers, norm = decoder.layers, decoder.norm
    if count == len(layers):
        yield
        return
    try:
        decoder.layers, decoder.norm = layers[:count], torch.nn.Identity()
        yield
    finally:
        decoder.layers, decoder.norm = layers, norm


def hidden_states(model: Any, pooling: Pooling | None, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Hidden states to pool and those of the last layer, each [n, l, d]; of many tokens no other layer's are kept."""
    decoder, layer = model.get_decoder(), layer_of(model, pooling)
    if layer >= len(decoder.layers):  # or ends there, in `first_blocks`
        last = decoder(**inputs).last_hidden_state
        return last, last
    if inputs["input_ids"].shape[1] == 1:  # torch does not compile hooks
        out = decoder(**inputs, output_hidden_states=True)
        return out.hidden_states[layer], out.last_hidden_state
    caught: list[Tensor] = []
    hook = decoder.layers[layer].register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        last = decoder(**inputs).last_hidden_state
    finally:
        hook.remove()
    return caught[0], last


def _mask(config: Any, position: Tensor, width: int) -> Any:
    """What tokens at `position` [n, l] attend to among the first `width` ones: [n, 1, l, width] bool.

    A dict of such where layers differ, as transformers takes it.
    """
    query, key = position[:, None, :, None], torch.arange(width, device=position.device)
    seen = key <= query
    kinds, window = set(getattr(config, "layer_types", None) or ()), getattr(config, "sliding_window", None)
    if window is None or kinds == {"full_attention"}:
        return seen
    near = seen & (key > query - window)
    return {"full_attention": seen, "sliding_attention": near} if kinds else near


def batches(lengths: list[int], max_tokens: int, similar: float = SIMILAR) -> Iterator[list[int]]:
    """Indices of sequences of `similar` length that go together, longest first.

    Padded to the longest they are at most `max_tokens`; a longer sequence goes alone, an empty one is in no batch.
    """
    rows: list[int] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] == 0:
            break
        unlike = lengths[i] < similar * longest and 8 * len(rows) * longest >= max_tokens
        if rows and (unlike or (len(rows) + 1) * longest > max_tokens):
            yield rows
            rows = []
        if not rows:
            longest = lengths[i]
        rows.append(i)
    if rows:
        yield rows
