"""The timed ways from a text to its embedding are those that the project uses elsewhere."""

import numpy as np
import pytest
import torch

from grace import RationaleEncoder
from grace.encoder.encoder_only import EncoderOnly
from grace.evaluation.systems import systems
from grace.exhibits import Latency

LATENCY = Latency(run="grace", budgets=[4, 24], texts=2, repeats=1, corpus=20, top=3)


@pytest.fixture(scope="module")
def models(tiny_folder):
    """A backbone and another model."""
    backbone, trained = (RationaleEncoder.from_pretrained(tiny_folder, max_new_tokens=8) for _ in range(2))
    with torch.no_grad():
        trained.model.model.layers[0].mlp.down_proj.weight.mul_(-1)
    return backbone, trained


def test_every_system_embeds_as_the_encoder_does(models, texts, tiny_folder):
    direct, *reasoning = systems(LATENCY, *models)
    assert [(one.name, one.budget, one.width) for one in reasoning] == [
        ("reasoning", 4, 32), ("reasoning", 24, 32), ("grace", 4, 32), ("grace", 24, 32),
    ]  # fmt: skip
    text = texts[1]
    vector, tokens = direct.embed(text)
    assert (direct.name, direct.budget, direct.head, tokens) == ("direct", None, None, 0)
    np.testing.assert_array_equal(vector, models[0].encode([text], rationales=False).embeddings[0])
    counts = set()
    for one in reasoning:
        fresh = RationaleEncoder.from_pretrained(tiny_folder, max_new_tokens=one.budget)
        model = models[one.name == "grace"]
        fresh.model.load_state_dict(model.model.state_dict())
        for text in texts:
            expected = fresh.encode([text])
            vector, tokens = one.embed(text)
            np.testing.assert_array_equal(vector, expected.embeddings[0])
            assert tokens == len(expected.rationales[0].token_ids) and one.head is model.model.lm_head
            counts.add(tokens)
    assert 4 in counts and max(counts) > 8  # neither budget is the models' own


def test_the_encoder_only_model_comes_first_and_embeds_as_it_is(models, texts, encoder_folder):
    encoder = EncoderOnly(encoder_folder, "cpu")
    first, second, *_ = systems(LATENCY, *models, encoder)
    assert (first.name, first.budget, first.width, first.head, second.name) == ("encoder", None, 32, None, "direct")
    vector, tokens = first.embed(texts[1])
    np.testing.assert_array_equal(vector, encoder.encode([texts[1]])[0])
    assert tokens == 0
