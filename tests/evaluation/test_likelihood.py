"""Log-likelihoods against lm-eval's own, and against a loop in float64 over one token at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM

from grace.evaluation import likelihood
from grace.evaluation.likelihood import SharedContexts

CONTEXTS = 6


def requests(seed: int = 0, longest: int = 30) -> list[tuple[None, list[int], list[int]]]:
    """Continuations of 1 to 9 tokens, several of each context, mixed up."""
    rng = np.random.default_rng(seed)
    contexts = [rng.integers(3, 300, size=size).tolist() for size in rng.integers(1, longest, size=CONTEXTS)]
    made = [(None, context, rng.integers(3, 300, size=n).tolist()) for context in contexts for n in (1, 9, 4, 1)]
    return [made[i] for i in rng.permutation(len(made))]


@pytest.fixture
def both(tiny):
    model, tokenizer = tiny
    return [kind(pretrained=model, tokenizer=tokenizer, batch_size=4) for kind in (SharedContexts, HFLM)]


def answers(lm, asked):
    found = lm._loglikelihood_tokens(asked, disable_tqdm=True)
    return np.array([one for one, _ in found]), [same for _, same in found]


def greedy(model, context, count):
    for _ in range(count):
        context = [*context, int(model(input_ids=torch.tensor([context])).logits[0, -1].argmax())]
    return context[-count:]


def test_likelihoods_are_those_of_lm_eval(both):
    ours, theirs = both
    asked = requests()
    asked[3] = (None, asked[3][1], greedy(ours.model, asked[3][1], 4))
    found, same = answers(ours, asked)
    expected, expected_same = answers(theirs, asked)
    assert np.allclose(found, expected, atol=1e-4)
    assert same == expected_same
    assert same[3]
    assert np.ptp(found) > 10


def test_likelihoods_are_those_of_one_token_after_the_other(both):
    ours, _ = both
    model = ours.model
    asked = requests(1)
    found, _ = answers(ours, asked)
    model.double()
    for value, (_, context, continuation) in zip(found, asked, strict=True):
        total, read = 0.0, list(context)
        for token in continuation:
            total += float(model(input_ids=torch.tensor([read])).logits[0, -1].log_softmax(-1)[token])
            read.append(token)
        assert value == pytest.approx(total, abs=1e-4)


def test_a_context_too_long_for_the_model_loses_its_beginning(both):
    ours, theirs = both
    for lm in both:
        lm._max_length = 12
    asked = requests(2)
    assert max(len(context) + len(more) for _, context, more in asked) > 13
    assert np.allclose(answers(ours, asked)[0], answers(theirs, asked)[0], atol=1e-4)


def test_a_whole_text_has_the_likelihood_that_lm_eval_gives_it(both, texts):
    ours, theirs = both
    asked = [SimpleNamespace(args=(text,)) for text in texts]
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked, disable_tqdm=True) == pytest.approx(expected, abs=1e-3)


def test_a_context_is_read_once_for_all_its_continuations(both, monkeypatch):
    ours, _ = both
    read = []
    tensors = likelihood._tensors
    monkeypatch.setattr(likelihood, "_tensors", lambda rows: read.extend(rows) or tensors(rows))
    context = list(range(3, 33))
    answers(ours, [(None, context, [40 + i, 5, 6]) for i in range(10)])
    assert [(row.context, len(row.continuations)) for row in read] == [(context, 10)]
    read.clear()
    answers(ours, [(None, [1], list(range(3, 40))) for _ in range(3)])  # texts without a context to share
    assert [len(row.continuations) for row in read] == [1, 1, 1]


@pytest.mark.parametrize(
    "setting", [{"sliding_window": 4}, {"final_logit_softcapping": 30.0}, {"_attn_implementation": "eager"}]
)
def test_models_that_attend_in_another_way_are_left_to_lm_eval(both, setting, monkeypatch):
    ours, _ = both
    for name, value in setting.items():
        setattr(ours.model.config, name, value)
    monkeypatch.setattr(HFLM, "_loglikelihood_tokens", lambda *_: "lm-eval's")
    assert ours._loglikelihood_tokens(requests()) == "lm-eval's"
