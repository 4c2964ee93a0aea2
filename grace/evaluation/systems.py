"""What the rule `latency` times: ways from a text to its embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from grace.encoder.encoder import RationaleEncoder
from grace.encoder.encoder_only import EncoderOnly
from grace.exhibits import Latency


@dataclass
class System:
    """A way from a text to its embedding."""

    name: str
    budget: int | None  # tokens of a rationale
    width: int  # d
    embed: Callable[[str], tuple[np.ndarray, int]]  # text -> embedding [d], tokens of its rationale
    head: torch.nn.Module | None = None  # asked for each token of a rationale


def systems(
    latency: Latency, backbone: RationaleEncoder, model: RationaleEncoder, encoder: EncoderOnly | None = None
) -> list[System]:
    """Everything that is timed: encoder only, if there is one, direct, and both models with a rationale at each
    budget."""

    def direct(text: str) -> tuple[np.ndarray, int]:
        return backbone.encode([text], rationales=False).embeddings[0], 0

    found = [System("direct", None, backbone.width, direct)]
    if encoder:
        found.insert(0, System("encoder", None, encoder.width, lambda text: (encoder.encode([text])[0], 0)))
    for name, decoder in (("reasoning", backbone), (latency.run, model)):
        found += [reasoning(name, decoder, budget) for budget in latency.budgets]
    return found


def reasoning(name: str, encoder: RationaleEncoder, budget: int) -> System:
    """The encoder's model with rationales of at most `budget` tokens."""
    spec = encoder.spec.model_copy(update={"max_new_tokens": budget})
    limited = RationaleEncoder(encoder.model, encoder.tokenizer, spec)

    def embed(text: str) -> tuple[np.ndarray, int]:
        made = limited.encode([text], rationales=True)
        assert made.rationales is not None
        return made.embeddings[0], len(made.rationales[0].token_ids)

    return System(name, budget, encoder.width, embed, encoder.model.get_output_embeddings())
