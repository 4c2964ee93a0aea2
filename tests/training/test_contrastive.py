"""Contrastive training: the same embeddings as at evaluation, losses by hand, with and without a gradient cache."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from grace import RationaleEncoder
from grace.encoder.loading import load_model
from grace.method.prompt import PromptTemplate
from grace.section import UserError
from grace.specs import EncodeSpec
from grace.training.building import load
from grace.training.contrastive import contrastive_trainer
from grace.training.losses import info_nce
from grace.training.student import PooledText
from tests.training.settings import POOLING, PROMPT, Written, contrastive_spec, rows

WRITTEN = Written(24)


def student(folder, prompt="chat", loss="direct", pooling=POOLING):
    model, tokenizer = load_model(folder, "cpu")
    template = PromptTemplate.from_tokenizer(tokenizer, PROMPT.instruction, PROMPT.max_prompt_tokens)
    module = PooledText(model, template, pooling, prompt, loss, WRITTEN)
    return SentenceTransformer(modules=[module], device="cpu")


def encoder(folder, prompt="chat", pooling=POOLING):
    spec = EncodeSpec(
        prompt=PROMPT, pooling=pooling, rationales=False, direct_prompt=prompt, max_new_tokens=24,
        sampling_temperature=1.0, batch_size=4, seed=0,
    )  # fmt: skip
    return RationaleEncoder.from_spec(folder, spec, "cpu")


def evaluated(folder, texts, loss, prompt="chat", pooling=POOLING):
    """What `RationaleEncoder` gives, with these rationales."""
    one = encoder(folder, prompt, pooling)
    if loss == "direct":
        return one.encode(texts).embeddings
    found = np.zeros((len(texts), one.width))
    for at, made in one.encode_written(texts, [[*ids, one.ends[0]] for ids in WRITTEN.bare(texts)]):
        found[at] = made.embeddings
    return found


@pytest.mark.parametrize("layer", ["last", "penultimate"])
@pytest.mark.parametrize(
    ("loss", "prompt"), [("direct", "chat"), ("direct", "plain"), ("rationale", "chat"), ("half", "chat")]
)
def test_a_trained_embedding_is_the_evaluated_one(tiny_folder, texts, loss, prompt, layer):
    pooling = POOLING.model_copy(update={"layer": layer})
    one = student(tiny_folder, prompt, loss, pooling).eval()
    mine = one(one.preprocess(texts))["sentence_embedding"].detach()
    parts = dict(zip(("direct", "rationale"), mine.chunk(2, 1), strict=True)) if loss == "half" else {loss: mine}
    for name, part in parts.items():
        theirs = evaluated(tiny_folder, texts, name, prompt, pooling)
        np.testing.assert_allclose(torch.nn.functional.normalize(part, dim=1), theirs, atol=1e-5)


def test_a_prefix_is_read_once_or_in_every_row_alike(tiny_folder, texts):
    """The same vectors and gradients, whether or not the common prefix is shared, which dropout forbids."""
    found = []
    for dropout in (0.0, 1e-9):
        one = student(tiny_folder, loss="half").train()
        one[0].model.config.attention_dropout = dropout
        one(one.preprocess(texts))["sentence_embedding"].pow(2).sum().backward()
        found.append({name: p.grad for name, p in one.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=2e-4, rtol=1e-3)


def by_hand(columns, scale=20.0):
    """Mean InfoNCE of (query, positive, negatives) in a loop over queries, float64."""
    query, *documents = (torch.nn.functional.normalize(c.double(), dim=1) for c in columns)
    every = torch.cat(documents)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(query)):
        scores = torch.stack([scale * (query[i] * every[j]).sum() for j in range(len(every))])
        total = total - scores[i] + scores.exp().sum().log()
    return total / len(query)


@pytest.mark.parametrize("loss", ["direct", "rationale", "half"])
def test_the_loss_and_its_gradient_by_hand_and_cached(tiny_folder, loss):
    data = rows(8)
    columns = [[r["query"] for r in data], [r["positive"] for r in data], [r["negatives"][0] for r in data]]
    results = []
    for size in (0, None, 3):
        one = student(tiny_folder, loss=loss).train()
        batch = [one.preprocess(c) for c in columns]
        if size == 0:
            made = [one(c)["sentence_embedding"] for c in batch]
            halves = zip(*(part.chunk(2, 1) for part in made), strict=True) if loss == "half" else [made]
            value = torch.stack([by_hand(list(half)) for half in halves]).mean()
        else:
            value = info_nce(one, half=loss == "half", mini_batch_size=size, scale=20.0, gather=False)(batch, None)
        value.backward()
        results.append((value.item(), {name: p.grad for name, p in one.named_parameters() if p.grad is not None}))
    expected, gradients = results[0]
    for value, found in results[1:]:
        assert value == pytest.approx(expected, abs=1e-4) and found.keys() == gradients.keys()
        for name in found:
            torch.testing.assert_close(found[name], gradients[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", ["cl", "simcse", "adapter", "kl_fence"])
def test_training_lowers_the_loss(tiny_folder, tmp_path, method):
    spec = contrastive_spec(method, max_steps=12)
    model, tokenizer = load(tiny_folder, spec)
    trainer = contrastive_trainer(model, tokenizer, spec, rows(32, spec.data), str(tmp_path), WRITTEN)
    trainer.args.logging_steps = trainer.state.logging_steps = 1
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


@pytest.mark.parametrize("cached", [False, True])
def test_tokens_trained_on_are_counted_without_padding(tiny_folder, tmp_path, cached):
    spec = contrastive_spec("kl_fence", loss="half", max_steps=4, mini_batch_size=2 if cached else 8)
    model, tokenizer = load(tiny_folder, spec)
    data = rows(32)
    trainer = contrastive_trainer(model, tokenizer, spec, data, str(tmp_path), WRITTEN)
    trainer.train()
    template = trainer.model[0].template
    texts = [text for row in data for text in (row["query"], row["positive"], *row["negatives"])]
    prompts, wrote = template.ids(texts), WRITTEN(texts)
    batches = sum(len(p) + len(r) - 1 for p, r in zip(prompts, wrote, strict=True))
    assert batches < trainer.state.num_input_tokens_seen
    fenced = trainer.state.num_input_tokens_seen - batches  # 4 steps of 4 rows: with a rationale, and as plain text
    longest = max(len(p) + len(r) - 1 for p, r in zip(prompts, wrote, strict=True))
    assert 16 * (len(template.prefix) + len(template.suffix)) < fenced < 16 * 2 * longest


def test_simcse_without_dropout_is_refused(tiny_folder, tmp_path):
    spec = contrastive_spec("simcse", dropout=0.0)
    with pytest.raises(UserError, match=r"simcse\.dropout"):
        contrastive_trainer(*load(tiny_folder, spec), spec, rows(32, "unsupervised"), str(tmp_path))


def test_fewer_rows_than_a_batch(tiny_folder, tmp_path):
    with pytest.raises(UserError, match=r"cl\.batch_size"):
        contrastive_trainer(*load(tiny_folder, contrastive_spec("cl")), contrastive_spec("cl"), rows(4), str(tmp_path))


def test_half_and_half_needs_one_prompt(tiny_folder, tmp_path):
    spec = contrastive_spec("adapter", loss="half").model_copy(update={"direct_prompt": "plain"})
    with pytest.raises(UserError, match=r"adapter\.loss: half needs evaluation\.direct_prompt: chat"):
        contrastive_trainer(*load(tiny_folder, spec), spec, rows(16), str(tmp_path), WRITTEN)
