"""best-of: rejection sampling instead of a policy gradient. The model writes K rationales of each row once, GRACE's
reward chooses one, and the model is fine-tuned on it: on the best, or by DPO on the best against the worst.

A round is a training of its own, with its own optimizer, schedule and checkpoints; the second starts from the model of
the first, which writes anew. In a round's folder each batch of `instances` groups, which are scored together as in a
generation of GRACE, is one file, `groups/000000.jsonl` and so on; of each row its id; `text`; `token_ids` [K], with the
end token where it was reached; `truncated` and `failed` [K]; `rewards` [K]; `dealt` [K], by which one is chosen: the
rewards, or what the control deals; `tokens`, all that was written for it. A killed run resumes in its round, with the
groups that it has; those that are missing are the same ones, whichever process writes them.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from tqdm import tqdm
from transformers import set_seed
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.encoder import reads
from grace.encoder.engines import forward
from grace.encoder.engines import transformers as engine
from grace.encoder.loading import load_causal, load_model, load_tokenizer
from grace.encoder.sampling import text_key
from grace.encoder.saved import filling
from grace.jobs.files import read_json, write_json, write_jsonl
from grace.jobs.reader import read_jsonl
from grace.method.advantages import within_group_deviation
from grace.method.prompt import PromptTemplate
from grace.method.rewards import compute_rewards
from grace.training import hardware
from grace.training.rationales import WAIT, sample
from grace.training.run import (
    build_trainer,
    check_finite,
    finished,
    fit,
    history,
    last_checkpoint,
    load,
    save,
    tokens,
    trainer_arguments,
)
from grace.training.trainer import Embeddings, exchanged, failures, requests, training_set

log = logging.getLogger(__name__)
MODEL, RECORD, GROUPS = "model", "record.json", "groups"  # in a round's folder
Row = dict[str, Any]
Group = dict[str, Any]


# ---- rounds -----------------------------------------------------------------------------


def train(spec: TrainSpec, rows: list[Row], paths: SimpleNamespace, checkpoints: Path) -> None:
    """Train all rounds, or what a killed run has left, and save; every process calls this.

    Raises:
        UserError: when there are fewer rows than are scored together, or no group has a rationale to learn from.
    """
    assert spec.offline is not None
    folders = [checkpoints / f"round{number}" for number in range(spec.offline.rounds)]
    resumed, start = _resumed(folders), paths.backbone
    for number, folder in enumerate(folders):
        if not (folder / RECORD).exists():
            _train(number, spec, rows, start, folder)
        start = folder / MODEL
    records = [read_json(folder / RECORD) for folder in folders]
    model, tokenizer = load_causal(start, torch.float32), load_tokenizer(paths.backbone)
    if PartialState().is_main_process:
        save(
            paths.out.parent,
            model,
            tokenizer,
            spec,
            paths,
            training=checkpoints.name,
            rows=len(rows),
            resumed_from=resumed,
            steps=sum(one["steps"] for one in records),
            tokens={name: sum(one["tokens"][name] for one in records) for name in ("read", "written")},
            history=[entry for one in records for entry in one["history"]],
            preflight={folder.name: one["preflight"] for folder, one in zip(folders, records, strict=True)},
        )
        shutil.rmtree(checkpoints, ignore_errors=True)


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
    groups = write_groups(part, sample(rows, spec.offline.rows, number), backbone, folder / GROUPS)
    known = summary(groups)
    log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in known.items()))
    set_seed(part.seed)
    model, tokenizer = load(backbone, part)
    template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
    taught = examples(groups, template, spec.offline.objective)
    if not taught:
        form = " in the form that reward.form asks for" if spec.reward and spec.reward.form else ""
        raise UserError(
            f"config: offline: of {len(groups)} groups none has a rationale that ended within "
            f"generation.max_new_tokens ({spec.generation.max_new_tokens}){form}, so there is nothing to learn from; "
            "raise the limit, or see that the backbone's eos_token is what ends its turns."
        )
    trainer = build_trainer(best_of_trainer, model, tokenizer, part, taught, folder)
    fit(trainer, last_checkpoint(folder))
    made = finished(trainer, model, lambda: load(backbone, part)[0])
    processes = PartialState()
    if processes.is_main_process:
        with filling(folder / MODEL) as temporary:
            made.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        record = {
            "steps": trainer.state.global_step,
            "tokens": tokens(trainer) | {"written": known["tokens_written"]},
            "history": [{"round": number, **entry} for entry in (known, *history(trainer))],
            "preflight": trainer.preflight.record,
        }
        write_json(folder / RECORD, record)
    processes.wait_for_everyone()


# ---- groups -----------------------------------------------------------------------------


def write_groups(spec: TrainSpec, rows: list[Row], backbone: Path, folder: Path) -> list[Group]:
    """The groups of `rows`, written by the model in `backbone`, by each process a share; those that are in `folder` are
    not written again. With `credit: all` there are also groups of q. Rows that fill no batch are left out.

    Raises:
        UserError: when there is no whole batch of rows, or no part of a rationale is pooled.
    """
    assert spec.offline is not None and spec.instances is not None
    reads.check(spec.pooling, True)
    size, known = spec.instances, [dict(row) for row in training_set(rows, spec.data)]
    if len(known) < size:
        raise UserError(
            f"config: offline.rows: {len(known)} training rows are fewer than grace.instances ({size}), which are "
            "rewarded together; raise the one or lower the other."
        )
    sides = [known, exchanged(known)] if spec.offline.credit == "all" else [known]
    batches = [side[start : start + size] for side in sides for start in range(0, len(side) - size + 1, size)]
    files = [folder / f"{number:06d}.jsonl" for number in range(len(batches))]
    rank, processes = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    mine = [number for number in range(rank, len(batches), processes) if not files[number].exists()]
    if mine:
        log.info("%d of %d batches of groups are missing and are written now", len(mine), len(batches))
        model, tokenizer = load_model(backbone, hardware.device())
        template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
        for number in tqdm(mine, desc="groups", unit="batch", mininterval=5):
            # The control's randomness, equal in every process and after a resume.
            dice = torch.Generator().manual_seed(text_key(spec.seed, number, "random") % (1 << 62))
            write_jsonl(files[number], score_groups(model, template, spec, batches[number], dice))
    while not all(path.exists() for path in files):  # no collective call: it would give up after some minutes
        time.sleep(WAIT)
    return [group for path in files for group in read_jsonl(path)]


def score_groups(
    model: Any, template: PromptTemplate, spec: TrainSpec, rows: list[Row], dice: torch.Generator
) -> list[Group]:
    """Write and score a group for each of `rows`, which are of the form of `training_set`."""
    assert spec.offline is not None and spec.generation is not None and spec.reward is not None
    k, generation, reward = spec.offline.rollouts, spec.generation, spec.reward
    prompt_ids = [ids for ids in template.ids([row["prompt"] for row in rows]) for _ in range(k)]
    prompts, temperatures, keys = requests(prompt_ids, rows, template, generation, spec.seed)
    each = len(prompts) // len(rows) - k  # anchors of a row
    ends = engine.end_tokens(model, template.tokenizer)
    made = engine.generate(
        model,
        prompts,
        pool_from=reads.pooled_from(template, spec.pooling),
        pooling=None if spec.pooling.closing else spec.pooling,
        keys=keys,
        temperatures=temperatures,
        max_new_tokens=generation.max_new_tokens,
        ends=ends,
        batch_size=generation.batch_size,
        compile=generation.compile,
    )
    vectors = made.pooled
    if spec.pooling.closing:  # is read after the rationale
        given = reads.written(template, prompts, made.token_ids, spec.pooling, ends)
        vectors = forward.embed(model, given, pooling=spec.pooling).cpu()
    pooled = Embeddings.split(vectors, len(rows), k, each)
    written, others = made.token_ids[: len(rows) * k], made.token_ids[len(rows) * k :]
    found = failures(written, ends, template, reward.form)
    truncated, failed = (torch.tensor(flags).view(-1, k) for flags in (found["truncated"], list(found.values())[-1]))

    def score(kind: str) -> torch.Tensor:
        config = reward.model_copy(update={"reward": kind})
        return compute_rewards(pooled.query, pooled.positives, pooled.negatives, failed, config, dice).total

    rewards, dealt = score("contrastive"), score(reward.reward)
    check_finite("a reward", [rewards], "offline", 1)
    return [
        {
            "id": row["id"],
            "text": row["prompt"],
            "token_ids": written[n * k : (n + 1) * k],
            "truncated": truncated[n].tolist(),
            "failed": failed[n].tolist(),
            "rewards": rewards[n].tolist(),
            "dealt": dealt[n].tolist(),
            "tokens": sum(map(len, written[n * k : (n + 1) * k] + others[n * each : (n + 1) * each])),
        }
        for n, row in enumerate(rows)
    ]


def chosen(group: Group) -> tuple[int, int] | None:
    """The best rationale of a group among those that have not failed, and the worst of all others; None where all have
    failed, so that nothing is learnt from text that does not end."""
    order = sorted(range(len(group["dealt"])), key=lambda i: group["dealt"][i])
    best = next((i for i in reversed(order) if not group["failed"][i]), None)
    return None if best is None else (best, next(i for i in order if i != best))


def examples(groups: list[Group], template: PromptTemplate, objective: str) -> list[dict[str, list[int]]]:
    """What the groups teach, as columns of TRL's trainers. The loss is on the rationale and its end token alone."""
    taught = [(group, pair) for group in groups if (pair := chosen(group))]
    prompts = template.ids([group["text"] for group, _ in taught])
    found = []
    for prompt, (group, pair) in zip(prompts, taught, strict=True):
        best, worst = (group["token_ids"][i] for i in pair)
        if objective == "dpo":
            found.append({"prompt_ids": prompt, "chosen_ids": best, "rejected_ids": worst})
        else:
            found.append({"input_ids": prompt + best, "labels": [-100] * len(prompt) + best})
    return found


def summary(groups: list[Group]) -> dict[str, float]:
    """Counts and mean rewards of a round's groups, for its record; rewards are real ones, also of the control."""
    rewards = torch.tensor([group["rewards"] for group in groups])
    taken = [group["rewards"][pair[0]] for group in groups if (pair := chosen(group))]
    return {
        "groups": len(groups),
        "groups_failed": len(groups) - len(taken),  # which teach nothing
        "truncated": torch.tensor([group["truncated"] for group in groups]).float().mean().item(),
        "reward/mean": rewards.mean().item(),
        "reward/within_group_std": within_group_deviation(rewards),
        "reward/best": rewards.amax(1).mean().item(),
        **({"reward/chosen": sum(taken) / len(taken)} if taken else {}),
        "tokens_written": sum(group["tokens"] for group in groups),
    }


# ---- TRL's trainers ---------------------------------------------------------------------


class BestTrainer(SFTTrainer):
    def longest(self, rows: int, length: int, new: int) -> dict[str, Any]:
        """A batch of `rows` rows of `length` tokens, all of them in the loss."""
        ids = _token_ids(self, length)
        return self.data_collator([{"input_ids": ids, "labels": ids}] * rows)


class PairTrainer(DPOTrainer):
    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # of tokens; TRL would make them of text

    def longest(self, rows: int, length: int, new: int) -> dict[str, Any]:
        """A batch of `rows` pairs of `length` tokens, the last `new` of them a rationale's."""
        ids = _token_ids(self, length)
        prompt, rationale = ids[: length - new], ids[length - new :]
        pair = {"prompt_ids": prompt, "chosen_ids": rationale, "rejected_ids": rationale}
        return self.data_collator([pair] * rows)


def _token_ids(trainer: Any, length: int) -> list[int]:
    return [i % trainer.model.config.get_text_config().vocab_size for i in range(length)]


def best_of_trainer(
    model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, list[int]]], output_dir: str, **kwargs: Any
) -> SFTTrainer | DPOTrainer:
    """TRL's trainer of a round; `rows` are of `examples`."""
    assert spec.offline is not None
    o = spec.offline
    common: dict[str, Any] = dict(
        **trainer_arguments(spec, output_dir),
        per_device_train_batch_size=o.rows_per_forward,
        gradient_accumulation_steps=o.batch_size // (o.processes * o.rows_per_forward),
        lr_scheduler_type="linear",
        gradient_checkpointing=o.gradient_checkpointing,
        max_length=None,  # prompts are cut by `prompt`, rationales by `generation`
        include_num_input_tokens_seen="non_padding",
        logging_steps=1,
    )
    given: dict[str, Any] = dict(train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **kwargs)
    if o.objective == "sft":
        args: Any = SFTConfig(**common)
        hardware.configure_sharding(args, model)
        return BestTrainer(model, args=args, **given)
    args = DPOConfig(**common, beta=o.beta)
    hardware.configure_sharding(args, model)
    # Given one, TRL takes no copy of an adapter as reference, which would be saved with it.
    return PairTrainer(model, ref_model=load_causal(model.name_or_path, torch.float32), args=args, **given)
