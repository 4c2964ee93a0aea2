"""The preflight sees the longest batch, leaves nothing behind, and its refusal says what to lower."""

import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from grace.beyond.kl_regulariser import KL
from grace.config.section import UserError
from grace.jobs.files import read_json, write_json, write_jsonl
from grace.training import preflight
from grace.training.preflight import Preflight, too_large
from tests.training.settings import (
    LORA,
    command,
    contrastive_spec,
    grace_spec,
    model_of,
    offline_spec,
    rows,
    trainer_of,
)

SPECS = {
    "grace": grace_spec(max_steps=2),
    "grace, adapters": grace_spec(max_steps=2, lora={**LORA, "dropout": 0.1}, frozen=[]),
    "grace, bf16": grace_spec(max_steps=2, precision="bf16", gradient_checkpointing=True),
    "cl": contrastive_spec("cl"),
    "cl, cached": contrastive_spec("cl", mini_batch_size=3),
    "simcse": contrastive_spec("simcse"),
    "kl_fence": contrastive_spec("kl_fence", loss="half"),
    "best-of": offline_spec(),
    "best-of, dpo": offline_spec(objective="dpo", lora={**LORA, "dropout": 0.1}, rows_per_forward=4),
}


@pytest.mark.parametrize("case", SPECS)
def test_training_is_the_same_with_and_without(tiny_folder, tmp_path, monkeypatch, case):
    spec = SPECS[case]
    one = trainer_of(tiny_folder, tmp_path / "with", spec)
    one.train()
    assert one.preflight.record["seconds"] > 0 and one.preflight.record["peak_memory_gb"] > 0
    monkeypatch.setattr(Preflight, "on_train_begin", lambda *_, **__: None)
    other = trainer_of(tiny_folder, tmp_path / "without", spec)
    other.train()
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    mine, theirs = (
        [
            {k: v for k, v in entry.items() if k != "step_time" and not k.endswith(("_runtime", "_per_second"))}
            for entry in trainer.state.log_history
        ]
        for trainer in (one, other)
    )
    assert str(mine) == str(theirs)


@pytest.mark.parametrize("case", ["grace", "cl", "simcse", "kl_fence", "best-of", "best-of, dpo"])
def test_the_longest_batch_goes_through_the_model(tiny_folder, tmp_path, case):
    """On a GPU all rows; the shapes are those of the settings."""
    spec = SPECS[case]
    trainer = trainer_of(tiny_folder, tmp_path, spec)
    trainer.create_optimizer()
    seen = []
    of = trainer.model if spec.grace or spec.offline else _inner(trainer)
    hook = of.register_forward_pre_hook
    handle = hook(lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    preflight.longest_pass(trainer, spec)
    handle.remove()
    if spec.offline:  # of dpo the best and the worst of four groups; the reference is a model of its own
        assert seen == [(8, 112)]
        return
    length, prefix = spec.prompt.max_prompt_tokens, len(_template(trainer).prefix)
    batches = [(count, width) for count, width in seen if width != prefix]
    if case == "grace":
        assert seen[-1] == (8, length - 1 + 4 * 12)  # the four rollouts of a group in a row
    elif case == "kl_fence":  # query, positive, negative; twice the fence's rows with a rationale, and as plain text
        assert batches == [(4, length + 24 - prefix)] * 2 + [(4, length)] * 2 + [
            (8, length + 24 - prefix), (16, length + 24 - prefix)
        ]  # fmt: skip
    else:  # on a CPU the prefix is read apart, once for all rows, but for a dropout of each row's own
        assert {width for _, width in batches} == {length - (prefix if case == "cl" else 0)}
        assert sum(count for count, _ in batches) == 8 * (3 if case == "cl" else 2)  # query, positive, negative
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.model.parameters())


def test_the_fence_sees_every_token_of_the_longest_text(tiny_folder, tmp_path):
    spec = SPECS["kl_fence"]
    trainer = trainer_of(tiny_folder, tmp_path, spec)
    length, real = spec.prompt.max_prompt_tokens, trainer.regulariser.batch([{"text": "array " * 200}] * 4)
    for name, part in trainer.longest(8, length + 24, 24)[KL].items():
        follow = part["attention_mask"].sum(1) - part["prompt_tokens"]
        assert len(follow) == len(real[name]["input_ids"])
        assert (follow >= real[name]["attention_mask"].sum(1) - real[name]["prompt_tokens"]).all()


def _template(trainer):
    return trainer.template if hasattr(trainer, "template") else trainer.model[0].template


def _inner(trainer):
    return model_of(trainer).get_decoder()


def test_a_largest_batch_of_rationales(tiny_folder, tmp_path, monkeypatch):
    spec = SPECS["grace"]
    trainer = trainer_of(tiny_folder, tmp_path, spec)
    asked = {}

    def record(model, prompts, **settings):
        asked.update(settings, rows=len(prompts), length=len(prompts[0]))

    monkeypatch.setattr(preflight.engine, "generate", record)
    preflight.write(trainer, spec)
    assert asked["rows"] == 20 and asked["length"] == 100  # generation.batch_size, prompt.max_prompt_tokens


def shapes(trainer, run):
    """Of the token rows that go through the model while `run` does: (rows, tokens of each)."""
    seen = []
    decoder = trainer.model.get_decoder()
    handle = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    run()
    handle.remove()
    return seen


def test_a_largest_batch_of_what_vllm_wrote(tiny_folder, tmp_path):
    """As large as the largest of a step whose rationales are all as long as can be, and no second one of its size."""
    trainer = trainer_of(tiny_folder, tmp_path, SPECS["grace"])  # has no vLLM that could be started
    spec = grace_spec(engine="vllm", max_steps=2)
    prompts = trainer.template.ids(["array " * 200] * 8 * (4 + 2))
    assert {len(ids) for ids in prompts} == {100}
    step = shapes(trainer, lambda: trainer.embed(prompts, [[7] * 12] * len(prompts)))
    largest = max(step, key=math.prod)
    trained = shapes(trainer, lambda: preflight.step_of_grace(trainer, spec))
    seen = shapes(trainer, lambda: preflight.longest_pass(trainer, spec))
    assert seen[-len(trained) :] == trained
    embedded = seen[: -len(trained)]
    assert max(embedded, key=math.prod) == largest and embedded.count(largest) == 1 < step.count(largest)


@pytest.mark.parametrize(("instances", "at_most", "rows"), [(1, preflight.ALL, 6), (8, 4, 4)])
def test_no_more_of_what_vllm_wrote_than_a_step_has_or_a_cpu_is_given(
    tiny_folder, tmp_path, monkeypatch, instances, at_most, rows
):
    trainer = trainer_of(tiny_folder, tmp_path, SPECS["grace"])
    spec = grace_spec(engine="vllm", instances=instances, rollouts_per_forward=4)
    monkeypatch.setattr(preflight, "step_of_grace", lambda *_: None)
    assert shapes(trainer, lambda: preflight.longest_pass(trainer, spec, at_most)) == [(rows, 100 + 12 - 1)]


def out_of_gpu_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")


def another_error(*_):
    raise RuntimeError("shape mismatch")


@pytest.mark.parametrize(
    ("case", "part", "failing", "said"),
    [
        (
            "grace",
            "step_of_grace",
            out_of_gpu_memory,
            "32 rows of 112 tokens do not fit in memory .CUDA out of mem",
        ),
        ("cl", "step_of_batch", lambda *_: torch.empty(1 << 58), r"8 rows of 100 tokens do not .*cl\.mini_batch_size"),
        ("grace", "available", lambda: 1_000_000, r"at least 0\.0 GB and 0\.0 GB are free.*grace\.rollouts_per"),
        ("grace", "step_of_grace", another_error, "^shape mismatch"),
    ],
)
def test_no_memory_is_one_sentence(tiny_folder, tmp_path, monkeypatch, case, part, failing, said):
    trainer = trainer_of(tiny_folder, tmp_path, SPECS[case])
    monkeypatch.setattr(preflight, part, failing)
    with pytest.raises(RuntimeError if failing is another_error else UserError, match=said) as caught:
        trainer.train()
    assert "\n" not in str(caught.value) and trainer.state.global_step == 0


def test_a_batch_too_large_stops_the_command(tiny_folder, tmp_path):
    """For real: logits of 10^13 numbers are more than any machine has."""
    write_jsonl(tmp_path / "rows.jsonl", rows(16))
    config = shutil.copytree(tiny_folder, tmp_path / "backbone") / "config.json"
    write_json(config, {**read_json(config), "max_position_embeddings": 1 << 31})
    spec = grace_spec()
    spec = spec.model_copy(update={"generation": spec.generation.model_copy(update={"max_new_tokens": 1 << 30})})
    words = command("grace.training.train", config.parent, tmp_path / "rows.jsonl", tmp_path / "m/m.json", spec)
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.strip().split("\n")[-1]
    assert last.startswith("error: config: grace: 32 rows of") and "generation.max_new_tokens" in last


def test_available_memory_is_real():
    assert 10_000_000 < preflight.available() < 1 << 50


@pytest.mark.parametrize(
    ("changes", "absent", "present"),
    [
        ({}, "vllm", "grace.rollouts_per_forward (32"),
        ({}, "vllm", "grace.gradient_checkpointing: true, or train adapters (grace.lora), or spread it over more GPUs"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing: true", "grace.lora"),
        ({"lora": LORA, "frozen": []}, "train adapters", "rollouts_per_forward"),
        ({"rollouts_per_forward": 1}, "rollouts_per_forward", "max_new_tokens"),
        ({"engine": "vllm"}, "generation.batch_size", "grace.vllm_memory (0.5)"),
    ],
)
def test_only_what_helps_is_advised(changes, absent, present):
    said = str(too_large(grace_spec(**changes), "x"))
    assert absent not in said and present in said


def test_best_of_has_its_own_advice():
    said = str(too_large(offline_spec(objective="dpo"), "x"))
    assert said.startswith("config: offline: 16 rows of 112 tokens") and "offline.rows_per_forward (8; memory" in said
    assert "generation.max_new_tokens (12)" in said and "set offline.gradient_checkpointing: true" in said
