"""A training stops at the first number that is not finite: nothing that comes of it is saved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import TrainerCallback

from grace.section import UserError


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are, by the norm over them; of sharded tensors every process has to ask."""
    norm = get_total_norm([tensor.detach() for tensor in tensors])
    return bool((norm.full_tensor() if isinstance(norm, DTensor) else norm).isfinite())


def check(what: str, tensors: Iterable[Tensor], section: str, step: int) -> None:
    """Raises: UserError when a number of `tensors` is not finite.

    Args:
        what: they are, for the message.
        section: of config.yaml that has the learning rate.
        step: the optimizer step that they belong to, from 1.
    """
    if not finite(tensors):
        raise UserError(
            f"{section}: step {step}: {what} is not a finite number, so the training stops and saves nothing more (its "
            f"last checkpoint is kept); lower {section}.learning_rate, or look for extreme settings, rows or weights."
        )


class Finite(TrainerCallback):
    """Checks all weights before a training, and those that are trained after each step, before any is saved.

    A loss or gradient that is not finite makes weights that are not, in all processes alike.
    """

    def __init__(self, section: str) -> None:
        self.section = section

    @torch.no_grad()
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not finite(model.parameters()):
            raise UserError("the backbone has weights that are not finite numbers; fetch or train it again.")

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        trained = (p for p in model.parameters() if p.requires_grad)
        check("a gradient or a weight", trained, self.section, state.global_step)
