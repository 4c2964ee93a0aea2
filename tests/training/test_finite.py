"""A number that is not finite stops a training in its step: one sentence, the last checkpoint, and nothing else."""

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from grace.files import write_jsonl
from grace.section import UserError
from grace.training import rounds, train
from grace.training.checkpoints import COMPLETE
from grace.training.contrastive import WEIGHTS
from grace.training.finite import finite
from tests.training.settings import LORA, contrastive_spec, grace_spec, rounds_spec, rows

ROOT = Path(__file__).parents[2]
SPECS = {
    "grace": grace_spec(max_steps=3),
    "grace, adapters": grace_spec(max_steps=3, lora=LORA, frozen=[]),
    "cl": contrastive_spec("cl"),
    "cl, cached": contrastive_spec("cl", mini_batch_size=2),
    "simcse": contrastive_spec("simcse"),
    "adapter": contrastive_spec("adapter"),
    "kl_fence": contrastive_spec("kl_fence", fence={"rationale": 0, "text": 1, "rows": 2}),
}


def paths(tmp_path, backbone, spec):
    write_jsonl(tmp_path / "rows.jsonl", rows(32, spec.data))
    out = tmp_path / "out/manifest.json"
    return SimpleNamespace(
        rows=tmp_path / "rows.jsonl", backbone=backbone, out=out, store=None, threads=1, started=time.time()
    )


def infinite_loss(trainer):
    name = "_compute_loss" if trainer.__class__.__name__ == "GraceTrainer" else "compute_loss"
    base = type(trainer).__mro__[1]  # the library's, below our check
    original = getattr(base, name)

    def loss(self, *given, **named):
        value = original(self, *given, **named)
        return value + math.inf if self.state.global_step == 1 else value  # whose gradient is finite

    return base, name, loss


def infinite_gradient(trainer):
    parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.inf if trainer.state.global_step == 1 else gradient)


@pytest.mark.parametrize(("way", "said"), [("loss", "the loss"), ("gradient", "a gradient or a weight")])
@pytest.mark.parametrize("case", SPECS)
def test_it_stops_in_its_step(tiny_folder, tmp_path, monkeypatch, case, way, said):
    build = train.build_trainer

    def built(*given):
        trainer = build(*given)
        if way == "loss":
            monkeypatch.setattr(*infinite_loss(trainer))
        else:
            infinite_gradient(trainer)
        return trainer

    monkeypatch.setattr(train, "build_trainer", built)
    at = paths(tmp_path, tiny_folder, SPECS[case])
    with pytest.raises(UserError, match=rf"step 2: {said} is not a finite number.*lower \w+\.learning_rate"):
        train.run(SPECS[case], at)
    assert len(list(tmp_path.glob(f"out-checkpoints/*/checkpoint-1/{COMPLETE}"))) == 1
    assert len(list(tmp_path.glob("out-checkpoints/*/checkpoint-*"))) == 1 and not (tmp_path / "out").exists()


def test_a_phase_of_rounds_stops_too(tiny_folder, tmp_path, monkeypatch):
    build = rounds.build_trainer

    def built(*given):
        trainer = build(*given)
        if "generator" in str(given[4]):
            infinite_gradient(trainer)
        return trainer

    monkeypatch.setattr(rounds, "build_trainer", built)
    with pytest.raises(UserError, match="grace: step 2: a gradient or a weight"):
        train.run(rounds_spec(), paths(tmp_path, tiny_folder, rounds_spec()))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out-checkpoints/*/round0-generator.pt"))


def test_a_reward_that_is_not_finite(tiny_folder, tmp_path, monkeypatch):
    from grace.training import trainer

    score = trainer.compute_rewards

    def infinite(*given):
        made = score(*given)
        made.total[0, 0] = math.inf
        return made

    monkeypatch.setattr(trainer, "compute_rewards", infinite)
    with pytest.raises(UserError, match="grace: step 1: a reward or an advantage is not a finite number"):
        train.run(SPECS["grace"], paths(tmp_path, tiny_folder, SPECS["grace"]))


def spoilt(tiny_folder, folder, value):
    """A copy of the backbone with one matrix of this value."""
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"].fill_(value)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("spec", [SPECS["grace, adapters"], SPECS["cl"]], ids=lambda spec: spec.method)
def test_a_backbone_without_finite_weights(tiny_folder, tmp_path, spec, value):
    with pytest.raises(UserError, match="the backbone has weights that are not finite numbers"):
        train.run(spec, paths(tmp_path, spoilt(tiny_folder, tmp_path / "backbone", value), spec))
    assert not list(tmp_path.glob("out*/**/*.safetensors"))


def test_two_processes_stop_together(tiny_folder, tmp_path):
    """Of settings that are within their bounds: each step multiplies the weights by a million."""
    spec = contrastive_spec("cl", processes=2, learning_rate=1.0, weight_decay=1e6, warmup_ratio=0.0, max_steps=12)
    at = paths(tmp_path, tiny_folder, spec)
    command = [
        sys.executable, "-m", "grace.training.launch", "-m", "grace.training.train", "--spec", spec.model_dump_json(),
        "--threads", "2", "--backbone", str(at.backbone), "--rows", str(at.rows), "--out", str(at.out),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "error: cl: step " in said[0] and "is not a finite number" in said[0]
    kept = [torch.load(path / WEIGHTS) for path in tmp_path.glob("out-checkpoints/*/checkpoint-*")]
    assert kept and all(finite(weights.values()) for weights in kept) and not at.out.exists()


def test_infinite_metrics_are_null():
    from grace.training.building import history

    state = SimpleNamespace(log_history=[{"a": math.nan, "b": -math.inf, "c": 1.0, "d": "text"}])
    assert json.dumps(history(SimpleNamespace(state=state))) == '[{"a": null, "b": null, "c": 1.0}]'


def test_finite():
    assert finite([]) and finite([torch.ones(3), torch.zeros(2, 2)])
    assert not any(finite([torch.ones(3), torch.tensor(value)]) for value in (math.nan, math.inf, -math.inf))
