"""The timed ways from a text to its embedding are those that the project uses elsewhere."""

import numpy as np
import pytest
import torch

from grace import RationaleEncoder
from grace.evaluation.systems import encoder_only, systems
from grace.exhibits import EncoderShape, Latency

SHAPE = EncoderShape(layers=2, width=16, heads=2, feed_forward=32, vocab_size=50)
LATENCY = Latency(run="grace", budgets=[4, 24], encoder=SHAPE, texts=2, repeats=1, corpus=20, top=3)


@pytest.fixture(scope="module")
def models(tiny_folder):
    """A backbone and another model."""
    backbone, trained = (RationaleEncoder.from_pretrained(tiny_folder, max_new_tokens=8) for _ in range(2))
    with torch.no_grad():
        trained.model.model.layers[0].mlp.down_proj.weight.mul_(-1)
    return backbone, trained


def test_every_system_embeds_as_the_encoder_does(models, texts, tiny_folder):
    _, direct, *reasoning = systems(LATENCY, *models, seed=0)
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


def test_the_encoder_only_model_is_a_bert_pooled_by_the_mean(models, texts):
    from transformers import BertConfig, BertModel

    embed = encoder_only(SHAPE, models[0], seed=3)
    vector, tokens = embed(texts[1])
    torch.manual_seed(3)
    bert = BertModel(
        BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    ids = torch.tensor([[one % 50 for one in models[0].tokenizer(texts[1])["input_ids"]]])
    expected = bert(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)[0]
    np.testing.assert_allclose(vector, expected.detach().numpy(), atol=1e-5)
    assert tokens == 0
    assert sum(p.numel() for p in bert.parameters()) == 50 * 16 + 512 * 16 + 2 * 16 + 2 * 16 + 2 * 2224


def test_the_encoder_only_model_cuts_texts_to_its_positions(models):
    embed = encoder_only(SHAPE, models[0], seed=0)
    room = min(512, models[0].template.text_room)
    words = "array " * 3000
    ids = models[0].template.text_ids([words])[0]
    head = models[0].tokenizer.decode(ids[:room])
    assert len(ids) > room and models[0].template.text_ids([head])[0] == ids[:room]
    np.testing.assert_array_equal(embed(words)[0], embed(head)[0])
    assert np.isfinite(embed("")[0]).all()
