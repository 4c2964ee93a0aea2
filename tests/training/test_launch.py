"""The command that starts several processes: as many as configured, one result, one sentence for a mistake."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from grace.config.plan import Plan
from grace.config.studies import read_config
from grace.jobs.files import write_jsonl
from grace.training import launch, train
from tests.training.settings import command, contrastive_spec, grace_spec, model_of, rows, trainer_of

ROOT = Path(__file__).parents[2]


def start(folder, data, out, spec):
    words = command("grace.training.launch -m grace.training.train", folder, data, out / "manifest.json", spec)
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def data(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", rows(16))
    return tmp_path / "rows.jsonl"


CASES = {
    "grace": (grace_spec, {"rollouts_per_forward": 16}),
    "cl": (contrastive_spec, {"method": "cl", "max_steps": 5}),
    "cl, cached": (contrastive_spec, {"method": "cl", "mini_batch_size": 2, "max_steps": 5}),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_trains(tiny_folder, data, tmp_path, case):
    """The same global batch: in-batch negatives come from both, gradients are averaged."""
    make, settings = CASES[case]
    settings = {**settings, "save_steps": 9}
    done = start(tiny_folder, data, tmp_path / "two", make(**settings, processes=2))
    assert done.returncode == 0, done.stderr[-2000:]
    two, before = load_file(tmp_path / "two/model.safetensors"), load_file(tiny_folder / "model.safetensors")
    spec = make(**settings)
    trainer = trainer_of(tiny_folder, tmp_path / "one", spec)
    trainer.train()
    one = model_of(trainer).state_dict()
    assert max((one[name] - before[name]).abs().max() for name in two) > 1e-4
    for name in two:
        torch.testing.assert_close(two[name], one[name], atol=2e-5, rtol=0)  # of steps of 1e-3
    history = json.loads((tmp_path / "two/manifest.json").read_text())["history"]
    curves = [[entry["loss"] for entry in each if "loss" in entry] for each in (history, trainer.state.log_history)]
    assert curves[0] and curves[0] == pytest.approx(curves[1], abs=1e-3)


def test_two_processes_write_and_learn_from_rationales_as_one_does(tiny_folder, data, tmp_path, monkeypatch):
    """Each writes a share of them, waits for the other's, and takes the other's texts as negatives."""
    settings = {"loss": "half", "mini_batch_size": 2, "max_steps": 3, "save_steps": 9}
    done = start(tiny_folder, data, tmp_path / "two", contrastive_spec("adapter", **settings, processes=2))
    assert done.returncode == 0, done.stderr[-2000:]
    monkeypatch.chdir(ROOT)
    spec = contrastive_spec("adapter", **settings)
    train.main(command("grace.training.train", tiny_folder, data, tmp_path / "one/manifest.json", spec)[3:])
    mine, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert mine.keys() == theirs.keys() and any(
        value.abs().max() > 1e-4 for name, value in mine.items() if "lora_B" in name
    )
    for name in mine:
        torch.testing.assert_close(theirs[name], mine[name], atol=1e-5, rtol=0)
    records = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two")]
    assert records[0]["tokens"] == records[1]["tokens"]


def test_a_mistake_is_one_sentence(tiny_folder, data, tmp_path):
    write_jsonl(data, rows(3))
    done = start(tiny_folder, data, tmp_path / "out", grace_spec(processes=2, rollouts_per_forward=16))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said == ["error: config: grace.instances: 8 instances do not fit the 3 training rows."]


def test_what_the_machine_lacks_is_said_before_any_process_starts(tiny_folder, data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = start(tiny_folder, data, tmp_path / "out", grace_spec(processes=2, rollouts_per_forward=16, sharding="fsdp"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: config: grace.sharding: fsdp needs a GPU") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "name", "kind"),
    [({}, "single", "NO"), ({"processes": 2}, "multi", "MULTI_GPU"),
     ({"processes": 2, "sharding": "fsdp"}, "fsdp", "FSDP")],
)  # fmt: skip
def test_profiles(changes, name, kind):
    spec = grace_spec(rollouts_per_forward=16, **changes)
    given = launch.options(spec)
    profile = Path(given[given.index("--config_file") + 1])
    assert profile.stem == name
    config = load_config_from_file(str(profile))
    assert config.distributed_type == kind and config.mixed_precision == "bf16"
    assert given[given.index("--num_processes") + 1] == str(changes.get("processes", 1))
    assert given[given.index("--mixed_precision") + 1] == "no"


def test_the_rule_starts_what_the_study_configures():
    config = read_config(ROOT / "config.yaml")
    demo, paper = Plan({**config, "study": "demo"}), Plan({**config, "study": "paper"})
    assert {demo.runs.launcher(run) for run in demo.runs.trained_runs()} == {"python"}
    own = [run for run in paper.runs.trained_runs() if not paper.runs.run(run).ablation]
    assert {paper.runs.launcher(run) for run in own} == {"python -m grace.training.launch"}
    assert paper.runs.launcher("grace.batch-1") == "python"
