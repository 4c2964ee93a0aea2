"""Two processes that share the weights (FSDP2, over gloo) train what one process trains, and resume exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from grace.training import launch, lora
from grace.training.run import COMPLETE, load
from tests.training.settings import LORA, contrastive_spec, grace_spec, model_of, offline_spec, taught, trainer_of

ROOT = Path(__file__).parents[2]
TWO = {"processes": 2, "sharding": "fsdp"}


def environment(spec):
    """What `accelerate launch` would set for this run."""
    arguments = launch_command_parser().parse_args([*launch.options(spec), "-m", "module"])
    arguments, _, _ = _validate_launch_command(arguments)
    return prepare_multi_gpu_env(arguments)


CASES = {
    "grace": (grace_spec, {"rollouts_per_forward": 16}),
    "grace-checkpointing": (grace_spec, {"rollouts_per_forward": 16, "gradient_checkpointing": True}),
    "grace-adapters": (grace_spec, {"rollouts_per_forward": 16, "lora": LORA, "frozen": []}),
    "cl": (contrastive_spec, {"method": "cl"}),
    "cl-cached": (contrastive_spec, {"method": "cl", "mini_batch_size": 2}),
    "cl-adapters": (contrastive_spec, {"method": "cl", "lora": LORA}),
    "best-of": (offline_spec, {"rows_per_forward": 4}),
    "best-of-dpo": (offline_spec, {"rows_per_forward": 4, "objective": "dpo", "lora": LORA}),
}
RESUMED = ["grace", "grace-adapters", "cl", "cl-adapters"]


def one(folder, out, spec):
    trainer = trainer_of(folder, out, spec)
    trainer.train()
    return lora.merged(model_of(trainer)).state_dict()


@pytest.fixture(scope="module")
def two(tiny_folder, tmp_path_factory):
    """All that two processes train, by name, from one start of them: whole runs, runs that stop, and their rerun."""
    out = tmp_path_factory.mktemp("two")
    jobs = {}

    def job(name, spec, folder, stop=None):
        jobs[name] = {"spec": spec.model_dump(), "rows": taught(spec), "folder": folder, "stop": stop}

    for name, (make, settings) in CASES.items():
        job(name, make(**settings, **TWO, save_steps=9), name)
    make, settings = CASES["cl"]
    job("cl-bf16", make(**settings, **TWO, precision="bf16", save_steps=9), "cl-bf16")
    for name in RESUMED:
        make, settings = CASES[name]
        spec = make(**settings, **TWO, save_steps=1, max_steps=4, epochs=2.0)
        job(f"{name}-whole", spec, f"{name}-whole")
        job(f"{name}-stopped", spec, f"{name}-again", stop=3)
        job(f"{name}-resumed", spec, f"{name}-again")
    (out / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.training.sharded", str(tiny_folder), str(out), str(out / "jobs.json")]
    done = subprocess.run(
        command, cwd=ROOT, env={**environment(spec), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_shards_equal_one_process(tiny_folder, tmp_path, two, case):
    make, settings = CASES[case]
    whole = one(tiny_folder, tmp_path, make(**settings, save_steps=9))
    before = load(tiny_folder, grace_spec())[0].state_dict()
    shared = torch.load(two / f"{case}.pt")
    assert whole.keys() == shared.keys()
    assert max((whole[name] - before[name]).abs().max().item() for name in whole) > 1e-4
    for name in whole:
        torch.testing.assert_close(shared[name], whole[name], atol=2e-5, rtol=0)  # of steps of 1e-3


@pytest.mark.parametrize("case", RESUMED)
def test_resume_is_exact(two, case):
    """Stopped in the second epoch."""
    assert (two / f"{case}-again/checkpoint-3" / COMPLETE).exists() and not (two / f"{case}-stopped.pt").exists()
    whole, again = torch.load(two / f"{case}-whole.pt"), torch.load(two / f"{case}-resumed.pt")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_bf16_arithmetic_keeps_float32_weights(tiny_folder, tmp_path, two):
    """The weights take the step that float32 takes, up to rounding, and are not rounded to bf16 themselves."""
    make, settings = CASES["cl"]
    whole = one(tiny_folder, tmp_path, make(**settings, save_steps=9))
    before = load(tiny_folder, grace_spec())[0].state_dict()
    shared = torch.load(two / "cl-bf16.pt")
    assert all(value.dtype == torch.float32 for value in shared.values())
    assert any(not torch.equal(shared[name], shared[name].bfloat16().float()) for name in shared)
    steps = [torch.cat([(after[name] - before[name]).flatten() for name in before]) for after in (shared, whole)]
    likeness = torch.cosine_similarity(*steps, dim=0)
    print(f"cosine of the two steps: {likeness:.4f}")
    assert likeness > 0.9


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_profile_means_what_it_says(monkeypatch, precision):
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    spec = grace_spec(processes=4, instances=8, rollouts_per_forward=8, sharding="fsdp", precision=precision)
    found = environment(spec)
    assert found["ACCELERATE_USE_FSDP"] == "true"
    assert found["ACCELERATE_MIXED_PRECISION"] == {"bf16": "bf16", "fp32": "no"}[precision]
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    assert not plugin.activation_checkpointing and not plugin.cpu_ram_efficient_loading
    assert os.environ.get("FSDP_OFFLOAD_PARAMS") == "false"


def test_arguments_of_a_sharded_run(tiny_folder, monkeypatch, tmp_path):
    from grace.training.hardware import configure_sharding
    from grace.training.trainer import grpo_config

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    spec = grace_spec(precision="bf16")
    args = grpo_config(spec, str(tmp_path), 16)
    args._n_gpu = 4  # what the Trainer finds on a machine with four
    configure_sharding(args, load(tiny_folder, spec)[0])
    assert args.n_gpu == 1 and args.train_batch_size == args.per_device_train_batch_size
    assert os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "Qwen2DecoderLayer"
    policy = args.fsdp_plugin_args["mixed_precision_policy"]
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (
        torch.bfloat16, torch.float32, torch.float32,
    )  # fmt: skip
    monkeypatch.delenv("FSDP_TRANSFORMER_CLS_TO_WRAP")
