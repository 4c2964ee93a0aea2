"""cl and simcse on sentence-transformers: the same embedding as at evaluation, losses by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)

from grace import RationaleEncoder
from grace.encoder.loading import load_model
from grace.method.prompt import PromptTemplate
from grace.section import UserError
from grace.specs import EncodeSpec
from grace.training.baselines import DirectEmbedding, contrastive_trainer
from grace.training.train import load
from tests.training.settings import POOLING, PROMPT, contrastive_spec, rows


def student(folder, prompt="chat"):
    model, tokenizer = load_model(folder, "cpu")
    template = PromptTemplate.from_tokenizer(tokenizer, PROMPT.instruction, PROMPT.max_prompt_tokens)
    return SentenceTransformer(modules=[DirectEmbedding(model, template, POOLING, prompt)], device="cpu")


@pytest.mark.parametrize("prompt", ["chat", "plain"])
def test_trained_embedding_is_the_evaluated_one(tiny_folder, texts, prompt):
    spec = EncodeSpec(
        prompt=PROMPT, pooling=POOLING, rationales=False, direct_prompt=prompt, max_new_tokens=4,
        sampling_temperature=0.0, batch_size=4, seed=0,
    )  # fmt: skip
    theirs = RationaleEncoder.from_spec(tiny_folder, spec, "cpu").encode(texts).embeddings
    mine = student(tiny_folder, prompt).eval().encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_loss_by_hand_and_cached(tiny_folder):
    data = rows(8)
    one = student(tiny_folder).eval()
    columns = [[r["query"] for r in data], [r["positive"] for r in data], [r["negatives"][0] for r in data]]
    query, *documents = (torch.tensor(one.encode(c, normalize_embeddings=True)) for c in columns)
    scores = 20.0 * query @ torch.cat(documents).T
    expected = F.cross_entropy(scores, torch.arange(8))
    for loss in (
        MultipleNegativesRankingLoss(one, scale=20.0),
        CachedMultipleNegativesRankingLoss(one, scale=20.0, mini_batch_size=3),
    ):
        got = loss([one.preprocess(c) for c in columns], None)
        assert got.item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("method", ["cl", "simcse"])
def test_training_lowers_the_loss(tiny_folder, tmp_path, method):
    spec = contrastive_spec(method, max_steps=12)
    model, tokenizer = load(tiny_folder, spec)
    data = rows(32, spec.data)
    trainer = contrastive_trainer(model, tokenizer, spec, data, str(tmp_path))
    trainer.args.logging_steps = trainer.state.logging_steps = 1
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_simcse_without_dropout_is_refused(tiny_folder, tmp_path):
    spec = contrastive_spec("simcse", dropout=0.0)
    with pytest.raises(UserError, match=r"simcse\.dropout"):
        contrastive_trainer(*load(tiny_folder, spec), spec, rows(32, "unsupervised"), str(tmp_path))


def test_fewer_rows_than_a_batch(tiny_folder, tmp_path):
    with pytest.raises(UserError, match=r"cl\.batch_size"):
        contrastive_trainer(*load(tiny_folder, contrastive_spec("cl")), contrastive_spec("cl"), rows(4), str(tmp_path))
