"""Log-likelihoods against lm-eval's own and against a loop in float64 over one token at a time; room for thoughts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
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


# ---- thoughts -------------------------------------------------------------------------------

LONG = "First,\n\nQ. " * 8


@pytest.fixture
def writes(both, monkeypatch):
    """Makes the model write what is given for each prompt, as far as its limit lets it; and the limits it had."""
    lm, limits = both[0], []

    def say(replies):
        def generate(context, max_length, stop, **settings):
            limits.append(max_length - context.shape[1])
            prompts = lm.tokenizer.batch_decode(context, skip_special_tokens=True)
            written = [lm.tok_encode(replies[prompt])[: limits[-1]] for prompt in prompts]
            width, pad = max(map(len, written)), lm.tokenizer.pad_token_id
            padded = torch.tensor([ids + [pad] * (width - len(ids)) for ids in written])
            return torch.cat([context, padded], dim=1)

        monkeypatch.setattr(lm, "_model_generate", generate)
        settings = {"until": [], "max_gen_toks": 8, "do_sample": False}
        return lm.generate_until([Instance("generate_until", {}, (prompt, settings), 0) for prompt in replies])

    lm._max_length = 4096
    return say, limits


def test_a_thought_gets_room_and_its_lines_do_not_end_it(writes):
    say, limits = writes
    said = say({"a": "B", "b": f"<think>{LONG}</think>\n\nC", "c <think>\n": f"{LONG}</think>A"})
    assert said == ["B", f"<think>{LONG}</think>\n\nC", f"<think>{LONG}</think>A"]
    assert limits == [8, 8 + likelihood.THOUGHT]  # asked again for the two that were thinking


def test_a_thought_that_never_ends_is_whole(writes, monkeypatch):
    say, limits = writes
    monkeypatch.setattr(likelihood, "THOUGHT", 5)
    [said] = say({"a": "<think>" + "so it is " * 99})
    assert said.startswith("<think>so it") and "</think>" not in said and limits == [8, 13]


def test_a_thought_gets_no_more_room_than_the_model_has(writes, both):
    say, limits = writes
    both[0]._max_length = 40
    say({"a question of some words": "<think>" + LONG})
    words = len(both[0].tok_encode("a question of some words"))
    assert limits == [8, 40 - words]


def test_labels_are_ranked_behind_an_empty_thought_where_the_prompt_opens_one(both):
    asked = [
        Instance("loglikelihood", {}, (prompt, "True"), 0)
        for prompt in ("Well?<think>\n", "Well?<think>\n\n</think>\n\n", "Well?")
    ]
    opened, closed, plain = both[0].loglikelihood(asked, disable_tqdm=True)
    assert opened == closed != plain
