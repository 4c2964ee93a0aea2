"""Train one run: GRACE, CL or SimCSE, from a backbone to an ordinary model folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed

from grace import manifest, stage
from grace.files import read_jsonl, sha256
from grace.section import UserError
from grace.specs import TrainSpec
from grace.training.model_folder import save_model

log = logging.getLogger(__name__)

COMPLETE = "complete"  # written into a checkpoint once all its files are there


class MarkComplete(TrainerCallback):
    """Marks each checkpoint when it is whole; a kill while it is written leaves it unmarked."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in `folder`; the others are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    for path in found:
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
    whole = [path for path in found if (path / COMPLETE).exists()]
    return str(whole[-1]) if whole else None


def checkpoint_folder(out: Path, spec: TrainSpec, rows_hash: str, backbone_hash: str) -> Path:
    """Beside the model folder, keyed by all that decides the weights: other settings never resume these."""
    import hashlib

    key = hashlib.sha256(f"{spec.model_dump_json()}{rows_hash}{backbone_hash}".encode()).hexdigest()[:12]
    return out.parent.with_name(f"{out.parent.name}-checkpoints") / key


def load(backbone: Path, spec: TrainSpec) -> tuple[Any, Any]:
    """The backbone in float32 (master weights; `precision` decides the arithmetic) and its tokenizer."""
    dropout = spec.contrastive.dropout if spec.contrastive else 0.0
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype="float32", attention_dropout=dropout)
    return model, AutoTokenizer.from_pretrained(backbone, padding_side="left")


def build_trainer(model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, Any]], folder: Path) -> Any:
    """The method's trainer; libraries are imported here because each costs seconds."""
    if spec.method == "grace":
        from grace.training.arguments import grpo_config
        from grace.training.trainer import GraceTrainer

        args = grpo_config(spec, str(folder), len(rows))
        return GraceTrainer(model, tokenizer, spec, rows, args, callbacks=[MarkComplete()])
    from grace.training.baselines import contrastive_trainer

    return contrastive_trainer(model, tokenizer, spec, rows, str(folder))


@stage.entry(TrainSpec, inputs=("backbone", "rows"), outputs=("out",))
def main(spec: TrainSpec, paths: SimpleNamespace) -> None:
    fields = ("query", "positive") if spec.data == "supervised" else ("text",)
    rows = list(read_jsonl(paths.rows, need=fields))
    if not rows:
        raise UserError(f"{paths.rows}: no rows to train on.")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if spec.grace and processes != spec.grace.processes:
        raise UserError(
            f"config: grace.processes: {spec.grace.processes} are configured but {processes} were started; "
            "start the workflow's command, or correct the key."
        )
    backbone_hash = manifest.weights_hash(paths.backbone)
    checkpoints = checkpoint_folder(paths.out, spec, sha256(paths.rows), backbone_hash)
    set_seed(spec.seed)
    model, tokenizer = load(paths.backbone, spec)
    trainer = build_trainer(model, tokenizer, spec, rows, checkpoints)
    resume = last_checkpoint(checkpoints) if checkpoints.exists() else None
    if resume:
        log.info("resuming from %s", resume)
    trainer.train(resume_from_checkpoint=resume)
    if not trainer.is_world_process_zero():
        return
    model.config.attention_dropout = 0.0  # a trained model is an inference model
    history = [{k: v for k, v in entry.items() if isinstance(v, int | float)} for entry in trainer.state.log_history]
    record = manifest.make(
        "train", spec, [paths.backbone, paths.rows], paths.started,
        resumed_from=Path(resume).name if resume else None, steps=trainer.state.global_step, rows=len(rows),
        history=json.loads(json.dumps(history).replace("NaN", "null")),
    )  # fmt: skip
    save_model(paths.out.parent, model, tokenizer, record, prompt=spec.prompt, pooling=spec.pooling)
    shutil.rmtree(checkpoints, ignore_errors=True)


if __name__ == "__main__":
    main()
