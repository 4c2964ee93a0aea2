"""What all trainings share: a number that is not finite stops them in their step; steps that are kept as models."""

import json
import math
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from grace.beyond import rounds
from grace.config.section import UserError
from grace.jobs.files import write_jsonl
from grace.training import run, trainer
from grace.training.contrastive import WEIGHTS
from grace.training.run import COMPLETE, checkpoint_folder, finite, history, last_checkpoint
from tests.training import settings
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


@pytest.fixture
def trained(tiny_folder, tmp_path):
    """Trains a spec into a folder of this name; returns the folder."""
    return lambda spec, name="out", backbone=tiny_folder: settings.trained(backbone, tmp_path, name, spec)


# ---- finite numbers ---------------------------------------------------------------------


def infinite_loss(trainer, monkeypatch):
    name = "_compute_loss" if trainer.spec.grace else "compute_loss"
    # The library's, below our check.
    base = next(kind for kind in type(trainer).__mro__ if name in vars(kind) and "grace" not in kind.__module__)
    original = getattr(base, name)

    def loss(self, *given, **named):
        value = original(self, *given, **named)
        return value + math.inf if self.state.global_step == 1 else value  # whose gradient is finite

    monkeypatch.setattr(base, name, loss)


def infinite_gradient(trainer, monkeypatch=None):
    parameter = next(p for p in trainer.model.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.inf if trainer.state.global_step == 1 else gradient)


@pytest.mark.parametrize(
    ("spoil", "said"), [(infinite_loss, "the loss"), (infinite_gradient, "a gradient or a weight")]
)
@pytest.mark.parametrize("case", SPECS)
def test_a_training_stops_in_its_step(tmp_path, monkeypatch, trained, case, spoil, said):
    build = run.build_trainer

    def built(*given, **more):
        trainer = build(*given, **more)
        spoil(trainer, monkeypatch)
        return trainer

    monkeypatch.setattr(run, "build_trainer", built)
    with pytest.raises(UserError, match=rf"step 2: {said} is not a finite number.*lower \w+\.learning_rate"):
        trained(SPECS[case])
    assert len(list(tmp_path.glob(f"out-checkpoints/*/checkpoint-1/{COMPLETE}"))) == 1
    assert len(list(tmp_path.glob("out-checkpoints/*/checkpoint-*"))) == 1 and not (tmp_path / "out").exists()


def test_a_phase_of_rounds_stops_too(tmp_path, monkeypatch, trained):
    build = rounds.build_trainer

    def built(*given, **more):
        trainer = build(*given, **more)
        if "generator" in str(given[5]):
            infinite_gradient(trainer)
        return trainer

    monkeypatch.setattr(rounds, "build_trainer", built)
    with pytest.raises(UserError, match="grace: step 2: a gradient or a weight"):
        trained(rounds_spec())
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out-checkpoints/*/round0-generator.pt"))


def test_a_reward_that_is_not_finite(monkeypatch, trained):
    score = trainer.compute_rewards

    def infinite(*given):
        made = score(*given)
        made.total[0, 0] = math.inf
        return made

    monkeypatch.setattr(trainer, "compute_rewards", infinite)
    with pytest.raises(UserError, match="grace: step 1: a reward or an advantage is not a finite number"):
        trained(SPECS["grace"])


@pytest.mark.parametrize(("case", "value"), [("grace, adapters", math.nan), ("cl", math.inf)])
def test_a_backbone_without_finite_weights(tiny_folder, tmp_path, trained, case, value):
    folder = shutil.copytree(tiny_folder, tmp_path / "backbone")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"].fill_(value)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="the backbone has weights that are not finite numbers"):
        trained(SPECS[case], backbone=folder)
    assert not list(tmp_path.glob("out*/**/*.safetensors"))


def test_two_processes_stop_together(tiny_folder, tmp_path):
    """Of settings that are within their bounds: each step multiplies the weights by a million."""
    spec = contrastive_spec("cl", processes=2, learning_rate=1.0, weight_decay=1e6, warmup_ratio=0.0, max_steps=12)
    write_jsonl(tmp_path / "rows.jsonl", rows(32))
    module = "grace.training.launch -m grace.training.train"
    words = settings.command(module, tiny_folder, tmp_path / "rows.jsonl", tmp_path / "out/manifest.json", spec)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "error: cl: step " in said[0] and "is not a finite number" in said[0]
    kept = [torch.load(path / WEIGHTS) for path in tmp_path.glob("out-checkpoints/*/checkpoint-*")]
    assert kept and all(finite(weights.values()) for weights in kept) and not list(tmp_path.glob("out/*"))


def test_finite():
    assert finite([]) and finite([torch.ones(3), torch.zeros(2, 2)])
    assert not any(finite([torch.ones(3), torch.tensor(value)]) for value in (math.nan, math.inf, -math.inf))
    state = SimpleNamespace(log_history=[{"a": math.nan, "b": -math.inf, "c": 1.0, "d": "text"}])
    assert json.dumps(history(SimpleNamespace(state=state))) == '[{"a": null, "b": null, "c": 1.0}]'


# ---- checkpoints ------------------------------------------------------------------------


def test_an_unfinished_checkpoint_is_not_resumed(tmp_path):
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-1" / COMPLETE).touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    assert not (tmp_path / "checkpoint-2").exists()


def test_other_settings_or_inputs_have_other_checkpoints(tmp_path):
    one, other = grace_spec(), grace_spec(learning_rate=2e-3)
    given = [(one, "r", "b"), (other, "r", "b"), (one, "r2", "b"), (one, "r", "b2")]
    assert len({checkpoint_folder(tmp_path / "manifest.json", *each) for each in given}) == 4


def keeping(*steps, **changes):
    return grace_spec(**{"max_steps": 3, **changes}).model_copy(update={"keep_steps": list(steps)})


def same(one, two):
    one, two = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("changes", [{}, {"lora": LORA, "frozen": []}], ids=["all weights", "adapters"])
def test_kept_steps_are_models_and_change_nothing(trained, tmp_path, changes):
    (tmp_path / "kept/step7").mkdir(parents=True)  # of an older training
    plain, kept = trained(keeping(**changes), "plain"), trained(keeping(1, 2, **changes), "kept")
    assert same(plain, kept)
    assert sorted(path.name for path in kept.glob("step*")) == ["step1", "step2"]
    # A training that ends there gives the same model: the learning rate is constant.
    assert same(kept / "step2", trained(keeping(**changes, max_steps=2), "two"))
    assert not same(kept / "step2", kept) and not same(kept / "step1", kept / "step2")
    assert json.loads((kept / "step2/manifest.json").read_text())["steps"] == 2
    assert not list(tmp_path.glob("kept-checkpoints/*"))


def test_a_step_beyond_the_end_is_a_sentence(trained, tmp_path):
    with pytest.raises(UserError, match="step 2 is to be kept of a training of 2 steps"):
        trained(keeping(2, max_steps=2))
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_training_killed_while_it_saves_its_end_finds_its_steps_again(trained, tmp_path, monkeypatch):
    save_model = run.save_model

    def dies_at_the_end(folder, *args, **kwargs):
        if not folder.name.startswith("step"):
            raise KeyboardInterrupt
        save_model(folder, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "save_model", dies_at_the_end)
        trained(keeping(1, 2))
    assert not (tmp_path / "out/manifest.json").exists()
    out, whole = trained(keeping(1, 2)), trained(keeping(1, 2), "whole")
    assert json.loads((out / "manifest.json").read_text())["resumed_from"] == "checkpoint-2"
    for name in ("step1", "step2", "."):
        assert same(out / name, whole / name), name


def test_a_step_asked_for_too_late_is_a_sentence(trained, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(run, "save_model", lambda *args, **kwargs: 1 / 0)
        trained(keeping())
    with pytest.raises(UserError, match="has passed step 2 without keeping it"):
        trained(keeping(2))  # the same training: what is kept changes no weight
