"""Models that training leaves behind: its end, and its state at steps that an ablation looks at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from grace.files import read_json
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
        folder: of the training's checkpoints; its name is the training's key.
        to: folder of the finished model, where `hand_over` puts them.
        save: writes the model to a folder, with its step; every process calls it.
    """

    def __init__(self, steps: list[int], folder: Path, to: Path, save: Callable[[Path, int], None]) -> None:
        self.steps, self.folder, self.to, self.save = steps, folder, to, save

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.steps and max(self.steps) >= state.max_steps:
            raise UserError(
                f"config: ablations: step {max(self.steps)} is to be kept of a training of {state.max_steps} steps, "
                "whose end is kept anyway; lower the ablation's steps."
            )
        passed = [step for step in self.steps if step <= state.global_step and not self._saved(step)]
        if passed:
            raise UserError(
                f"{self.folder}: the training that would be resumed has passed step {passed[0]} without keeping it; "
                "take the step out of the ablation, or delete this folder to train anew."
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if step in self.steps and not self._saved(step):
            self.save(self.folder / f"step{step}", step)

    def _saved(self, step: int) -> bool:
        """Whether this training has saved the step, and perhaps handed it over before it was killed."""
        found = [at / f"step{step}/manifest.json" for at in (self.folder, self.to)]
        return any(path.exists() and read_json(path).get("training") == self.folder.name for path in found)

    def hand_over(self) -> None:
        """Move the saved models into the folder of the finished one, in place of those of an older training."""
        for old in self.to.glob("step*"):
            if not any(old.name == f"step{step}" for step in self.steps):
                shutil.rmtree(old)
        for step in self.steps:
            source, target = self.folder / f"step{step}", self.to / f"step{step}"
            if source.exists():  # else it is there already
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, target)
