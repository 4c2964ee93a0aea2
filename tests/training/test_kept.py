"""Models kept during training: what they hold, and that keeping them changes nothing."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from grace.files import write_jsonl
from grace.section import UserError
from grace.training.train import run
from tests.training.settings import grace_spec, rows

ADAPTERS = {"lora": {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear"}, "frozen": []}


@pytest.fixture
def train(tiny_folder, tmp_path):
    """Trains into a folder of this name; returns the folder."""
    data = tmp_path / "rows.jsonl"
    write_jsonl(data, rows(16))

    def train(name, keep=(), **changes):
        spec = grace_spec(**changes).model_copy(update={"keep_steps": list(keep)})
        out = tmp_path / name / "manifest.json"
        run(spec, SimpleNamespace(rows=data, backbone=tiny_folder, out=out, threads=1, started=time.time()))
        return out.parent

    return train


def same(one, two):
    one, two = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert one.keys() == two.keys()
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("changes", [{}, ADAPTERS], ids=["all weights", "adapters"])
def test_kept_steps_are_models_and_change_nothing(train, tmp_path, changes):
    (tmp_path / "kept/step7").mkdir(parents=True)  # of an older training
    plain, kept = train("plain", max_steps=3, **changes), train("kept", keep=(1, 2), max_steps=3, **changes)
    assert same(plain, kept)
    assert sorted(path.name for path in kept.glob("step*")) == ["step1", "step2"]
    # A training that ends there gives the same model: the learning rate is constant.
    assert same(kept / "step2", train("two", max_steps=2, **changes))
    assert not same(kept / "step2", kept) and not same(kept / "step1", kept / "step2")
    assert json.loads((kept / "step2/manifest.json").read_text())["steps"] == 2
    assert not list(tmp_path.glob("kept-checkpoints/*"))


def test_a_step_beyond_the_end_is_a_sentence(train, tmp_path):
    with pytest.raises(UserError, match="step 2 is to be kept of a training of 2 steps"):
        train("out", keep=(2,), max_steps=2)
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_training_killed_while_it_saves_its_end_finds_its_steps_again(train, tmp_path, monkeypatch):
    from grace.training import train as module

    save_model = module.save_model

    def dies_at_the_end(folder, *args, **kwargs):
        if not folder.name.startswith("step"):
            raise KeyboardInterrupt
        save_model(folder, *args, **kwargs)

    monkeypatch.setattr(module, "save_model", dies_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        train("out", keep=(1, 2), max_steps=3)
    monkeypatch.undo()
    assert not (tmp_path / "out/manifest.json").exists()
    out = train("out", keep=(1, 2), max_steps=3)
    whole = train("whole", keep=(1, 2), max_steps=3)
    assert json.loads((out / "manifest.json").read_text())["resumed_from"] == "checkpoint-2"
    for name in ("step1", "step2", "."):
        assert same(out / name, whole / name), name


def test_a_step_asked_for_too_late_is_a_sentence(train, tmp_path, monkeypatch):
    from grace.training import train as module

    monkeypatch.setattr(module, "save_model", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("out", max_steps=3)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has passed step 2 without keeping it"):
        train("out", keep=(2,), max_steps=3)  # the same training: what is kept changes no weight
