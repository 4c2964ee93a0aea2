"""adapter: embeddings with a rationale as at evaluation, both kinds in one pass, and their losses."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from grace.beyond.adapter import HALVES, PooledReasoning
from grace.config.section import UserError
from grace.encoder.loading import load_model
from grace.training.contrastive import LOSSES
from tests.training.settings import POOLING, Written, contrastive_spec, rows, trainer_of
from tests.training.test_contrastive import check_loss, encoder, template_of

WRITTEN = Written(24)


def reasoning(folder, both, pooling=POOLING):
    model, tokenizer = load_model(folder, "cpu")
    module = PooledReasoning(model, template_of(tokenizer), pooling, WRITTEN, both)
    return SentenceTransformer(modules=[module], device="cpu")


@pytest.mark.parametrize("layer", ["last", "penultimate"])
@pytest.mark.parametrize("both", [False, True])
def test_a_trained_embedding_is_the_evaluated_one(tiny_folder, texts, both, layer):
    pooling = POOLING.model_copy(update={"layer": layer})
    one, other = reasoning(tiny_folder, both, pooling).eval(), encoder(tiny_folder, pooling=pooling)
    mine = one(one.preprocess(texts))["sentence_embedding"].detach()
    with_rationale = np.zeros((len(texts), other.width))
    for at, made in other.encode_written(texts, [[*ids, other.ends[0]] for ids in WRITTEN.bare(texts)]):
        with_rationale[at] = made.embeddings
    expected = [other.encode(texts).embeddings, with_rationale] if both else [with_rationale]
    for part, theirs in zip(mine.chunk(len(expected), 1), expected, strict=True):
        np.testing.assert_allclose(torch.nn.functional.normalize(part, dim=1), theirs, atol=1e-5)


def test_a_prefix_is_read_once_or_in_every_row_alike(tiny_folder, texts):
    """The same vectors and gradients, whether or not the common prefix is shared, which dropout forbids."""
    found = []
    for dropout in (0.0, 1e-9):
        one = reasoning(tiny_folder, True).train()
        one[0].model.config.attention_dropout = dropout
        one(one.preprocess(texts))["sentence_embedding"].pow(2).sum().backward()
        found.append({name: p.grad for name, p in one.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(("both", "losses"), [(False, LOSSES), (True, HALVES)])
def test_the_loss_and_its_gradient_by_hand_and_cached(tiny_folder, both, losses):
    check_loss(lambda: reasoning(tiny_folder, both), both, losses=losses)


@pytest.mark.parametrize("cached", [False, True])
def test_tokens_trained_on_are_counted_without_padding(tiny_folder, tmp_path, cached):
    """With the KL regulariser, whose tokens count too."""
    spec = contrastive_spec("kl_fence", loss="half", max_steps=4, mini_batch_size=2 if cached else 8)
    data = rows(32)
    trainer = trainer_of(tiny_folder, tmp_path, spec, data, WRITTEN)
    trainer.train()
    template = trainer.model[0].template
    texts = [text for row in data for text in (row["query"], row["positive"], *row["negatives"])]
    lengths = [len(p) + len(r) - 1 for p, r in zip(template.ids(texts), WRITTEN(texts), strict=True)]
    of_kl = trainer.state.num_input_tokens_seen - sum(lengths)  # 4 steps of 4 rows, with a rationale and as plain text
    assert 16 * (len(template.prefix) + len(template.suffix)) < of_kl < 16 * 2 * max(lengths)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"direct_prompt": "plain"}, r"adapter\.loss: half needs evaluation\.direct_prompt: chat"),
        ({"pooling": POOLING.model_copy(update={"tokens": "rationale"})}, r"half takes both embeddings from one pass"),
    ],
)
def test_half_and_half_needs_one_pass(tiny_folder, tmp_path, changes, said):
    spec = contrastive_spec("adapter", loss="half").model_copy(update=changes)
    with pytest.raises(UserError, match=said):
        trainer_of(tiny_folder, tmp_path, spec, rows(16))
