"""Train one run from a backbone to a model folder, whatever its method."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from transformers import set_seed

from grace import manifest, stage
from grace.encoder.inputs import check_context, check_decoder
from grace.files import read_json, sha256
from grace.reader import TRAINING, read_training
from grace.section import UserError
from grace.specs import TrainSpec
from grace.training import hardware
from grace.training.building import build_trainer, fit, history, load, tokens
from grace.training.checkpoints import checkpoint_folder, last_checkpoint
from grace.training.download import check as check_backbone
from grace.training.kept import KeepSteps, finished
from grace.training.model_folder import save_model
from grace.training.preflight import longest, out_of_memory, too_large
from grace.training.rationales import looked_up, sample
from grace.training.rounds import train_in_rounds

log = logging.getLogger(__name__)


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
    key = "generation.max_new_tokens" if spec.generation else "evaluation.max_new_tokens"
    check_context(check_decoder(paths.backbone), spec.prompt.max_prompt_tokens, longest(spec)[1], key)
    rows = read_training(paths.rows, TRAINING[spec.data])
    check_backbone(paths.backbone, spec.prompt)  # again: a folder may have changed since it was made
    checkpoints = checkpoint_folder(paths.out, spec, sha256(paths.rows), manifest.weights_hash(paths.backbone))
    if spec.rounds or spec.offline:
        if spec.rounds:
            train = train_in_rounds
        else:
            from grace.training.best_of import train_best_of as train  # its libraries cost seconds
        made = train(spec, rows, paths.backbone, checkpoints)
        if PartialState().is_main_process:
            _save(paths.out.parent, *made.model, spec, paths, training=checkpoints.name, rows=len(rows), **made.record)
            shutil.rmtree(checkpoints, ignore_errors=True)
    else:
        _train(spec, rows, paths, checkpoints)


def _train(spec: TrainSpec, rows: list[dict[str, Any]], paths: SimpleNamespace, checkpoints: Path) -> None:
    if spec.contrastive and spec.method not in ("cl", "simcse"):
        rows = sample(rows, spec.contrastive.rows)
    rationales = None
    if spec.rationales:
        rationales = looked_up(spec.rationales, paths.backbone, rows, paths.store or checkpoints / "rationales")
    set_seed(spec.seed)
    model, tokenizer = load(paths.backbone, spec)

    def save(folder: Path, step: int) -> None:
        made = finished(trainer, model, lambda: load(paths.backbone, spec)[0])
        if made is None:
            return
        _save(
            folder, made, tokenizer, spec, paths, resumed_from=Path(resume).name if resume else None,
            training=checkpoints.name, steps=step, rows=len(rows), tokens=tokens(trainer, rationales),
            preflight=trainer.preflight.record, history=history(trainer),
        )  # fmt: skip

    trainer = build_trainer(model, tokenizer, spec, rows, checkpoints, rationales)
    kept = KeepSteps(spec.keep_steps, checkpoints, paths.out.parent, save)
    trainer.add_callback(kept)
    resume = last_checkpoint(checkpoints)
    fit(trainer, resume)
    if trainer.is_world_process_zero():
        kept.hand_over()
    save(paths.out.parent, trainer.state.global_step)
    if trainer.is_world_process_zero():
        shutil.rmtree(checkpoints, ignore_errors=True)


def _save(folder: Path, model: Any, tokenizer: Any, spec: TrainSpec, paths: SimpleNamespace, **more: Any) -> None:
    inputs = [paths.backbone, paths.rows]
    record = manifest.make("train", spec, inputs, paths.started, backbone=_origin(paths.backbone), **more)
    save_model(folder, model, tokenizer, record, prompt=spec.prompt, pooling=spec.pooling)


def _origin(backbone: Path) -> dict[str, Any] | None:
    """What a backbone's own manifest says it is: its entry in available_backbones; None without a manifest."""
    path = backbone / "manifest.json"
    return read_json(path).get("settings", {}).get("backbone") if path.exists() else None


@stage.entry(TrainSpec, inputs=("backbone", "rows"), outputs=("out", "store?"))
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
