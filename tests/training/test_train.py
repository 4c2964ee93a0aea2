"""The training command: whole folders, exact resume, one sentence for a mistake."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grace import RationaleEncoder
from grace.jobs.files import write_jsonl
from grace.training import run as module
from grace.training import train
from grace.training.rationales import Rationales, opened, sample, texts_of
from grace.training.run import COMPLETE
from tests.training import settings
from tests.training.settings import contrastive_spec, grace_spec, rows

ROOT = Path(__file__).parents[2]


def command(folder, data, out, spec):
    return settings.command("grace.training.train", folder, data, out / "manifest.json", spec)


def run(*arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def data(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", rows(16))  # two steps an epoch
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    "spec",
    [grace_spec(max_steps=12), contrastive_spec("cl", max_steps=12), contrastive_spec("simcse", max_steps=12)],
    ids=lambda spec: spec.method,
)
def test_kill_and_resume_gives_the_same_weights(tiny_folder, data, tmp_path, spec):
    """kill -9 in the second epoch, then a rerun, against a run that was left alone."""
    write_jsonl(data, rows(16, spec.data))
    whole = run(tiny_folder, data, tmp_path / "whole", spec)
    assert whole.returncode == 0, whole.stderr[-2000:]

    out = tmp_path / "killed"
    process = subprocess.Popen(command(tiny_folder, data, out, spec), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.time() + 200
    while not list(tmp_path.glob(f"killed-checkpoints/*/checkpoint-3/{COMPLETE}")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()

    again = run(tiny_folder, data, out, spec)
    assert again.returncode == 0, again.stderr[-2000:]
    record = json.loads((out / "manifest.json").read_text())
    assert record["resumed_from"] and record["steps"] == 12
    one, two = load_file(tmp_path / "whole/model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)
    before = load_file(tiny_folder / "model.safetensors")
    assert any(not torch.equal(one[name], before[name]) for name in one)
    assert not list(tmp_path.glob("killed-checkpoints/*/checkpoint-*"))


def test_model_folder_is_ordinary(tiny_folder, data, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "model"
    done = run(tiny_folder, data, out, contrastive_spec("cl"))
    assert done.returncode == 0, done.stderr[-2000:]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template and model.config.attention_dropout == 0.0
    record = json.loads((out / "manifest.json").read_text())
    assert record["settings"]["contrastive"]["batch_size"] == 8 and len(record["inputs"]) == 2
    assert json.loads((out / "grace.json").read_text())["prompt"]["instruction"] == "Name the key words."
    assert not list(tmp_path.glob(".model*"))


@pytest.mark.parametrize(
    ("spec", "key", "new"),
    [(grace_spec(), "generation", 12), (contrastive_spec("adapter", loss="half"), "evaluation", 24)],
)
def test_a_context_too_short_for_a_rationale_is_refused(tiny_folder, data, tmp_path, monkeypatch, spec, key, new):
    monkeypatch.setattr(module, "load", lambda *_: 1 / 0)
    folder, out = shutil.copytree(tiny_folder, tmp_path / "backbone"), tmp_path / "model"
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 99 + new}
    (folder / "config.json").write_text(json.dumps(config))
    said = f"^error: config: prompt.max_prompt_tokens 100 and {key}.max_new_tokens {new} are more than the {99 + new} "
    with pytest.raises(SystemExit, match=said):
        train.main(command(folder, data, out, spec)[3:])
    assert not list(out.glob("*"))


@pytest.mark.parametrize("method", ["adapter", "kl_fence"])
def test_a_model_that_learns_from_rationales(tiny_folder, data, tmp_path, monkeypatch, method):
    """The whole command: its rationales, its folder, its record; without the store the same weights come out."""
    monkeypatch.chdir(ROOT)
    spec, made = contrastive_spec(method, loss="half", max_steps=2), []
    for number in (0, 1):
        out = tmp_path / str(number)
        train.main([*command(tiny_folder, data, out, spec)[3:], "--store", str(tmp_path / f"store{number}")])
        name = "adapter_model" if method == "adapter" else "model"
        made.append((json.loads((out / "manifest.json").read_text()), load_file(out / f"{name}.safetensors")))
    (record, weights), (_, again) = made
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    with opened(spec.rationales, tiny_folder, tmp_path / "store0") as store:
        texts = texts_of(sample(rows(16), 16))
        written = sum(len(ids) for ids in Rationales(texts, store)(texts))
    assert record["tokens"]["written"] == written and record["tokens"]["read"] > written
    files = {path.name for path in out.iterdir()}
    assert ("config.json" in files) == (method == "kl_fence") and ("adapter_config.json" in files) == (
        method == "adapter"
    )
    assert RationaleEncoder.from_pretrained(out, device="cpu").encode(["a text"]).rationales is None


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no rows file", "no such file"),
        ("broken row", "row 2"),
        ("empty", "no rows to train on"),
        ("no template", "no chat template"),
        ("few rows", "grace.instances"),
        ("processes", "grace.processes"),
    ],
)
def test_a_mistake_is_one_sentence(tiny_folder, data, tmp_path, case, said):
    import shutil

    folder, spec = shutil.copytree(tiny_folder, tmp_path / "backbone"), grace_spec()
    if case == "no rows file":
        data.unlink()
    elif case == "broken row":
        data.write_text(data.read_text().split("\n")[0] + '\n{"id": "1", "query"\n')
    elif case == "empty":
        data.write_text("")
    elif case == "no template":
        (folder / "chat_template.jinja").unlink()
    elif case == "few rows":
        write_jsonl(data, rows(3))
    else:
        spec = grace_spec(processes=2, rollouts_per_forward=16)
    done = run(folder, data, tmp_path / "out", spec)
    assert done.returncode == 1
    last = done.stderr.strip().split("\n")[-1]
    assert last.startswith("error: ") and said in last and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_full_disk_leaves_no_half_model(tiny_folder, data, tmp_path):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        command(tiny_folder, data, tmp_path / "out", contrastive_spec("cl")),
        cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().split("\n")[-1]
    assert last.startswith("error: ") and "a checkpoint could not be written" in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists() and not list(tmp_path.glob(".out*"))
