"""What a decoder LLM costs: its parameters, and seconds and memory of one GPU, from its shape alone.

A token's forward pass is two operations per parameter that it is multiplied with, plus the attention to the
tokens before it; a backward pass is twice a forward pass. Decoding is limited by the memory's bandwidth or by
the arithmetic, whichever takes longer; on top of it each step waits for the host that starts its kernels.
Communication, the optimizer's own step, tokenising and idle time are in `compute_share` and `decode_share`, or nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from grace.config import Backbone, Hardware
from grace.settings import Lora

WEIGHT = 2  # bytes of a parameter or of a hidden value in bfloat16
STATE = 16  # bytes of a trained parameter: weight, gradient and Adam's two moments in float32
SAVED = 4  # bytes of a parameter in the float32 model folder


@dataclass(frozen=True)
class Work:
    """Seconds of one GPU, tokens of the prompts, tokens written."""

    seconds: float = 0.0
    read: float = 0.0
    written: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.seconds + other.seconds, self.read + other.read, self.written + other.written)

    def __mul__(self, times: float) -> Work:
        return Work(self.seconds * times, self.read * times, self.written * times)


# ---- size -------------------------------------------------------------------------------


def matrices(b: Backbone) -> dict[str, tuple[int, int]]:
    """The weight matrices of a layer, (inputs, outputs), by their names in transformers."""
    attention, shared = b.heads * head_width(b), b.kv_heads * head_width(b)
    return {
        "q_proj": (b.width, attention),
        "k_proj": (b.width, shared),
        "v_proj": (b.width, shared),
        "o_proj": (attention, b.width),
        "gate_proj": (b.width, b.feed_forward),
        "up_proj": (b.width, b.feed_forward),
        "down_proj": (b.feed_forward, b.width),
    }


def head_width(b: Backbone) -> int:
    return b.head_width or b.width // b.heads


def head_parameters(b: Backbone) -> int:
    """Of the matrix that is both the token embeddings and the language-model head; it is taken as tied."""
    return b.vocab_size * b.width


@cache
def layer_parameters(b: Backbone) -> int:
    """Of all layers and norms: everything but the embeddings."""
    layer = sum(inputs * outputs for inputs, outputs in matrices(b).values()) + 2 * b.width
    if b.architecture == "qwen2":  # biases of q, k and v
        layer += (b.heads + 2 * b.kv_heads) * head_width(b)
    if b.architecture == "qwen3":  # norms of q and k
        layer += 2 * head_width(b)
    return b.layers * layer + b.width


def parameters(b: Backbone) -> int:
    return layer_parameters(b) + head_parameters(b)


def adapter_parameters(b: Backbone, lora: Lora) -> int:
    """Of the low-rank adapters: rank x (inputs + outputs) for each matrix that has one, the token table among them."""
    every = lora.targets == "all-linear"
    chosen = [shape for name, shape in matrices(b).items() if every or name in lora.targets]
    table = lora.rank * (b.vocab_size + b.width) if lora.embeddings else 0
    return b.layers * lora.rank * sum(inputs + outputs for inputs, outputs in chosen) + table


def cache_bytes(b: Backbone) -> int:
    """Of one token's keys and values in all layers."""
    return 2 * b.layers * b.kv_heads * head_width(b) * WEIGHT


# ---- time -------------------------------------------------------------------------------


def forward_flops(b: Backbone, texts: float, length: float, headed: float = 0.0) -> float:
    """Operations of a forward pass over `texts` sequences of `length` tokens.

    Args:
        headed: tokens, over all texts, whose next-token scores are computed.
    """
    attention = 2 * b.layers * b.heads * head_width(b) * length**2  # causal: half of all pairs, twice two a pair
    return texts * (2 * layer_parameters(b) * length + attention) + 2 * head_parameters(b) * headed


def compute_seconds(h: Hardware, flops: float) -> float:
    return flops / (h.tflops * 1e12 * h.compute_share)


def slots(b: Backbone, h: Hardware, memory: float, length: float) -> int:
    """Texts of `length` tokens that decode together in `memory` bytes beside the weights, at most decode_batch."""
    room = (memory - WEIGHT * parameters(b)) // (cache_bytes(b) * length)
    return max(1, min(h.decode_batch, int(room)))


def decode_seconds(b: Backbone, h: Hardware, prompt: float, written: float, texts: float, steps: float) -> float:
    """Seconds of one GPU to write `written` tokens behind each of `texts` prompts of `prompt` tokens.

    A step reads all weights once and the cache of every text that it advances: half its rationale on average.

    Args:
        steps: decoding steps, each of which adds a token to every text of the batch.
    """
    context = prompt + written / 2
    read = steps * WEIGHT * parameters(b) + texts * written * context * cache_bytes(b)
    flops = texts * written * (2 * parameters(b) + 4 * b.layers * b.heads * head_width(b) * context)
    return max(read / (h.bandwidth_tb * 1e12 * h.decode_share), compute_seconds(h, flops))


def overhead_seconds(h: Hardware, vllm: bool, steps: float) -> float:
    """Seconds in which a GPU waits for the host during `steps` decoding steps of an engine.

    A step of a small model is hundreds of kernels of microseconds, which Python starts one by one, and each step ends
    with a look at what was sampled. Where a kernel runs on while the next is started, less is lost than this.
    """
    return steps * (h.vllm_step_overhead_ms if vllm else h.step_overhead_ms) / 1000


# ---- memory -----------------------------------------------------------------------------


def state_bytes(b: Backbone, lora: Lora | None, shards: int) -> float:
    """Of weights, gradients and optimizer on one of `shards` GPUs that share them."""
    if lora is None:
        return STATE * parameters(b) / shards
    return (SAVED * parameters(b) + STATE * adapter_parameters(b, lora)) / shards


def activation_bytes(b: Backbone, tokens: float, checkpointing: bool) -> float:
    """Of a forward and backward pass over `tokens` tokens; next-token scores are made in chunks and not counted."""
    layer = tokens * WEIGHT * (8 * b.width + 4 * b.feed_forward)
    if checkpointing:  # every layer's input, and one layer's values with their gradients
        return tokens * WEIGHT * b.layers * b.width + 2 * layer
    return b.layers * layer


def checkpoint_bytes(b: Backbone, lora: Lora | None) -> float:
    """Of one checkpoint: the trained weights and Adam's two moments, all in float32."""
    return 3 * SAVED * (parameters(b) if lora is None else adapter_parameters(b, lora))
