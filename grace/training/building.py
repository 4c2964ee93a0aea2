"""A run's model and trainer, built and trained; `train` and `rounds` save what comes out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from grace.encoder.loading import load_causal
from grace.specs import TrainSpec
from grace.training import hardware, lora
from grace.training.checkpoints import MarkComplete
from grace.training.finite import Finite
from grace.training.preflight import Preflight
from grace.training.rationales import Rationales

log = logging.getLogger(__name__)


def load(backbone: Path, spec: TrainSpec) -> tuple[Any, Any]:
    """The backbone in float32 (master weights; `precision` decides the arithmetic), with adapters if the run
    trains those, and its tokenizer."""
    dropout = spec.contrastive.dropout if spec.contrastive else 0.0
    model = load_causal(backbone, torch.float32, attention_dropout=dropout)
    tokenizer = AutoTokenizer.from_pretrained(backbone, padding_side="left", trust_remote_code=False)
    return lora.add_all(model, spec), tokenizer


def build_trainer(
    model: Any,
    tokenizer: Any,
    spec: TrainSpec,
    rows: list[dict[str, Any]],
    folder: Path,
    rationales: Rationales | None = None,
) -> Any:
    """The method's trainer, with its preflight; libraries are imported here because each costs seconds."""
    preflight = Preflight(spec)
    callbacks = [MarkComplete(), Finite(hardware.section(spec)[0]), preflight]
    if spec.method == "grace":
        from grace.training.arguments import grpo_config
        from grace.training.trainer import GraceTrainer

        args = grpo_config(spec, str(folder), len(rows))
        trainer: Any = GraceTrainer(model, tokenizer, spec, rows, args, callbacks=callbacks)
    elif spec.method == "best-of":
        from grace.training.best_of import trainer_of

        trainer = trainer_of(model, tokenizer, spec, rows, str(folder), callbacks=callbacks)
    else:
        from grace.training.contrastive import contrastive_trainer

        trainer = contrastive_trainer(model, tokenizer, spec, rows, str(folder), rationales, callbacks=callbacks)
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


def history(trainer: Any) -> list[dict[str, Any]]:
    """What a trainer has logged, as far as it is numbers; what is none is null."""
    logged = [{k: v for k, v in entry.items() if isinstance(v, int | float)} for entry in trainer.state.log_history]
    return json.loads(json.dumps(logged), parse_constant=lambda _: None)


def tokens(trainer: Any, rationales: Rationales | None) -> dict[str, int]:
    """What a training has cost so far in tokens, also before it was resumed, over all processes.

    read: of the sequences that were trained on, without padding; a pass without gradients is not counted.
    written: of rationales that were sampled for it: the rollouts and anchors of GRACE, and those of the backbone that a
        contrastive training learns from, though other trainings may read them too.
    """
    sampled = sum(int(entry.get("tokens_written", 0)) for entry in trainer.state.log_history)
    written = sampled + (len(rationales.tokens) if rationales else 0)
    return {"read": int(trainer.state.num_input_tokens_seen), "written": written}
