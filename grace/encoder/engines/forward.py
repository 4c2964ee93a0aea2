"""Forward passes of a decoder that read tokens and pool on the way, and the cache that they read into.

`embed` pools token sequences that are given; `Reader` reads prompts, and one new token of each row that is being
written; `Slots` holds the rows' keys and values; `OneToken` is the fast pass for models of Llama's family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.cache_utils import CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grace.config.schema import Pooling
from grace.config.section import UserError
from grace.encoder.reads import Read
from grace.method.pooling import pool

# Tokens that go through the model together; a longer sequence goes alone. A CPU is fastest while they fit its cache.
MAX_TOKENS = {"cpu": 1024, "cuda": 16384}
# Lengths of what goes through together differ by no more than this ratio once an eighth of those tokens is reached:
# padding then costs more than another pass.
SIMILAR = 0.8
# A prefix is read apart, which takes a pass of its own, where at least so many rows share it.
SHARED_BY = 8
# Compiled decoding: CUDA graphs of generated kernels, one for each width, which grows by doubling.
COMPILER: dict[str, Any] = {"mode": "reduce-overhead"}
NARROWEST = 256
SHAPES = 128  # of calls: numbers of slots, capacities and widths; above torch's own limit of 8 it would raise


@torch.no_grad()
def embed(model: Any, reads: list[Read], *, pooling: Pooling, max_tokens: int | None = None) -> Tensor:
    """[N, d] float32 of N token sequences, such as direct prompts and rationales that vLLM wrote; not normalised.

    Sequences of similar length go through the model (a causal LM of transformers, unwrapped) together, padded, and what
    all begin with is read once. For a layer before the last only the blocks below it are computed. `max_tokens` that
    go together matter for memory and speed only; None takes the device's.
    """
    blocks, decoder = layer_of(model, pooling), model.get_decoder()
    reader = Reader(model, Slots(0, 0, blocks), pooling)
    pooled = torch.zeros(len(reads), model.config.get_text_config().hidden_size, device=reader.device)
    layers, norm = decoder.layers, decoder.norm
    try:
        if blocks < len(layers):
            decoder.layers, decoder.norm = layers[:blocks], nn.Identity()
        with attending(model):
            reader.read_prefix([one.ids for one in reads], min((one.start for one in reads), default=0))
            lengths = [len(one.ids) - reader.cache.prefix for one in reads]
            for rows in batches(lengths, max_tokens or reader.max_tokens):
                some = [reads[i] for i in rows]
                pooled[rows], _ = reader.read(some)
                if pooling.method == "mean":
                    pooled[rows] /= torch.tensor([[one.stop - one.start] for one in some], device=reader.device)
    finally:
        decoder.layers, decoder.norm = layers, norm
    return pooled


@torch.no_grad()
def embed_layers(model: Any, reads: list[Read], *, pooling: Pooling, layers: list[int]) -> Tensor:
    """`embed` by the states after each of L numbers of blocks, whatever layer `pooling` names: [N, L, d], one pass."""
    device = next(model.parameters()).device
    pooled = torch.zeros(len(reads), len(layers), model.config.get_text_config().hidden_size, device=device)
    for rows in batches([len(one.ids) for one in reads], MAX_TOKENS.get(device.type, 4096)):
        some = [reads[i] for i in rows]
        inputs = left_padded([one.ids for one in some], device)
        states = model.get_decoder()(**inputs, use_cache=False, output_hidden_states=True).hidden_states
        position = inputs["position_ids"]
        start, stop = torch.tensor([(one.start, one.stop) for one in some], device=device).T[:, :, None]
        used = inputs["attention_mask"].bool() & (position >= start) & (position < stop)
        pooled[rows] = torch.stack([pool(states[layer].float(), used, pooling.method) for layer in layers], 1)
    return pooled


def left_padded(rows: list[list[int]], device: torch.device | str) -> dict[str, Tensor]:
    """Token rows of different lengths as input_ids (0 where padded), attention_mask and position_ids, each [N, L]."""
    width = max(1, max(map(len, rows)))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


class Reader:
    """Reads tokens into `cache` by a model that is `attending`, pooling on the way; `pooling` None pools nothing.

    Prompts are read behind a shared prefix. One new token of each row is read by `OneToken` where it knows the model,
    else by transformers, also where that pass is `compiled`.
    """

    def __init__(self, model: Any, cache: Slots, pooling: Pooling | None, compiled: bool = False) -> None:
        self.model, self.cache, self.pooling, self.compiled = model, cache, pooling, compiled
        self.device = next(model.parameters()).device
        self.max_tokens = MAX_TOKENS.get(self.device.type, 4096)
        self.layer = layer_of(model, pooling)
        if compiled and self.layer < model.config.get_text_config().num_hidden_layers:
            # The first use installs transformers' own hooks, which torch does not trace.
            one = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            model.get_decoder()(input_ids=one, output_hidden_states=True, use_cache=False)

    @cached_property
    def one_token(self) -> OneToken | None:
        """Made when the first row is written; reading alone needs none."""
        return OneToken(self.model, self.cache, self.layer) if fits(self.model) and not self.compiled else None

    def read_prefix(self, rows: list[list[int]], at_most: int) -> None:
        """Read what all rows begin with, if it is `at_most` tokens, none of them pooled; each must have more."""
        first = rows[0][:at_most] if rows else []
        if first and len(rows) >= SHARED_BY and all(len(r) > len(first) and r[: len(first)] == first for r in rows):
            self._forward(torch.tensor([first], device=self.device), torch.arange(len(first), device=self.device)[None])
            self.cache.keep_prefix()

    def read(self, rows: list[Read]) -> tuple[Tensor, Tensor]:
        """Read n rows that begin with the prefix.

        Returns sums (`mean`), maxima or last ones of the hidden states to pool [n, d] float32, zeros where there are
        none, and the last position's hidden state [n, d].
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

    def feed(self, tokens: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Read one more token [n] of each of the first n slots, which hold `lengths` [n] tokens, `width` at most.

        Returns hidden states to pool and those of the last layer, each [n, d].
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


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled by torch, traced whole, once for each shape that it is called with."""
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    return torch.compile(function, fullgraph=True, dynamic=False, **COMPILER)


def layer_of(model: Any, pooling: Pooling | None) -> int:
    """Blocks after which the states to pool come; all where nothing is. Raises: UserError when the model has fewer."""
    count = model.config.get_text_config().num_hidden_layers
    layer = "last" if pooling is None else pooling.layer
    number = {"last": count, "penultimate": count - 1}.get(layer, layer) if isinstance(layer, str) else layer
    if number > count:
        raise UserError(f"config: pooling.layer: {number}, but this model has {count} blocks; give at most {count}.")
    return int(number)


def hidden_states(model: Any, pooling: Pooling | None, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Hidden states to pool and those of the last layer, each [n, l, d]; with many tokens no other layer's are kept."""
    decoder, layer = model.get_decoder(), layer_of(model, pooling)
    if layer >= len(decoder.layers):  # or the decoder was cut there, by `embed`
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
    """What tokens at `position` [n, l] attend to of the first `width`: [n, 1, l, width] bool, or such by layer type."""
    query, key = position[:, None, :, None], torch.arange(width, device=position.device)
    seen = key <= query
    kinds, window = set(getattr(config, "layer_types", None) or ()), getattr(config, "sliding_window", None)
    if window is None or kinds == {"full_attention"}:
        return seen
    near = seen & (key > query - window)
    return {"full_attention": seen, "sliding_attention": near} if kinds else near


def batches(lengths: list[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences of similar length, longest first, that are at most `max_tokens` when padded to the longest.

    A longer sequence goes alone, an empty one is in no batch.
    """
    rows: list[int] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] == 0:
            break
        unlike = lengths[i] < SIMILAR * longest and 8 * len(rows) * longest >= max_tokens
        if rows and (unlike or (len(rows) + 1) * longest > max_tokens):
            yield rows
            rows = []
        if not rows:
            longest = lengths[i]
        rows.append(i)
    if rows:
        yield rows


# ---- the cache ----


class Slots(Cache):
    """Keys and values of the rows that are being written: one slot each, and a prefix that all of them share.

    A slot holds its row's tokens from position 0 on, at most `capacity` with the prefix, so rows of different lengths
    and ages lie side by side. Rows that are being written have the first slots: the others cost nothing. `fixed` is for
    compiled code, which needs memory that stays where it is.
    """

    def __init__(self, count: int, capacity: int, layers: int, fixed: bool = False) -> None:
        if fixed:  # one more, as free slots are read too; a multiple, so that few shapes are compiled
            capacity += NARROWEST - capacity % NARROWEST
        self.count, self.capacity, self.fixed = count, capacity, fixed
        self.prefix = 0  # tokens that all rows begin with
        self.lengths: Tensor | None = None  # [n] of the rows that take one more token; None: prompts are read
        self.width = 0  # the longest of them, the new token included
        self.parts = [_SlotLayer(self) for _ in range(layers)]
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
            assert layer.fresh is not None
            if not layer.is_initialized:
                layer.lazy_initialization(*layer.fresh)
            end = self.prefix + layer.fresh[0].shape[2]
            for stored, fresh in zip((layer.keys, layer.values), layer.fresh, strict=True):
                stored[slots, :, self.prefix : end] = fresh[source]

    def move(self, to: Tensor, of: Tensor, width: int) -> None:
        """Copy the first `width` tokens of the slots `of` into the slots `to`."""
        for layer in self.parts:
            layer.keys[to, :, :width] = layer.keys[of, :, :width]
            layer.values[to, :, :width] = layer.values[of, :, :width]


class _SlotLayer(CacheLayerMixin):
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
        for stored, first in zip((self.keys, self.values), self.prefix or (), strict=False):
            stored[:, :, : self.at.prefix] = first
        if self.at.fixed:
            torch._dynamo.mark_static_address(self.keys)
            torch._dynamo.mark_static_address(self.values)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.at.prefix if self.at.lengths is None else self.at.width - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self.at.capacity


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention of one new token a row, by torch: query [n, heads, 1, d], key and value [n, key heads, tokens, d].

    Keys are read once for all query heads that share them. transformers copies them for each query head, which takes
    longer than all else of a step.
    """
    n, heads, tokens, width = query.shape
    if tokens > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    query = query.reshape(n, key.shape[1], heads // key.shape[1], width)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling"))
    return out.reshape(n, 1, heads, -1), None


AttentionInterface.register("grouped", grouped_attention)
AttentionMaskInterface.register("grouped", sdpa_mask)


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """Let `model` attend by `grouped_attention`."""
    before = model.config._attn_implementation
    model.set_attn_implementation("grouped")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# ---- one more token of every row, in Llama's family ----
#
# Writing takes such a step for each token. With a small model, or few rows, transformers' forward pass is mostly what
# surrounds the products: masks, rotary tables, wrappers (docs/measurements.md). Here is the same arithmetic alone.

FAMILY = ("llama", "qwen2", "qwen3")
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # tables that do not depend on the length
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
PROJECTIONS = (*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def fits(model: Any) -> bool:
    """Whether `OneToken` computes what `model` does now: known layers, plain products, full attention, no autocast."""
    config, decoder = model.config, model.get_decoder()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config.model_type not in FAMILY or kinds != {"full_attention"}:
        return False
    if config.hidden_act != "silu" or decoder.rotary_emb.rope_type not in FIXED_ROPE:
        return False
    if torch.is_autocast_enabled(model.device.type):
        return False
    plain = all(type(_bare(layer.get_submodule(name))) is nn.Linear for layer in decoder.layers for name in PROJECTIONS)
    plain = plain and type(_bare(decoder.embed_tokens)) is nn.Embedding
    return plain and not any(map(_hooked, decoder.modules()))


def _hooked(module: Any) -> bool:
    """Apart from transformers' own hooks: those stay once hidden states were asked for, and then do nothing."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(getattr(hook, "__module__", None) != "transformers.utils.output_capturing" for hook in hooks)


def _bare(module: Any) -> Any:
    """What a module computes with now: the wrapped module, if peft has wrapped it and all adapters are off."""
    if getattr(module, "disable_adapters", False) and not getattr(module, "merged", False):
        return module.base_layer
    return module


Part = Callable[[Tensor], Tensor]


class _Block(NamedTuple):
    """The parts of a layer. A module's own call takes as long as a small product, so torch's functions are called."""

    head_dim: int
    scale: float
    query: Part
    key: Part
    value: Part
    out: Part
    gate: Part
    up: Part
    down: Part
    before_attention: Part
    before_mlp: Part
    of_query: Part | None
    of_key: Part | None


class OneToken:
    """The forward pass of one token a row, for a model that `fits`; its weights must stay where they are."""

    def __init__(self, model: Any, cache: Slots, layer: int) -> None:
        decoder = model.get_decoder()
        self.cache, self.layer, self.embedding = cache, layer, decoder.embed_tokens.weight
        self.blocks, self.norm = [_block(layer) for layer in decoder.layers], _norm(decoder.norm)
        self.positions = torch.arange(cache.capacity, device=self.embedding.device)
        cos, sin = (table[0, :, None] for table in decoder.rotary_emb(self.embedding, self.positions[None]))
        self.half = sin.shape[-1] // 2
        # Rotation is x cos + (-x2, x1) sin; the sign goes into the table, so that halves only change places.
        self.cos, self.sin = cos, torch.cat((-sin[..., : self.half], sin[..., self.half :]), -1)

    def __call__(self, tokens: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """As `Reader.feed`."""
        seen = (self.positions[:width] <= lengths[:, None])[:, None, None]
        turn = self.cos[lengths], self.sin[lengths]
        hidden = pooled = F.embedding(tokens, self.embedding)
        for number, (block, part) in enumerate(zip(self.blocks, self.cache.parts, strict=True)):
            pooled = hidden if number <= self.layer else pooled
            hidden = hidden + self._attend(block, part, block.before_attention(hidden), turn, seen)
            x = block.before_mlp(hidden)
            hidden = hidden + block.down(F.silu(block.gate(x)).mul_(block.up(x)))
        last = self.norm(hidden)
        return pooled if self.layer < len(self.blocks) else last, last

    def _attend(self, at: _Block, part: _SlotLayer, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        rows = len(x)
        query, key, value = (made(x).view(rows, -1, at.head_dim) for made in (at.query, at.key, at.value))
        if at.of_query is not None and at.of_key is not None:
            query, key = at.of_query(query), at.of_key(key)
        groups = key.shape[1]
        both = torch.cat((query, key), 1)
        both = (both * turn[0]).addcmul_(both.roll(self.half, -1), turn[1])
        keys, values = part.update(both[:, -groups:, None], value[:, :, None])
        # Query heads that share keys go together, so that these are read once.
        query = both[:, :-groups].reshape(rows, groups, -1, at.head_dim)
        return at.out(
            F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=at.scale).reshape(rows, -1)
        )


def _block(layer: Any) -> _Block:
    attention = layer.self_attn
    linear = [_bare(layer.get_submodule(name)) for name in PROJECTIONS]
    products = [partial(F.linear, weight=module.weight, bias=module.bias) for module in linear]
    norms = [_norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)]
    heads = [_norm(getattr(attention, name)) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")]
    return _Block._make([attention.head_dim, attention.scaling, *products, *norms, *heads])


def _norm(module: Any) -> Part:
    weight = module.weight
    return partial(F.rms_norm, normalized_shape=weight.shape, weight=weight, eps=module.variance_epsilon)
