"""Models that training leaves behind: its end, and its state at steps that an ablation looks at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from grace.section import UserError
from grace.training import lora, sharding


def finished(trainer: Any, model: Any, load: Callable[[], Any]) -> Any:
    """A copy of `model` as it is now, whole and with its adapters merged; every process has to call this.

    Args:
        load: gives a model of the same kind to copy the weights into; it may use random numbers, which training
            does not notice.

    Returns:
        None in all processes but the first.
    """
    state = sharding.full_state(trainer, model)
    if not trainer.is_world_process_zero():
        return None
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):
        copy = load()
    copy.load_state_dict(model.state_dict() if state is None else state)
    copy = lora.merged(copy)
    copy.config.attention_dropout = 0.0  # a trained model is an inference model
    return copy


class KeepSteps(TrainerCallback):
    """Saves the model after given steps.

    Args:
        steps: optimizer steps, under the training's own number.
        folder: of the training's checkpoints; a resumed training finds there what it has saved.
        save: writes the model to a folder, with its step; every process calls it.
    """

    def __init__(self, steps: list[int], folder: Path, save: Callable[[Path, int], None]) -> None:
        self.steps, self.folder, self.save = steps, folder, save

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.steps and max(self.steps) >= state.max_steps:
            raise UserError(
                f"config: ablations: step {max(self.steps)} is to be kept of a training of {state.max_steps} steps, "
                "whose end is kept anyway; lower the ablation's steps."
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        at = self.folder / f"step{state.global_step}"
        if state.global_step in self.steps and not (at / "manifest.json").exists():
            self.save(at, state.global_step)

    def hand_over(self, to: Path) -> None:
        """Move the saved models into the folder of the finished one, in place of those of an older training."""
        for old in to.glob("step*"):
            shutil.rmtree(old)
        for step in self.steps:
            to.mkdir(parents=True, exist_ok=True)
            os.replace(self.folder / f"step{step}", to / f"step{step}")
