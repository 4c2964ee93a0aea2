"""lm-eval's numbers for a random tiny Qwen2 against direct forward passes."""

from __future__ import annotations

import json
import math

import pytest
import torch

from grace import specs
from grace.config import General
from grace.encoder.encoder import DEFAULT_PROMPT
from grace.evaluation import general, harness, tasks
from grace.files import read_json
from grace.section import UserError
from grace.settings import Pooling, Prompt
from tests.evaluation.fakes import FakeEncoder, make_rows
from tests.evaluation.tiny import tiny

LIMIT = 24


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    data = tasks.build(make_rows(120), make_rows(60, 1), seed=0)
    model, tokenizer = tiny(data["perplexity"])
    names = [harness.PERPLEXITY, harness.CHOICE]
    folder = tmp_path_factory.mktemp("lm-eval")
    loaded = harness.load(names, data, {}, folder)
    return harness.run(model, tokenizer, loaded, limit=LIMIT, batch_size=8, threads=1), data, model, tokenizer


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


def test_unknown_task_and_missing_data_are_named(tmp_path):
    with pytest.raises(UserError, match="no_such_task"):
        harness.load(["no_such_task"], None, {}, tmp_path)
    with pytest.raises(UserError, match="--data"):
        harness.load([harness.CHOICE], None, {}, tmp_path)


def test_rationale_figures():
    found = general.rationale(FakeEncoder(), [f"alpha beta gamma number {i}" for i in range(8)])
    # The fake repeats the first three words and adds one of its own; every fourth rationale is cut off.
    assert found["keyword_fidelity"] == 0.75
    assert found["well_formed_share"] == found["items"]["parts"][0]["values"].count(1.0) / 8 == 0.75
    assert found["truncated_share"] == 0.25 and found["texts"] == 8
    assert general.rationale(FakeEncoder(), []) is None
    again, other = (
        general.rationale(FakeEncoder(), texts) for texts in ([f"alpha beta gamma number {i}" for i in range(8)], ["a"])
    )
    assert found["digest"] == again["digest"] != other["digest"]


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


# ---- the command -----------------------------------------------------------------------------


def spec(names: list[str], local: dict[str, str], rationales: int) -> str:
    return specs.GeneralSpec(
        run="base",
        general=General(tasks=names, local=local, limit=5, limits={"fever": 4}, rationales=rationales, batch_size=4),
        encode=specs.EncodeSpec(
            prompt=Prompt(instruction=DEFAULT_PROMPT.instruction, max_prompt_tokens=600),
            pooling=Pooling(method="mean", layer="last", normalize=True),
            rationales=False,
            direct_prompt="chat",
            max_new_tokens=8,
            sampling_temperature=1.0,
            batch_size=4,
            seed=0,
        ),
    ).model_dump_json()


def claims(folder):
    labels = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
    rows = [{"claim": f"Water number {i} is wet.", "label": labels[i % 3]} for i in range(6)]
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"fever": str(folder)}


def test_held_out_texts_give_the_rationale_figures_where_there_is_no_task_data(tiny_folder, tmp_path):
    texts = tmp_path / "test.jsonl"
    texts.write_text("".join(json.dumps({"query": "q", "positive": f"A text, number {i}."}) + "\n" for i in range(9)))
    command = ["--model", str(tiny_folder), "--threads", "1", "--spec", spec(["fever"], claims(tmp_path), 5)]
    general.main([*command, "--data", "--texts", str(texts), "--out", str(tmp_path / "with.json")])
    found = read_json(tmp_path / "with.json")
    assert found["rationale"]["texts"] == 5 and len(found["rationale"]["items"]["parts"][0]["values"]) == 5
    assert str(texts) in found["manifest"]["inputs"]
    assert len(found["tasks"]["fever"]["items"]["parts"][0]["values"]) == 4
    general.main([*command, "--out", str(tmp_path / "without.json")])
    without = read_json(tmp_path / "without.json")
    assert without["rationale"] is None and without["tasks"] == found["tasks"]


def test_held_out_texts_are_the_same_draw_for_every_run(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"positive": f"text {i}"}) + "\n" for i in range(50)))
    drawn = general.held_out(None, [path], 10)
    assert drawn == general.held_out(None, [path], 10) and len(set(drawn)) == 10
    assert drawn != [f"text {i}" for i in range(10)]  # not the head, which may be of one source
    assert general.held_out({"rationale": ["a", "b", "c"]}, [path], 2) == ["a", "b"]
    assert general.held_out(None, [], 10) == []
    path.write_text('{"query": "no positive"}\n')
    with pytest.raises(UserError, match=r"test.jsonl, row 1: the field 'positive'"):
        general.held_out(None, [path], 10)


def test_what_is_missing_stops_the_job_before_its_model_is_loaded(tmp_path, capsys):
    (tmp_path / "model").mkdir()  # no model at all: had it been looked at, the sentence would be another
    command = ["--model", str(tmp_path / "model"), "--spec", spec(["fever"], {"fever": str(tmp_path / "gone")}, 0)]
    with pytest.raises(SystemExit) as stopped:
        general.main([*command, "--out", str(tmp_path / "out.json")])
    assert "general.local.fever" in str(stopped.value) and "gone is not a folder" in str(stopped.value)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("kind", ["adapted_folder", "generator_folder"])
def test_of_an_adapters_folder_it_is_the_model_that_writes_which_is_measured(request, kind, tiny_folder, tmp_path):
    data = tmp_path / "tasks.json"
    data.write_text(json.dumps({"manifest": {}, **tasks.build(make_rows(120), make_rows(60, 1), seed=0)}))
    found = []
    for folder in (tiny_folder, request.getfixturevalue(kind)):
        given = ["--model", str(folder), "--threads", "1", "--spec", spec([harness.PERPLEXITY], {}, 3)]
        general.main([*given, "--data", str(data), "--out", str(tmp_path / "out.json")])
        found.append(read_json(tmp_path / "out.json"))
    for part in ("tasks", "rationale"):
        assert (found[0][part] == found[1][part]) is (kind == "adapted_folder")
    assert found[1]["rationale"]["digest"] and found[1]["manifest"]["inputs"] != found[0]["manifest"]["inputs"]
