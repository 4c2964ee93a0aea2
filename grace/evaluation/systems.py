"""What the rule `latency` times: ways from a text to its embedding.

The encoder-only model has a BERT's shape and random weights, which do not change its time; its embeddings mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from grace.encoder.encoder import RationaleEncoder
from grace.exhibits import EncoderShape, Latency


@dataclass
class System:
    """A way from a text to its embedding."""

    name: str
    budget: int | None  # tokens of a rationale
    width: int  # d
    embed: Callable[[str], tuple[np.ndarray, int]]  # text -> embedding [d], tokens of its rationale
    head: torch.nn.Module | None = None  # asked for each token of a rationale


def systems(latency: Latency, backbone: RationaleEncoder, model: RationaleEncoder, seed: int) -> list[System]:
    """Everything that is timed: encoder only, direct, and both models with a rationale at each budget."""

    def direct(text: str) -> tuple[np.ndarray, int]:
        return backbone.encode([text], rationales=False).embeddings[0], 0

    bert = encoder_only(latency.encoder, backbone, seed)
    found = [System("encoder", None, latency.encoder.width, bert), System("direct", None, backbone.width, direct)]
    for name, encoder in (("reasoning", backbone), (latency.run, model)):
        found += [reasoning(name, encoder, budget) for budget in latency.budgets]
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


def encoder_only(shape: EncoderShape, like: RationaleEncoder, seed: int) -> Callable[[str], tuple[np.ndarray, int]]:
    """A BERT with random weights on the device and in the precision of `like`, pooled by the mean.

    It reads the ids of `like`'s tokenizer modulo its vocabulary, cut to its 512 positions and to `like`'s room.
    """
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
    )
    bert = BertModel(config, add_pooling_layer=False).to(like.model.device, like.model.dtype).eval()
    template, room = like.template, min(like.template.text_room, config.max_position_embeddings)

    @torch.no_grad()
    def embed(text: str) -> tuple[np.ndarray, int]:
        ids = [one % shape.vocab_size for one in template.text_ids([text], room)[0]] or [0]
        hidden = bert(input_ids=torch.tensor([ids], device=bert.device)).last_hidden_state
        return hidden[0].float().mean(0).cpu().numpy(), 0

    return embed
