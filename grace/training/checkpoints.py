"""Checkpoints beside the model folder: which are whole, and which belong to these settings."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from grace.specs import TrainSpec

COMPLETE = "complete"  # written into a checkpoint once all its files are there


class MarkComplete(TrainerCallback):
    """Marks each checkpoint when it is whole; a kill while it is written leaves it unmarked.

    There is none of the last step: resumed there, the Trainer would take one step more.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes its own random state
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in `folder`; the others are removed, by the first process."""
    processes = PartialState()
    if processes.is_main_process:
        for path in folder.glob("checkpoint-*"):
            if not (path / COMPLETE).exists():
                shutil.rmtree(path)
    processes.wait_for_everyone()
    whole = sorted(folder.glob(f"checkpoint-*/{COMPLETE}"), key=lambda path: int(path.parent.name.rsplit("-", 1)[1]))
    return str(whole[-1].parent) if whole else None


def checkpoint_folder(out: Path, spec: TrainSpec, rows_hash: str, backbone_hash: str) -> Path:
    """Beside the model folder, keyed by all that decides the weights: other settings never resume these."""
    weights = spec.model_dump_json(exclude={"keep_steps": True, "grace": {"stop_without_signal": True}})
    key = hashlib.sha256(f"{weights}{rows_hash}{backbone_hash}".encode()).hexdigest()[:12]
    return out.parent.with_name(f"{out.parent.name}-checkpoints") / key
