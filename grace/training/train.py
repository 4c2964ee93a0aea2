"""Train one run: GRACE, CL or SimCSE, from a backbone to an ordinary model folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from grace import manifest, stage
from grace.files import read_json, read_jsonl, sha256
from grace.section import UserError
from grace.specs import TrainSpec
from grace.training import hardware, lora
from grace.training.checkpoints import MarkComplete, checkpoint_folder, last_checkpoint
from grace.training.kept import KeepSteps, finished
from grace.training.model_folder import save_model
from grace.training.preflight import Preflight, out_of_memory, too_large

log = logging.getLogger(__name__)


def load(backbone: Path, spec: TrainSpec) -> tuple[Any, Any]:
    """The backbone in float32 (master weights; `precision` decides the arithmetic), with adapters if the run
    trains those, and its tokenizer."""
    name, at = hardware.section(spec)
    dropout = spec.contrastive.dropout if spec.contrastive else 0.0
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype="float32", attention_dropout=dropout)
    if at.lora:
        model = lora.add(model, at.lora, name)
    return model, AutoTokenizer.from_pretrained(backbone, padding_side="left")


def build_trainer(model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, Any]], folder: Path) -> Any:
    """The method's trainer, with its preflight; libraries are imported here because each costs seconds."""
    preflight = Preflight(spec)
    callbacks = [MarkComplete(), preflight]
    if spec.method == "grace":
        from grace.training.arguments import grpo_config
        from grace.training.trainer import GraceTrainer

        args = grpo_config(spec, str(folder), len(rows))
        trainer: Any = GraceTrainer(model, tokenizer, spec, rows, args, callbacks=callbacks)
    else:
        from grace.training.baselines import contrastive_trainer

        trainer = contrastive_trainer(model, tokenizer, spec, rows, str(folder), callbacks=callbacks)
    preflight.trainer = trainer
    trainer.preflight = preflight
    return trainer


def run(spec: TrainSpec, paths: SimpleNamespace) -> None:
    """Train and save. Of several processes, each runs this; the first saves."""
    hardware.check(spec)
    name, at = hardware.section(spec)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes != at.processes:
        raise UserError(
            f"config: {name}.processes: {at.processes} are configured but {processes} were started; "
            "start the workflow's command, or correct the key."
        )
    if processes > 1:
        torch.set_num_threads(max(1, paths.threads // processes))
    fields = ("query", "positive") if spec.data == "supervised" else ("text",)
    rows = list(read_jsonl(paths.rows, need=fields))
    if not rows:
        raise UserError(f"{paths.rows}: no rows to train on.")
    checkpoints = checkpoint_folder(paths.out, spec, sha256(paths.rows), manifest.weights_hash(paths.backbone))
    set_seed(spec.seed)
    model, tokenizer = load(paths.backbone, spec)

    def save(folder: Path, step: int) -> None:
        made = finished(trainer, model, lambda: load(paths.backbone, spec)[0])
        if made is None:
            return
        logged = [{k: v for k, v in entry.items() if isinstance(v, int | float)} for entry in trainer.state.log_history]
        record = manifest.make(
            "train", spec, [paths.backbone, paths.rows], paths.started, backbone=_origin(paths.backbone),
            resumed_from=Path(resume).name if resume else None, training=checkpoints.name, steps=step, rows=len(rows),
            preflight=trainer.preflight.record, history=json.loads(json.dumps(logged).replace("NaN", "null")),
        )  # fmt: skip
        save_model(folder, made, tokenizer, record, prompt=spec.prompt, pooling=spec.pooling)

    trainer = build_trainer(model, tokenizer, spec, rows, checkpoints)
    kept = KeepSteps(spec.keep_steps, checkpoints, paths.out.parent, save)
    trainer.add_callback(kept)
    resume = last_checkpoint(checkpoints)
    if resume:
        log.info("resuming from %s", resume)
    try:
        trainer.train(resume_from_checkpoint=resume)
    finally:  # an error's sentence starts a line of its own
        for callback in trainer.callback_handler.callbacks:
            if bar := getattr(callback, "training_bar", None):
                bar.close()
    if trainer.is_world_process_zero():
        kept.hand_over()
    save(paths.out.parent, trainer.state.global_step)
    if trainer.is_world_process_zero():
        shutil.rmtree(checkpoints, ignore_errors=True)


def _origin(backbone: Path) -> dict[str, Any] | None:
    """What a backbone's own manifest says it is: its entry in available_backbones; None without a manifest."""
    path = backbone / "manifest.json"
    return read_json(path).get("settings", {}).get("backbone") if path.exists() else None


@stage.entry(TrainSpec, inputs=("backbone", "rows"), outputs=("out",))
def main(spec: TrainSpec, paths: SimpleNamespace) -> None:
    try:
        try:
            run(spec, paths)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if out_of_memory(error):
                raise too_large(spec, str(error)) from None
            if "inline_container" in str(error):  # how torch.save words any failure to write
                raise UserError(
                    f"{paths.out.parent}: a checkpoint could not be written, the disk is full or a limit is reached; "
                    "free space and rerun, the last whole checkpoint is kept."
                ) from None
            raise
    except UserError as error:
        if "TORCHELASTIC_ERROR_FILE" not in os.environ:
            raise
        # One of several processes: `launch` says it once for all of them.
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
