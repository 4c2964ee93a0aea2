"""CL and SimCSE: the same embeddings as at evaluation, losses by hand, with and without a gradient cache."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from grace import RationaleEncoder
from grace.config.section import UserError
from grace.config.specs import EncodeSpec
from grace.encoder.loading import load_model
from grace.method.prompt import PromptTemplate
from grace.training.contrastive import PooledText, info_nce
from tests.training.settings import POOLING, PROMPT, contrastive_spec, rows, trainer_of


def template_of(tokenizer):
    return PromptTemplate.from_tokenizer(tokenizer, PROMPT.instruction, PROMPT.max_prompt_tokens)


def direct(folder, prompt="chat", pooling=POOLING):
    model, tokenizer = load_model(folder, "cpu")
    return SentenceTransformer(modules=[PooledText(model, template_of(tokenizer), pooling, prompt)], device="cpu")


def encoder(folder, prompt="chat", pooling=POOLING):
    spec = EncodeSpec(
        prompt=PROMPT, pooling=pooling, rationales=False, direct_prompt=prompt, max_new_tokens=24,
        sampling_temperature=1.0, batch_size=4, seed=0,
    )  # fmt: skip
    return RationaleEncoder.from_spec(folder, spec, "cpu")


@pytest.mark.parametrize("layer", ["last", "penultimate"])
@pytest.mark.parametrize("prompt", ["chat", "plain"])
def test_a_trained_embedding_is_the_evaluated_one(tiny_folder, texts, prompt, layer):
    pooling = POOLING.model_copy(update={"layer": layer})
    one = direct(tiny_folder, prompt, pooling).eval()
    mine = one(one.preprocess(texts))["sentence_embedding"].detach()
    theirs = encoder(tiny_folder, prompt, pooling).encode(texts).embeddings
    np.testing.assert_allclose(torch.nn.functional.normalize(mine, dim=1), theirs, atol=1e-5)


def by_hand(columns, scale=20.0):
    """Mean InfoNCE of (query, positive, negatives) in a loop over queries, float64."""
    query, *documents = (torch.nn.functional.normalize(c.double(), dim=1) for c in columns)
    every = torch.cat(documents)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(query)):
        scores = torch.stack([scale * (query[i] * every[j]).sum() for j in range(len(every))])
        total = total - scores[i] + scores.exp().sum().log()
    return total / len(query)


def check_loss(make, halves=False, **more):
    """The loss of `info_nce`, and its gradient, without and with a cache, against `by_hand`."""
    data = rows(8)
    columns = [[r["query"] for r in data], [r["positive"] for r in data], [r["negatives"][0] for r in data]]
    results = []
    for size in (0, None, 3):
        one = make().train()
        batch = [one.preprocess(c) for c in columns]
        if size == 0:
            made = [one(c)["sentence_embedding"] for c in batch]
            parts = zip(*(part.chunk(2, 1) for part in made), strict=True) if halves else [made]
            value = torch.stack([by_hand(list(part)) for part in parts]).mean()
        else:
            value = info_nce(one, mini_batch_size=size, scale=20.0, gather=False, **more)(batch, None)
        value.backward()
        results.append((value.item(), {name: p.grad for name, p in one.named_parameters() if p.grad is not None}))
    expected, gradients = results[0]
    for value, found in results[1:]:
        assert value == pytest.approx(expected, abs=1e-4) and found.keys() == gradients.keys()
        for name in found:
            torch.testing.assert_close(found[name], gradients[name], atol=1e-4, rtol=1e-3)


def test_the_loss_and_its_gradient_by_hand_and_cached(tiny_folder):
    check_loss(lambda: direct(tiny_folder))


@pytest.mark.parametrize("method", ["cl", "simcse", "adapter", "kl_fence"])
def test_training_lowers_the_loss(tiny_folder, tmp_path, method):
    spec = contrastive_spec(method, max_steps=12)
    trainer = trainer_of(tiny_folder, tmp_path, spec, rows(32, spec.data))
    trainer.args.logging_steps = trainer.state.logging_steps = 1
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize(
    ("spec", "data", "said"),
    [
        (contrastive_spec("simcse", dropout=0.0), rows(32, "unsupervised"), r"simcse\.dropout"),
        (contrastive_spec("cl"), rows(4), r"cl\.batch_size"),
        (contrastive_spec("cl"), [*rows(15), *rows(1, negatives=2)], "between 1 and 2 negatives"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(tiny_folder, tmp_path, spec, data, said):
    with pytest.raises(UserError, match=said):
        trainer_of(tiny_folder, tmp_path, spec, data)
