"""best-of: groups of K rationales of a text, written once and scored by GRACE's reward, and what each of them teaches.

The groups of `instances` training rows are scored together, as in a generation of GRACE. They lie in one file: of a
killed run those that are missing are written, the same ones, whichever process writes them.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from grace.encoder import reads
from grace.encoder.engines import packed
from grace.encoder.engines import transformers as engine
from grace.encoder.loading import load_model
from grace.encoder.sampling import text_key
from grace.files import write_jsonl
from grace.method.advantages import within_group_deviation
from grace.method.prompt import PromptTemplate
from grace.method.rewards import compute_rewards
from grace.reader import read_jsonl
from grace.section import UserError
from grace.specs import TrainSpec
from grace.training.batches import Embeddings, exchanged, failures, training_set
from grace.training.finite import check
from grace.training.rationales import WAIT, device

log = logging.getLogger(__name__)

Row = dict[str, Any]
Group = dict[str, Any]  # a line of a file: see `compose`


def batches(rows: list[Row], spec: TrainSpec) -> list[list[Row]]:
    """Rows that are scored together, in the form of `training_set`; with `credit: all` also those with q and d+ in each
    other's place. Rows that fill no batch are left out.

    Raises:
        UserError: when there is no whole batch.
    """
    assert spec.offline is not None and spec.instances is not None
    size, known = spec.instances, [dict(row) for row in training_set(rows, spec.data)]
    if len(known) < size:
        raise UserError(
            f"config: offline.rows: {len(known)} training rows are fewer than grace.instances ({size}), which are "
            "rewarded together; raise the one or lower the other."
        )
    sides = [known, exchanged(known)] if spec.offline.credit == "all" else [known]
    return [side[at : at + size] for side in sides for at in range(0, len(side) - size + 1, size)]


def write(spec: TrainSpec, rows: list[Row], backbone: Path, folder: Path) -> list[Group]:
    """The groups of `rows`, by each process a share; those that lie in `folder` are not written again.

    Args:
        spec: whose seed is the round's.
        backbone: folder of the model that writes.

    Raises:
        UserError: when there are too few rows, or no part of a rationale is pooled.
    """
    reads.check(spec.pooling, True)
    parts = batches(rows, spec)
    files = [folder / f"{number:06d}.jsonl" for number in range(len(parts))]
    rank, processes = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    mine = [number for number in range(rank, len(parts), processes) if not files[number].exists()]
    if mine:
        log.info("%d of %d batches of groups are missing and are written now", len(mine), len(parts))
        model, tokenizer = load_model(backbone, device())
        template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
        for number in tqdm(mine, desc="groups", unit="batch", mininterval=5):
            # The control's randomness, equal in every process and after a resume.
            dice = torch.Generator().manual_seed(text_key(spec.seed, number, "random") % (1 << 62))
            write_jsonl(files[number], compose(model, template, spec, parts[number], dice))
    while not all(path.exists() for path in files):  # no collective call: it would give up after some minutes
        time.sleep(WAIT)
    return [group for path in files for group in read_jsonl(path)]


def compose(
    model: Any, template: PromptTemplate, spec: TrainSpec, rows: list[Row], dice: torch.Generator
) -> list[Group]:
    """Write and score a group for each of `rows`, which are of the form of `training_set`.

    Returns:
        Of each row its id; `text`; `token_ids` [K], with the end token where it was reached; `truncated` and `failed`
        [K]; `rewards` [K]; `dealt` [K], by which one is chosen: the rewards, or what the control deals; `tokens`, all
        that was written for it.
    """
    assert spec.offline is not None and spec.generation is not None and spec.reward is not None
    k, at = spec.offline.rollouts, spec.generation
    anchors = [text for row in rows for text in (row["query"], *row["negatives"])]
    each = len(anchors) // len(rows)
    keys = [text_key(spec.seed, "rollout", row["id"], i) for row in rows for i in range(k)]
    keys += [text_key(spec.seed, "anchor", row["id"], m) for row in rows for m in range(each)]
    prompts = [ids for ids in template.ids([row["prompt"] for row in rows]) for _ in range(k)] + template.ids(anchors)
    ends = engine.end_tokens(model, template.tokenizer)
    made = engine.generate(
        model, prompts, pool_from=reads.pooled_from(template, spec.pooling),
        pooling=None if spec.pooling.closing else spec.pooling, keys=keys,
        temperatures=[at.sampling_temperature] * len(rows) * k + [at.anchor_sampling_temperature] * len(anchors),
        max_new_tokens=at.max_new_tokens, ends=ends, batch_size=at.batch_size, compile=at.compile,
    )  # fmt: skip
    vectors = made.pooled
    if spec.pooling.closing:  # is read after what was written
        given = reads.written(template, prompts, made.token_ids, spec.pooling, ends)
        vectors = packed.embed(model, given, pooling=spec.pooling).cpu()
    pooled = Embeddings.split(vectors, len(rows), k, each)
    written, others = made.token_ids[: len(rows) * k], made.token_ids[len(rows) * k :]
    found = failures(written, ends, template, spec.reward.form)
    cut, failed = (torch.tensor(flags).view(-1, k) for flags in (found["truncated"], list(found.values())[-1]))

    def score(kind: str) -> torch.Tensor:
        config = spec.reward.model_copy(update={"reward": kind})  # type: ignore[union-attr]
        return compute_rewards(pooled.query, pooled.positives, pooled.negatives, failed, config, dice).total

    rewards, dealt = score("contrastive"), score(spec.reward.reward)
    check("a reward", [rewards], "offline", 1)
    return [
        {
            "id": row["id"], "text": row["prompt"], "token_ids": written[n * k : (n + 1) * k],
            "truncated": cut[n].tolist(), "failed": failed[n].tolist(), "rewards": rewards[n].tolist(),
            "dealt": dealt[n].tolist(),
            "tokens": sum(map(len, written[n * k : (n + 1) * k] + others[n * each : (n + 1) * each])),
        }
        for n, row in enumerate(rows)
    ]  # fmt: skip


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
    """What is to be known of a round's groups; rewards are real ones, also of the control."""
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
