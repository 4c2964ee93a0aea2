"""Train one run from a backbone to a model folder, whatever its method."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.encoder.loading import check_context, check_decoder
from grace.jobs import manifest, stage
from grace.jobs.files import sha256
from grace.jobs.reader import TRAINING, read_training
from grace.training import hardware
from grace.training.download import check as check_backbone
from grace.training.preflight import longest, out_of_memory, too_large
from grace.training.run import checkpoint_folder, train_and_save

# Methods that the paper does not have, and the modules whose `train` trains them.
BEYOND = {
    "adapter": "grace.beyond.adapter",
    "kl_fence": "grace.beyond.kl_regulariser",
    "adapter+grace": "grace.beyond.rounds",
    "best-of": "grace.beyond.best_of",
}


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
    if spec.method in BEYOND:
        importlib.import_module(BEYOND[spec.method]).train(spec, rows, paths, checkpoints)
    else:
        _train(spec, rows, paths, checkpoints)


def _train(spec: TrainSpec, rows: list[dict[str, Any]], paths: SimpleNamespace, checkpoints: Path) -> None:
    """The paper's methods; each is imported when it is asked for, as its libraries cost seconds."""
    if spec.method == "grace":
        from grace.training.trainer import grace_trainer as make
    else:
        from grace.training.contrastive import ContrastiveTrainer as make  # type: ignore[assignment]
    train_and_save(make, spec, rows, paths, checkpoints)


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
