"""What the encoder is measured on: texts, their prompts, and how many tokens are written about each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import common
from grace.encoder.encoder import DEFAULT_POOLING, DEFAULT_PROMPT, SETTINGS_FILE, RationaleEncoder
from grace.files import read_json
from grace.section import build
from grace.settings import Prompt
from grace.specs import EncodeSpec

# What a small model is asked: the demo's backbone was trained with no more.
SHORT_PROMPT = Prompt(instruction="Key words, then a summary.", max_prompt_tokens=72)


class Work(NamedTuple):
    name: str
    encoder: RationaleEncoder
    texts: list[str]
    prompts: list[list[int]]  # of the texts
    lengths: list[int]  # new tokens, unless the model ends before
    vllm: RationaleEncoder | None


def draw_lengths(count: int, mean: float, seed: int) -> list[int]:
    """Log-normal numbers of new tokens (sigma 1), between 2 and eight times the mean."""
    drawn = np.exp(np.random.default_rng(seed).normal(np.log(mean) - 0.5, 1.0, count))
    return np.clip(drawn.round(), 2, 8 * mean).astype(int).tolist()


def prepare(
    name: str, model: Any, tokenizer: Any, prompt: Prompt, count: int, mean: float, batch_size: int, vllm: Any = None
) -> Work:
    """Args: vllm: makes a vLLM engine for a spec and lengths, whose way is measured too."""
    texts, lengths = common.texts(tokenizer, count, 0), draw_lengths(count, mean, 0)
    spec = encode_spec(prompt, max(lengths), batch_size)
    encoder = _Limited(model, tokenizer, spec)
    encoder.lengths = lengths
    other = RationaleEncoder(model, tokenizer, spec, vllm(spec, lengths)) if vllm else None
    return Work(name, encoder, texts, encoder.template.ids(texts), lengths, other)


class _Limited(RationaleEncoder):
    lengths: list[int]  # new tokens of each prompt

    def write(self, prompts: Any, texts: Any, max_new_tokens: Any = None) -> Any:
        return super().write(prompts, texts, self.lengths)


def encode_spec(prompt: Prompt, max_new_tokens: int, batch_size: int) -> EncodeSpec:
    return EncodeSpec(
        prompt=prompt, pooling=DEFAULT_POOLING, rationales=True, direct_prompt="chat", seed=0,
        max_new_tokens=max_new_tokens, sampling_temperature=0.0, batch_size=batch_size,
    )  # fmt: skip


def prompt_of(folder: Path) -> Prompt:
    """What a model of this workflow was trained with, else the default."""
    path = folder / SETTINGS_FILE
    return build(Prompt, read_json(path)["prompt"], SETTINGS_FILE) if path.exists() else DEFAULT_PROMPT
