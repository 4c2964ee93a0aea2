"""FSDP2: how it computes, and how one process gets at all the weights that are spread over several."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor


def configure(args: Any, model: Any) -> None:
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


def hollow(model: Any) -> Any:
    """A copy of `model` without weights, for `filled`. Taken before the model is sharded."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, empty).eval()  # deepcopy's memo: what counts as copied


@contextmanager
def filled(shell: Any, model: Any, dtype: torch.dtype, device: torch.device) -> Iterator[Any]:
    """Give the `hollow` copy all weights of the sharded `model` for a while.

    Rationales end at different lengths on different processes. A sharded model gathers each layer's weights
    anew at every token, together, so one process would wait for ever for another that is done.
    """
    live = dict(model.named_parameters(remove_duplicate=False))
    made: dict[int, nn.Parameter] = {}  # tied weights are gathered once
    held: list[tuple[dict[str, Any], str, Any]] = []
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
                held.append((module._parameters, name, value))
                module._parameters[name] = made[id(source)]
            for name, value in module._buffers.items():
                module._buffers[name] = None if value is None else value.to(device)
        yield shell
    finally:
        for parameters, name, value in held:
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
