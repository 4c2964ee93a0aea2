"""lm-eval's numbers for a random tiny Qwen2 against direct forward passes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from grace.evaluation import general, harness, tasks
from grace.section import UserError
from tests.evaluation.fakes import FakeEncoder, make_rows
from tests.evaluation.tiny import tiny

LIMIT = 24


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    data = tasks.build(make_rows(120), make_rows(60, 1), seed=0)
    model, tokenizer = tiny(data["perplexity"])
    names = [harness.PERPLEXITY, harness.CHOICE]
    folder = tmp_path_factory.mktemp("lm-eval")
    return harness.run(model, tokenizer, names, data, folder, limit=LIMIT, batch_size=8), data, model, tokenizer


def likelihood(model, prefix: list[int], target: list[int]) -> float:
    """log p(target | prefix) in one forward pass without batching or padding."""
    with torch.no_grad():
        logits = model(torch.tensor([prefix + target])).logits[0].double().log_softmax(-1)
    return sum(logits[len(prefix) + i - 1, token].item() for i, token in enumerate(target))


def test_perplexity_is_that_of_a_forward_pass(ran):
    found, data, model, tokenizer = ran
    texts = data["perplexity"][:LIMIT]
    tokens = [tokenizer.encode(text) for text in texts]
    total = sum(likelihood(model, [tokenizer.eos_token_id], ids) for ids in tokens)
    entry = found[harness.PERPLEXITY]
    assert entry["score"] == pytest.approx(math.exp(-total / sum(map(len, tokens))), rel=1e-4)
    assert entry["word_perplexity"] == pytest.approx(
        math.exp(-total / sum(len(text.split()) for text in texts)), rel=1e-3
    )
    part = entry["items"]["parts"][0]
    assert part["gold"] == [len(ids) for ids in tokens]
    assert sum(part["values"]) == pytest.approx(total, rel=1e-5)


def test_choice_takes_the_description_under_which_the_query_is_likeliest(ran):
    found, data, model, tokenizer = ran
    right = []
    for item in data["choice"][:LIMIT]:
        scores = []
        for text in item["choices"]:
            prefix, whole = tokenizer.encode(text), tokenizer.encode(text + "\n" + item["query"])
            assert whole[: len(prefix)] == prefix
            scores.append(likelihood(model, prefix, whole[len(prefix) :]))
        right.append(float(max(range(4), key=scores.__getitem__) == item["answer"]))
    assert found[harness.CHOICE]["items"]["parts"][0]["values"] == right
    assert found[harness.CHOICE]["score"] == pytest.approx(sum(right) / len(right))
    assert 0 < sum(right) < len(right)


@pytest.mark.parametrize("name", ["fever", "humaneval"])
def test_tasks_that_are_not_there_yet_stop_before_the_model_is_loaded(name):
    with pytest.raises(UserError, match=f"{name}.*not available"):
        harness.check(["gsm8k", name])


def test_unknown_task_and_missing_data_are_named(tmp_path):
    with pytest.raises(UserError, match="no_such_task"):
        harness.check(["no_such_task"])
    with pytest.raises(UserError, match="--data"):
        harness.run(None, None, [harness.CHOICE], None, tmp_path, batch_size=1)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gsm8k", "gsm8k/gsm8k.yaml"),
        ("mmlu", "mmlu/default/_mmlu.yaml"),
        ("triviaqa", "triviaqa/default.yaml"),
        ("bbh", "bbh/cot_fewshot/_bbh.yaml"),
    ],
)
def test_settings_of_the_hub_tasks_are_lm_evals(name, path):
    """Read from lm-eval's own YAML: nothing is downloaded."""
    import lm_eval

    text = (Path(lm_eval.__file__).parent / "tasks" / path).read_text()
    hub = harness.HUB[name]
    assert re.search(rf"^(task|group): {hub.task}$", text, re.MULTILINE)
    assert f"metric: {hub.metric}" in text and (hub.filter == "none" or hub.filter in text)


def test_rationale_figures():
    found = general.rationale(FakeEncoder(), [f"alpha beta gamma number {i}" for i in range(8)])
    # The fake repeats the first three words and adds one of its own; every fourth rationale is cut off.
    assert found["keyword_fidelity"] == 0.75
    assert found["well_formed_share"] == found["items"]["parts"][0]["values"].count(1.0) / 8 == 0.75
    assert found["truncated_share"] == 0.25 and found["texts"] == 8
    assert general.rationale(FakeEncoder(), []) is None


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ("<think>Alpha, beta; delta</think> x", 2 / 3),
        ("<think>alpha never finished", 1 / 3),
        ("no thought at all", None),
        ("<think> </think> alpha", None),
    ],
)
def test_keyword_fidelity(said, share):
    assert harness.keyword_fidelity("ALPHA beta gamma", said) == (None if share is None else pytest.approx(share))
