"""How much of GRACE's gradient is signal: the cosine between the policy gradients of independent batches.

    python -m grace.beyond.signal --model FOLDER --rows rows.jsonl --out signal.json --study demo --runs grace

A batch's gradient is what all batches have in common plus noise of its own. Where |signal|^2 is the share c of
E |gradient|^2, two batches' gradients have a cosine of about c, and one of them has sqrt(c) with the signal itself.
The noise falls with the rollouts of a batch, so c / (1 - c) grows in proportion to them.

Rollouts are written once, for the largest batch. Smaller ones are parts of it: the first K of each group, B instances
at a time, scored among themselves. The gradient is the trainer's own, of the trainer's own advantages. These have two
parts: those of the rewards if failed rollouts had no penalty (the length rule, eq. 28), and what that rule changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from grace.config.plan import Plan
from grace.config.section import UserError, build, hint
from grace.config.specs import TrainSpec
from grace.config.studies import read_config
from grace.jobs import manifest
from grace.jobs.files import check_writable, write_json
from grace.jobs.reader import TRAINING, read_training
from grace.jobs.stage import in_one_sentence
from grace.training import hardware
from grace.training.run import load
from grace.training.trainer import Embeddings, GraceTrainer, grace_trainer, in_rows

log = logging.getLogger(__name__)

NOTHING = "none, since at most one batch has a gradient: rollouts of an instance were all rewarded alike"
PARTS = ("reward", "length")
RESAMPLES = 1000
BLOCK = 1 << 20  # numbers of each gradient that are in double precision at a time


class Rollouts(NamedTuple):
    """A batch of B instances with K rollouts each, scored."""

    inputs: dict[str, Any]  # of the trainer's loss, [B * K, ...]
    embeddings: Embeddings
    failed: Tensor  # [B, K]

    def part(self, instances: slice, k: int) -> Rollouts:
        """The first k rollouts of some instances."""
        at, rows = self.embeddings, torch.arange(self.failed.numel()).view(self.failed.shape)[instances, :k]
        of = {
            name: value[rows.flatten().to(value.device)] if isinstance(value, Tensor) and value.ndim else value
            for name, value in self.inputs.items()
        }
        of["num_items_in_batch"] = of["completion_mask"].sum()
        embeddings = Embeddings(*(None if e is None else e[instances] for e in at))  # type: ignore[arg-type]
        return Rollouts(of, embeddings._replace(positives=embeddings.positives[:, :k]), self.failed[instances, :k])


def write_rollouts(trainer: GraceTrainer, batches: int, seed: int) -> Iterator[Rollouts]:
    """So many batches of different rows.

    Raises:
        UserError: when there are too few rows.
    """
    b, k, data = trainer.algorithm.instances, trainer.algorithm.rollouts, cast(Dataset, trainer.train_dataset)
    if len(data) < batches * b:
        raise UserError(
            f"{batches} independent batches of {b} instances need {batches * b} rows, and there are {len(data)}: "
            "ask for fewer or smaller batches."
        )
    order = np.random.default_rng(seed).permutation(len(data))
    for number in range(batches):
        # The control's dice follow the step. An even generation is one of d+.
        trainer.state.global_step = 2 * trainer.algorithm.updates_per_generation * number
        rows = [data[int(i)] for i in order[number * b : (number + 1) * b]]
        made = trainer._generate_and_score_completions([row for row in rows for _ in range(k)])
        yield Rollouts(in_rows(made), trainer.embeddings, trainer.failed)


def advantages(trainer: GraceTrainer, at: Rollouts) -> dict[str, Tensor]:
    """The two parts of the advantages [B, K], by name. Their sum is what the trainer takes."""
    total = trainer.score(at.embeddings, at.embeddings.positives, at.failed).total
    penalised = at.failed & (trainer.reward.gamma is not None)
    finished = (~penalised).sum(1, keepdim=True)
    mean = torch.where(penalised, 0.0, total).sum(1, keepdim=True) / finished.clamp(min=1)
    spared, whole = (
        trainer.advantages_of(rewards, at.embeddings, at.failed)
        for rewards in (torch.where(penalised, mean, total), total)
    )
    return {"reward": spared, "length": whole - spared}


def gradient(trainer: GraceTrainer, at: Rollouts, advantage: Tensor) -> Tensor:
    """[P] float32 on the CPU: the gradient of the trainer's loss in all P trained parameters, for `advantage` [B, K].

    On-policy it is linear in the advantages, so the gradients of two parts add up to that of their sum.
    """
    k = trainer.algorithm.rollouts
    flat, size = advantage.flatten(), k * max(1, trainer.args.per_device_train_batch_size // k)
    groups = (advantage != 0).any(1, keepdim=True).expand_as(advantage)
    rows = groups.flatten().nonzero().squeeze(1)  # the others have no part in it
    model: Any = trainer.model
    model.train()
    model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    for some in rows.split(size) if len(rows) else ():
        inputs = {name: v[some] if isinstance(v, Tensor) and v.ndim else v for name, v in at.inputs.items()}
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, {**inputs, "advantages": flat[some]})
        (loss if trainer.loss_type == "dapo" else loss * len(some) / len(flat)).backward()
    trainer._metrics["train"].clear()
    found = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in found]).float().cpu()


# ---- statistics -------------------------------------------------------------------------


def products(gradients: dict[str, list[Tensor]]) -> dict[tuple[str, str], np.ndarray]:
    """Dot products [n, n] of the gradients of n batches, for each pair of parts."""
    n = len(next(iter(gradients.values())))
    found = {(a, b): np.zeros((n, n)) for a in gradients for b in gradients}
    for start in range(0, len(next(iter(gradients.values()))[0]), BLOCK):
        some = {name: torch.stack([g[start : start + BLOCK] for g in of]).double() for name, of in gradients.items()}
        for a, b in found:
            found[a, b] += (some[a] @ some[b].T).numpy()
    return found


def statistics(dots: dict[tuple[str, str], np.ndarray], rollouts: int, seed: int) -> dict[str, Any]:
    """Cosines and shares with 95 % intervals, bootstrapped over the n batches.

    Args:
        dots: of `products`, with the parts `reward` and `length`.
        rollouts: of a batch.

    Returns:
        `cosine` of two batches' gradients, whole and of each part (None where no two batches have the part; where one
        lacks it, the cosine is 0);
        `rollouts_for_half`: those of a batch with which it would be 1/2, None as below;
        `length_share`: the length rule's share of |mean gradient|^2, estimated from pairs of different batches, so that
        their noise has no part in it; None where that mean's square cannot be told from zero;
        `length_of_norm`: its share of the mean |gradient|^2 of a batch, noise and all.
        The other share is the reward's; each has half of what they have in common.
    """
    total = sum(dots[pair] for pair in itertools.product(PARTS, PARTS))
    length = dots["length", "length"] + (dots["length", "reward"] + dots["reward", "length"]) / 2
    assert isinstance(total, np.ndarray)
    n = len(total)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    weights = np.concatenate((np.ones((1, n)), drawn))  # the first is the sample itself

    def between(matrix: np.ndarray) -> np.ndarray:
        """Weighted mean over pairs of different batches."""
        off = matrix - np.diag(np.diag(matrix))
        pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
        return np.einsum("ri,ij,rj->r", weights, off, weights) / np.where(pairs > 0, pairs, np.nan)

    def cosine(matrix: np.ndarray) -> np.ndarray | None:
        norms = np.sqrt(np.diag(matrix))
        if (norms > 0).sum() < 2:
            return None
        there = np.outer(norms, norms)
        return between(np.divide(matrix, there, out=np.zeros_like(matrix), where=there > 0))

    whole = cosine(total)
    if whole is None:
        unknown = dict.fromkeys(("rollouts_for_half", "length_share", "length_of_norm"))
        return {"batches": n, "cosine": dict.fromkeys(("total", *PARTS)), **unknown}
    half, common = rollouts * (1 - whole[0]) / whole[0], between(total)
    certain = np.nanquantile(common[1:], 0.025) > 0
    cosines = {"total": whole, **{part: cosine(dots[part, part]) for part in PARTS}}
    return {
        "batches": n,
        "cosine": {name: _interval(values) for name, values in cosines.items()},
        "rollouts_for_half": float(half) if certain and whole[0] > 0 else None,
        "length_share": _interval(between(length) / common) if certain else None,
        "length_of_norm": _interval((weights @ np.diag(length)) / (weights @ np.diag(total))),
    }


def _interval(values: np.ndarray | None) -> dict[str, Any] | None:
    """The first of the values, and the middle 95 % of the others."""
    if values is None:
        return None
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return {"value": float(values[0]), "interval": [float(low), float(high)]}


# ---- the command ------------------------------------------------------------------------


def measure(
    trainer: GraceTrainer, specs: dict[str, TrainSpec], sizes: list[tuple[int, int]], batches: int
) -> list[Any]:
    """`statistics` for each run and each size (B, K); B x K at most as large as the trainer's.

    Args:
        specs: of the runs, which differ in `reward` and `estimator` alone.
    """
    found: dict[tuple[str, int, int], dict[str, list[Tensor]]] = {}
    for whole in write_rollouts(trainer, batches, trainer.spec.seed):
        for (name, spec), (b, k) in itertools.product(specs.items(), sizes):
            assert spec.reward is not None and spec.grace is not None
            trainer.reward, estimator = spec.reward, spec.grace.estimator
            trainer.algorithm = trainer.algorithm.model_copy(update={"estimator": estimator})
            for start in range(0, len(whole.failed), b):
                some = whole.part(slice(start, start + b), k)
                for part, advantage in advantages(trainer, some).items():
                    found.setdefault((name, b, k), {}).setdefault(part, []).append(gradient(trainer, some, advantage))
    return [
        {"run": name, "instances": b, "rollouts": k, **statistics(products(parts), b * k, trainer.spec.seed)}
        for (name, b, k), parts in found.items()
    ]


def spec_of(config: Path, study: str, run: str) -> TrainSpec:
    """Raises: UserError when there is no such run, or it is not trained by GRACE."""
    plan = Plan({**read_config(config), "study": study})
    known = [name for name, entry in plan.study.runs.items() if entry.method == "grace"]
    if run not in known:
        raise UserError(f"--runs: {run!r} is not trained by policy gradient in study {study}{hint(run, known)}.")
    return build(TrainSpec, json.loads(plan.spec_train(run, 0)), "spec")


def check_comparable(specs: dict[str, TrainSpec]) -> None:
    """Raises: UserError when runs would not write the same rollouts, or take other gradients of them."""
    kept = {name: spec.model_dump(exclude={"run", "keep_steps"}) for name, spec in specs.items()}
    for one in kept.values():
        del one["grace"]["estimator"]
        one["reward"] = one["reward"]["form"]  # which rollouts fail is found once
    first, *others = kept
    for name in others:
        if kept[name] != kept[first]:
            raise UserError(
                f"--runs: {name} differs from {first} in more than its reward (but reward.form) and estimator; measure "
                "it alone."
            )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model whose gradients are compared")
    parser.add_argument("--rows", type=Path, required=True, help="training rows, as of `grace.data.lengths`")
    parser.add_argument("--out", type=Path, required=True, help="JSON that is written")
    parser.add_argument("--config", type=Path, default=Path("config.yaml"))
    parser.add_argument("--study", default="demo")
    parser.add_argument("--runs", nargs="+", default=["grace"], help="of the study: whose rewards and estimators")
    parser.add_argument("--instances", nargs="+", type=int, default=[16], help="B; each divides the largest")
    parser.add_argument("--rollouts", nargs="+", type=int, default=[8], help="K")
    parser.add_argument("--batches", type=int, default=8, help="of the largest B; a gradient of each is held in memory")
    arguments = parser.parse_args(argv)
    started = time.time()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with in_one_sentence():
        run(arguments, started)


def run(arguments: argparse.Namespace, started: float) -> None:
    for name in ("config", "model", "rows"):
        if not (path := getattr(arguments, name)).exists():
            raise UserError(f"{path}: no such file or folder; correct --{name}.")
    check_writable(arguments.out.parent)
    specs = {name: spec_of(arguments.config, arguments.study, name) for name in arguments.runs}
    check_comparable(specs)
    b, k = max(arguments.instances), max(arguments.rollouts)
    divide = min(arguments.instances) > 0 and not any(b % other for other in arguments.instances)
    if min(arguments.rollouts) < 2 or not divide or arguments.batches < 2:
        raise UserError("--instances must divide the largest of them, --rollouts and --batches be at least 2.")
    # One that writes greedily too serves them all.
    spec = max(specs.values(), key=lambda one: one.grace is not None and one.grace.estimator == "remax")
    assert spec.grace is not None
    changes = {"instances": b, "rollouts": k, "processes": 1, "updates_per_generation": 1}
    changes["rollouts_per_forward"] = math.gcd(b * k, spec.grace.rollouts_per_forward)
    spec = spec.model_copy(update={"grace": spec.grace.model_copy(update=changes)})
    hardware.check(spec)
    rows = read_training(arguments.rows, TRAINING[spec.data])
    torch.manual_seed(spec.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = grace_trainer(*load(arguments.model, spec), spec, rows, folder)
        sizes = list(itertools.product(sorted(set(arguments.instances)), sorted(set(arguments.rollouts))))
        found = measure(trainer, specs, sizes, arguments.batches)
    for row in found:
        log.info("%s", line(row))
    record = manifest.make("signal", spec, [arguments.model, arguments.rows], started)
    write_json(arguments.out, {"manifest": record, "sizes": found})


def line(row: dict[str, Any]) -> str:
    """A row of `measure` for a reader."""
    parts = {name: at for name, at in (row["cosine"] | {"length of norm": row["length_of_norm"]}).items() if at}
    cells = [
        f"{name} {at['value']:.3f} [{at['interval'][0]:.3f}, {at['interval'][1]:.3f}]" for name, at in parts.items()
    ]
    return f"{row['run']}, B = {row['instances']}, K = {row['rollouts']}: cosine {', '.join(cells) or NOTHING}"


if __name__ == "__main__":
    main()
