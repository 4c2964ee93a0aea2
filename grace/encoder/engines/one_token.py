"""One more token of every row through a decoder of Llama's family, with little done around its products.

Writing takes such a step for each token, and of a small model, or of few rows, transformers' forward pass is mostly
what surrounds the products: masks, rotary tables, wrappers (docs/measurements.md). Here is the same arithmetic alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grace.encoder.engines.slots import Slots

FAMILY = ("llama", "qwen2", "qwen3")
CAPTURING = "transformers.utils.output_capturing"
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # tables that do not depend on the length
PROJECTIONS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


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
    return any(getattr(hook, "__module__", None) != CAPTURING for hook in hooks)


def _bare(module: Any) -> Any:
    """What a module computes with now: of one that peft has wrapped, while all adapters are off, what it wraps."""
    if getattr(module, "disable_adapters", False) and not getattr(module, "merged", False):
        return module.base_layer
    return module


class _Linear(NamedTuple):
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _Norm(NamedTuple):
    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class _Layer(NamedTuple):
    """The parts of a layer. A module's own call takes as long as a small product, so weights are called instead."""

    head_dim: int
    scale: float
    query: _Linear
    key: _Linear
    value: _Linear
    out: _Linear
    gate: _Linear
    up: _Linear
    down: _Linear
    before_attention: _Norm
    before_mlp: _Norm
    of_query: _Norm | None
    of_key: _Norm | None


class OneToken:
    """The forward pass of one token a row.

    Args:
        model: that `fits`; its weights must stay where they are. cache: of its keys and values.
        layer: number of blocks after which the states to pool come.
    """

    def __init__(self, model: Any, cache: Slots, layer: int) -> None:
        decoder = model.get_decoder()
        self.cache, self.layer, self.embedding = cache, layer, decoder.embed_tokens.weight
        self.layers, self.norm = [_parts(layer) for layer in decoder.layers], _norm(decoder.norm)
        self.positions = torch.arange(cache.capacity, device=self.embedding.device)
        cos, sin = (table[0, :, None] for table in decoder.rotary_emb(self.embedding, self.positions[None]))
        self.half = sin.shape[-1] // 2
        # Rotation is x cos + (-x2, x1) sin; the sign goes into the table, so that halves only change places.
        self.cos, self.sin = cos, torch.cat((-sin[..., : self.half], sin[..., self.half :]), -1)

    def __call__(self, tokens: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Hidden states to pool and those of the last layer, each [n, d].

        Args:
            tokens: [n]. lengths: [n] tokens that the slots hold. width: the longest, the new token included.
        """
        seen = (self.positions[:width] <= lengths[:, None])[:, None, None]
        turn = self.cos[lengths], self.sin[lengths]
        hidden = pooled = F.embedding(tokens, self.embedding)
        for number, (layer, part) in enumerate(zip(self.layers, self.cache.parts, strict=True)):
            pooled = hidden if number <= self.layer else pooled
            hidden = hidden + self._attend(layer, part, layer.before_attention(hidden), turn, seen)
            x = layer.before_mlp(hidden)
            hidden = hidden + layer.down(F.silu(layer.gate(x)).mul_(layer.up(x)))
        last = self.norm(hidden)
        return pooled if self.layer < len(self.layers) else last, last

    def _attend(self, at: _Layer, part: Any, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
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


def _parts(layer: Any) -> _Layer:
    attention = layer.self_attn
    linear = [_Linear(module.weight, module.bias) for module in map(_bare, map(layer.get_submodule, PROJECTIONS))]
    norms = [_norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)]
    heads = [_norm(getattr(attention, name)) if hasattr(attention, name) else None for name in ("q_norm", "k_norm")]
    return _Layer._make([attention.head_dim, attention.scaling, *linear, *norms, *heads])


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight, module.variance_epsilon)
