"""best-of: what is learnt, from which model it is written, where a kill goes on."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from grace import RationaleEncoder
from grace.encoder.loading import load_model
from grace.files import write_jsonl
from grace.section import UserError
from grace.settings import RewardConfig
from grace.training import best_of, groups, hardware
from grace.training.train import run
from tests.training.settings import LORA, offline_spec, rows

DATA = rows(24)


def trained(backbone, folder, name, spec):
    write_jsonl(folder / "rows.jsonl", DATA)
    paths = dict(rows=folder / "rows.jsonl", backbone=backbone, threads=1, started=time.time(), store=None)
    run(spec, SimpleNamespace(out=folder / name / "manifest.json", **paths))
    return folder / name


def likelihood(model, example, said="input_ids"):
    """(log-probability, tokens) of an example's rationale, by transformers' own forward pass."""
    ids = example["input_ids"] if said == "input_ids" else example["prompt_ids"] + example[said]
    start = example["labels"].count(-100) if said == "input_ids" else len(example["prompt_ids"])
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logps[i - 1, ids[i]]) for i in range(start, len(ids))), len(ids) - start


@pytest.fixture
def taught(monkeypatch):
    """The examples of each round, as they are trained on."""
    found, make = [], groups.examples

    def watched(*given):
        found.append(make(*given))
        return found[-1]

    monkeypatch.setattr(best_of.groups, "examples", watched)
    return found


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_best_become_likelier_and_the_loss_is_theirs_alone(tiny_folder, tmp_path, taught, lora):
    spec = offline_spec(lora=lora, batch_size=16, rows_per_forward=4, learning_rate=3e-3)
    short = spec.generation.model_copy(update={"max_new_tokens": 4})  # so that some groups have no end
    spec = spec.model_copy(update={"generation": short})
    folder = trained(tiny_folder, tmp_path, "model", spec)
    [examples], record = taught, json.loads((folder / "manifest.json").read_text())
    before, after = load_model(tiny_folder, "cpu")[0], load_model(folder, "cpu")[0]
    old, new = ([likelihood(model, example) for example in examples] for model in (before, after))
    assert sum(logp for logp, _ in new) > sum(logp for logp, _ in old) + 1
    assert 4 < len(examples) < 16 and record["steps"] == 2  # all in one batch, twice
    known, first, *_ = record["history"]
    assert known["groups"] == 16 and known["groups_failed"] == 16 - len(examples)
    # The mean over the tokens of all rationales of the batch, whatever goes through the model together.
    assert first["loss"] == pytest.approx(-sum(logp for logp, _ in old) / sum(n for _, n in old), rel=1e-4)
    assert record["tokens"]["written"] == known["tokens_written"]
    assert record["tokens"]["read"] == 2 * sum(len(example["input_ids"]) for example in examples)


@pytest.mark.parametrize("lora", [None, LORA])
def test_dpo_parts_the_best_from_the_worst(tiny_folder, tmp_path, taught, lora):
    folder = trained(tiny_folder, tmp_path, "model", offline_spec(objective="dpo", lora=lora, rows_per_forward=4))
    [examples], record = taught, json.loads((folder / "manifest.json").read_text())
    margin = {}
    for name, at in (("before", tiny_folder), ("after", folder)):
        model, _ = load_model(at, "cpu")
        pairs = [[likelihood(model, one, said)[0] for said in ("chosen_ids", "rejected_ids")] for one in examples]
        margin[name] = sum(best - worst for best, worst in pairs)
    assert margin["after"] > margin["before"] + 1
    # The model that has written is the reference: nothing is gained at the start.
    assert record["history"][1]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert len(load_file(folder / "model.safetensors")) == len(load_file(tiny_folder / "model.safetensors"))


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    """Two rounds that nobody kills, and of each round the folder that wrote, copies of its weights, and the groups."""
    seen, write = [], groups.write

    def watched(spec, data, backbone, folder):
        found = write(spec, data, backbone, folder)
        seen.append((spec, data, load_file(Path(backbone) / "model.safetensors"), found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_of.groups, "write", watched)
        return trained(tiny_folder, tmp_path_factory.mktemp("whole"), "model", offline_spec(rounds=2)), seen


def test_the_second_round_is_written_by_the_model_of_the_first(tiny_folder, tmp_path, whole):
    folder, ((one, first, old, _), (two, second, new, found)) = whole
    assert one.seed != two.seed and first != second and len(second) == 16
    assert any(not torch.equal(old[name], new[name]) for name in old)
    model, tokenizer = load_model(tiny_folder, "cpu")
    assert groups.write(two, second, tiny_folder, tmp_path / "old") != found
    model.load_state_dict(new, strict=False)  # a tied head is saved once
    model.save_pretrained(tmp_path / "new")
    tokenizer.save_pretrained(tmp_path / "new")
    assert groups.write(two, second, tmp_path / "new", tmp_path / "again") == found
    record = json.loads((folder / "manifest.json").read_text())
    assert {entry["round"] for entry in record["history"]} == {0, 1} and list(record["preflight"]) == [
        "round0",
        "round1",
    ]
    assert record["resumed_from"] is None and record["steps"] == 8


def test_a_run_that_is_killed_at_every_turn_ends_the_same(tiny_folder, tmp_path, monkeypatch, whole):
    """While the first round is written and trained, between the rounds, and while the second is written and trained."""
    spec, build, compose, written = offline_spec(rounds=2), best_of.build_trainer, groups.compose, []

    def dying(*given):
        trainer = build(*given)
        step = trainer.training_step

        def training_step(*arguments, **keywords):
            if trainer.state.global_step == 3:
                raise KeyboardInterrupt
            return step(*arguments, **keywords)

        trainer.training_step = training_step
        return trainer

    def stopping(after):
        def composed(*given):
            if len(written) == after:
                raise KeyboardInterrupt
            written.append(given[3])
            return compose(*given)

        return composed

    for after, built in ((1, build), (9, dying), (2, build), (3, build), (9, dying)):
        monkeypatch.setattr(groups, "compose", stopping(after))
        monkeypatch.setattr(best_of, "build_trainer", built)
        with pytest.raises(KeyboardInterrupt):
            trained(tiny_folder, tmp_path, "killed", spec)
        assert not (tmp_path / "killed/manifest.json").exists()
    monkeypatch.setattr(best_of, "build_trainer", build)
    out = trained(tiny_folder, tmp_path, "killed", spec)
    assert len(written) == 4  # two batches a round, each once
    one, two = load_file(out / "model.safetensors"), load_file(whole[0] / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in two)
    record, expected = (json.loads((at / "manifest.json").read_text()) for at in (out, whole[0]))
    assert record["resumed_from"] == "round1/checkpoint-3" and record["tokens"] == expected["tokens"]
    ours, theirs = (
        [{k: v for k, v in entry.items() if not k.startswith("train_")} for entry in at["history"]]
        for at in (record, expected)
    )
    assert ours == theirs
    assert not list(tmp_path.glob("killed-checkpoints/*/*"))


def test_the_folder_is_an_ordinary_model_that_reasons(whole, texts):
    folder = whole[0]
    assert {"config.json", "model.safetensors", "grace.json"} <= {path.name for path in folder.iterdir()}
    assert RationaleEncoder.from_pretrained(folder, device="cpu").encode(texts).rationales
    assert "GRACE's reward without its policy gradient" in (folder / "README.md").read_text()


def test_texts_without_queries_serve_too(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.DATA", rows(16, "unsupervised"))
    folder = trained(tiny_folder, tmp_path, "model", offline_spec(data="unsupervised", epochs=1.0))
    assert json.loads((folder / "manifest.json").read_text())["steps"] == 2


def test_no_rationale_to_learn_from_is_one_sentence(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(groups.engine, "end_tokens", lambda *_: [399])
    said = (
        r"^config: offline: of 16 groups none has a rationale that ended within generation\.max_new_tokens \(12\), so"
    )
    with pytest.raises(UserError, match=said):
        trained(tiny_folder, tmp_path, "model", offline_spec())
    with pytest.raises(UserError, match=r"in the form that reward\.form asks for"):
        trained(tiny_folder, tmp_path, "model", offline_spec(RewardConfig(form=True)))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (offline_spec().model_copy(update={"keep_steps": [1]}), "config: ablations: grace-offline trains in rounds"),
        (offline_spec(precision="bf16"), "config: offline.precision: bf16 needs a GPU"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(monkeypatch, spec, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=said):
        hardware.check(spec)
