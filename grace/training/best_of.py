"""best-of: rejection sampling instead of a policy gradient. The model writes K rationales of each row once, GRACE's
reward chooses one, and the model is fine-tuned on it: on the best, or by DPO on the best against the worst.

A round is a training of its own, with its own optimizer, schedule and checkpoints; the second starts from the model of
the first, which writes anew. A killed run goes on in the round that it was in, with the groups that it has.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import set_seed
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from grace.encoder.loading import load_causal, load_tokenizer
from grace.encoder.sampling import text_key
from grace.encoder.saved import filling
from grace.files import read_json, write_json
from grace.method.prompt import PromptTemplate
from grace.section import UserError
from grace.specs import TrainSpec
from grace.training import groups, sharding
from grace.training.building import build_trainer, fit, history, load, tokens
from grace.training.checkpoints import last_checkpoint
from grace.training.kept import finished
from grace.training.rationales import sample
from grace.training.rounds import Row, Trained

log = logging.getLogger(__name__)
MODEL, RECORD, GROUPS = "model", "record.json", "groups"  # in a round's folder


class BestTrainer(SFTTrainer):
    def longest(self, rows: int, length: int, new: int) -> dict[str, Any]:
        """A batch of `rows` rows of `length` tokens, all of them in the loss."""
        ids = _numbers(self, length)
        return self.data_collator([{"input_ids": ids, "labels": ids}] * rows)


class PairTrainer(DPOTrainer):
    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # of tokens; TRL would make them of text

    def longest(self, rows: int, length: int, new: int) -> dict[str, Any]:
        """A batch of `rows` pairs of `length` tokens, the last `new` of them a rationale's."""
        ids = _numbers(self, length)
        said = ids[length - new :]
        return self.data_collator(
            [{"prompt_ids": ids[: length - new], "chosen_ids": said, "rejected_ids": said}] * rows
        )


def _numbers(trainer: Any, length: int) -> list[int]:
    return [i % trainer.model.config.get_text_config().vocab_size for i in range(length)]


def trainer_of(
    model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, list[int]]], output_dir: str, **kwargs: Any
) -> SFTTrainer | DPOTrainer:
    """TRL's trainer of a round.

    Args:
        rows: of `groups.examples`.
    """
    assert spec.offline is not None
    o, cuda = spec.offline, torch.cuda.is_available()
    common: dict[str, Any] = dict(
        output_dir=output_dir,
        per_device_train_batch_size=o.rows_per_forward,
        gradient_accumulation_steps=o.batch_size // (o.processes * o.rows_per_forward),
        num_train_epochs=o.epochs,
        learning_rate=o.learning_rate,
        lr_scheduler_type="linear",
        bf16=o.precision == "bf16",
        use_cpu=not cuda,
        gradient_checkpointing=o.gradient_checkpointing,
        max_length=None,  # prompts are cut by `prompt`, rationales by `generation`
        include_num_input_tokens_seen="non_padding",
        save_strategy="steps",
        save_steps=o.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,  # as in `grace.training.arguments`
        report_to=[],
        seed=spec.seed,
        dataloader_pin_memory=cuda,
    )
    given: dict[str, Any] = dict(train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **kwargs)
    if o.objective == "sft":
        args: Any = SFTConfig(**common)
        sharding.configure(args, model)
        return BestTrainer(model, args=args, **given)
    args = DPOConfig(**common, beta=o.beta)
    sharding.configure(args, model)
    # Given one, TRL takes no copy of an adapter as reference, which would be saved with it.
    return PairTrainer(model, ref_model=load_causal(model.name_or_path, torch.float32), args=args, **given)


def train_best_of(spec: TrainSpec, rows: list[Row], backbone: Path, checkpoints: Path) -> Trained:
    """Train all rounds, or what a killed run has left; every process calls this.

    Raises:
        UserError: when there are fewer rows than are scored together, or no group has a rationale to learn from.
    """
    assert spec.offline is not None
    folders = [checkpoints / f"round{number}" for number in range(spec.offline.rounds)]
    resumed, start = _resumed(folders), backbone
    for number, folder in enumerate(folders):
        if not (folder / RECORD).exists():
            _train(number, spec, rows, start, folder)
        start = folder / MODEL
    records = [read_json(folder / RECORD) for folder in folders]
    record = {
        "resumed_from": resumed,
        "steps": sum(one["steps"] for one in records),
        "tokens": {name: sum(one["tokens"][name] for one in records) for name in ("read", "written")},
        "history": [entry for one in records for entry in one["history"]],
        "preflight": {folder.name: one["preflight"] for folder, one in zip(folders, records, strict=True)},
    }
    return Trained((load_causal(start, torch.float32), load_tokenizer(backbone)), record)


def _resumed(folders: list[Path]) -> str | None:
    """What a killed run has left: a checkpoint, groups or a whole round, the last of them."""
    for folder in reversed(folders):
        if (folder / RECORD).exists():
            return folder.name
        if found := last_checkpoint(folder):
            return f"{folder.name}/{Path(found).name}"
        if (folder / GROUPS).exists():
            return f"{folder.name}/{GROUPS}"
    return None


def _train(number: int, spec: TrainSpec, rows: list[Row], backbone: Path, folder: Path) -> None:
    assert spec.offline is not None and spec.generation is not None
    log.info("round %d of %d", number + 1, spec.offline.rounds)
    part = spec.model_copy(update={"seed": text_key(spec.seed, number, "best-of") % (1 << 31)})
    found = groups.write(part, sample(rows, spec.offline.rows, number), backbone, folder / GROUPS)
    known = groups.summary(found)
    log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in known.items()))
    set_seed(part.seed)
    model, tokenizer = load(backbone, part)
    template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
    taught = groups.examples(found, template, spec.offline.objective)
    if not taught:
        form = " in the form that reward.form asks for" if spec.reward and spec.reward.form else ""
        raise UserError(
            f"config: offline: of {len(found)} groups none has a rationale that ended within generation.max_new_tokens "
            f"({spec.generation.max_new_tokens}){form}, so there is nothing to learn from; raise the limit, or see "
            "that the backbone's eos_token is what ends its turns."
        )
    trainer = build_trainer(model, tokenizer, part, taught, folder)
    fit(trainer, last_checkpoint(folder))
    made = finished(trainer, model, lambda: load(backbone, part)[0])
    processes = PartialState()
    if processes.is_main_process:
        with filling(folder / MODEL) as temporary:
            made.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        counted = tokens(trainer, None)
        record = {
            "steps": trainer.state.global_step,
            "tokens": counted | {"written": known["tokens_written"]},
            "history": [{"round": number, **entry} for entry in (known, *history(trainer))],
            "preflight": trainer.preflight.record,
        }
        write_json(folder / RECORD, record)
    processes.wait_for_everyone()
