"""What all trainings share: the model, the callbacks, checkpoints that resume, and what is saved at the end."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import AutoTokenizer, TrainerCallback, set_seed

from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.encoder.loading import load_causal
from grace.jobs import manifest
from grace.jobs.files import read_json
from grace.training import hardware, lora
from grace.training.model_folder import save_model
from grace.training.preflight import Preflight

log = logging.getLogger(__name__)

COMPLETE = "complete"  # written into a checkpoint once all its files are there


def load(backbone: Path, spec: TrainSpec) -> tuple[Any, Any]:
    """The backbone in float32 (`precision` is of the arithmetic alone), with the run's adapters if it trains any, and
    its tokenizer."""
    dropout = spec.contrastive.dropout if spec.contrastive else 0.0
    model = load_causal(backbone, torch.float32, attention_dropout=dropout)
    tokenizer = AutoTokenizer.from_pretrained(backbone, padding_side="left", trust_remote_code=False)
    return lora.add_all(model, spec), tokenizer


def trainer_arguments(spec: TrainSpec, output_dir: str) -> dict[str, Any]:
    """The arguments that the Trainers of all methods have in common."""
    _, at = hardware.section(spec)
    cuda = torch.cuda.is_available()
    return {
        "output_dir": output_dir,
        "num_train_epochs": at.epochs,
        "learning_rate": at.learning_rate,
        "bf16": at.precision == "bf16",
        "use_cpu": not cuda,
        "save_strategy": "steps",
        "save_steps": at.save_steps,
        "save_total_limit": 2,
        "logging_nan_inf_filter": False,  # a loss that is not finite stops the training
        "report_to": [],
        "seed": spec.seed,
        "dataloader_pin_memory": cuda,
    }


def check_negatives(rows: list[dict[str, Any]]) -> None:
    """Raises: UserError when rows disagree in their number of negatives."""
    counts = {len(row.get("negatives") or []) for row in rows}
    if len(counts) > 1:
        raise UserError(
            f"the triples have between {min(counts)} and {max(counts)} negatives; give all the same number."
        )


# ---- finite numbers ---------------------------------------------------------------------


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are, by the norm over them; of sharded tensors every process has to ask."""
    norm = get_total_norm([tensor.detach() for tensor in tensors])
    return bool((norm.full_tensor() if isinstance(norm, DTensor) else norm).isfinite())


def check_finite(what: str, tensors: Iterable[Tensor], section: str, step: int) -> None:
    """Raises: UserError when a number of `tensors`, which are `what`, is not finite; `section` of config.yaml has the
    learning rate, `step` is the optimizer's, from 1."""
    if not finite(tensors):
        raise UserError(
            f"{section}: step {step}: {what} is not a finite number, so the training stops and saves nothing more (its "
            f"last checkpoint is kept); lower {section}.learning_rate, or look for extreme settings, rows or weights."
        )


class FiniteNumbers(TrainerCallback):
    """Checks all weights before a training, and the trained ones after each step, before any is saved.

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
        check_finite("a gradient or a weight", trained, self.section, state.global_step)


# ---- checkpoints ------------------------------------------------------------------------


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


class KeepSteps(TrainerCallback):
    """Saves the model after given optimizer steps, for ablations, among the checkpoints in `folder`, whose name is the
    training's key. `move` takes them to the finished model in `to`. Every process calls `save`(folder, step)."""

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
        """Whether this training has saved the step, and perhaps moved it before it was killed."""
        found = [at / f"step{step}/manifest.json" for at in (self.folder, self.to)]
        return any(path.exists() and read_json(path).get("training") == self.folder.name for path in found)

    def move(self) -> None:
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


# ---- one training -----------------------------------------------------------------------


def build_trainer(
    make: Callable[..., Any],
    model: Any,
    tokenizer: Any,
    spec: TrainSpec,
    rows: list[dict[str, Any]],
    folder: Path,
    **more: Any,
) -> Any:
    """The trainer of `make`, a method's own, with the callbacks of every training; `folder` is of its checkpoints."""
    preflight = Preflight(spec)
    callbacks = [MarkComplete(), FiniteNumbers(hardware.section(spec)[0]), preflight]
    trainer = make(model, tokenizer, spec, rows, str(folder), callbacks=callbacks, **more)
    preflight.trainer = trainer
    trainer.preflight = preflight
    return trainer


def fit(trainer: Any, resume: str | None) -> None:
    """Train, from the checkpoint `resume` on if there is one."""
    if resume:
        log.info("resuming from %s", resume)
    try:
        trainer.train(resume_from_checkpoint=resume)
    finally:  # an error's sentence starts a line of its own
        for callback in trainer.callback_handler.callbacks:
            if bar := getattr(callback, "training_bar", None):
                bar.close()


def finished(trainer: Any, model: Any, load: Callable[[], Any]) -> Any:
    """A copy of `model` as it is now, whole and with its adapters merged, in a new model of `load`; the random state
    stays. Every process has to call this; all but the first get None."""
    state = hardware.full_state(trainer, model)
    if not trainer.is_world_process_zero():
        return None
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        copy = load()
    copy.load_state_dict(model.state_dict() if state is None else state)
    copy = lora.merged(copy)
    copy.config.attention_dropout = 0.0  # a trained model is an inference model
    return copy


def history(trainer: Any) -> list[dict[str, Any]]:
    """The numbers that a trainer has logged; one that is not finite is null."""
    logged = [{k: v for k, v in entry.items() if isinstance(v, int | float)} for entry in trainer.state.log_history]
    return json.loads(json.dumps(logged), parse_constant=lambda _: None)


def tokens(trainer: Any, rationales: Any = None) -> dict[str, int]:
    """Tokens that a training has read and written so far, also before it was resumed, over all processes.

    read: of the sequences that were trained on, without padding; a pass without gradients is not counted.
    written: of rationales that were sampled for it: the rollouts and anchors of GRACE, and `rationales` of the backbone
        that a training learns from, though other trainings may read them too.
    """
    sampled = sum(int(entry.get("tokens_written", 0)) for entry in trainer.state.log_history)
    written = sampled + (len(rationales.tokens) if rationales else 0)
    return {"read": int(trainer.state.num_input_tokens_seen), "written": written}


def save(folder: Path, model: Any, tokenizer: Any, spec: TrainSpec, paths: SimpleNamespace, **more: Any) -> None:
    """Save a run's model with its manifest, which has `more` too."""
    origin = paths.backbone / "manifest.json"
    entry = read_json(origin).get("settings", {}).get("backbone") if origin.exists() else None
    inputs = [paths.backbone, paths.rows]
    record = manifest.make("train", spec, inputs, paths.started, backbone=entry, **more)
    save_model(folder, model, tokenizer, record, prompt=spec.prompt, pooling=spec.pooling)


def train_and_save(
    make: Callable[..., Any],
    spec: TrainSpec,
    rows: list[dict[str, Any]],
    paths: SimpleNamespace,
    checkpoints: Path,
    rationales: Any = None,
) -> None:
    """One training from its start or last checkpoint to the saved model; every process calls this."""
    set_seed(spec.seed)
    model, tokenizer = load(paths.backbone, spec)

    def save_step(folder: Path, step: int) -> None:
        made = finished(trainer, model, lambda: load(paths.backbone, spec)[0])
        if made is None:
            return
        save(
            folder,
            made,
            tokenizer,
            spec,
            paths,
            resumed_from=Path(resume).name if resume else None,
            training=checkpoints.name,
            steps=step,
            rows=len(rows),
            tokens=tokens(trainer, rationales),
            preflight=trainer.preflight.record,
            history=history(trainer),
        )

    more = {} if rationales is None else {"rationales": rationales}
    trainer = build_trainer(make, model, tokenizer, spec, rows, checkpoints, **more)
    kept = KeepSteps(spec.keep_steps, checkpoints, paths.out.parent, save_step)
    trainer.add_callback(kept)
    resume = last_checkpoint(checkpoints)
    fit(trainer, resume)
    if trainer.is_world_process_zero():
        kept.move()
    save_step(paths.out.parent, trainer.state.global_step)
    if trainer.is_world_process_zero():
        shutil.rmtree(checkpoints, ignore_errors=True)
