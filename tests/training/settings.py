"""Small runs for the trainers' tests."""

import random
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from grace.config.schema import Contrastive, Generation, Grace, Offline, Pooling, Prompt, RewardConfig, Rounds
from grace.config.specs import EncodeSpec, RationalesSpec, TrainSpec
from grace.jobs.files import write_jsonl
from grace.training import run, train

GRACE: dict[str, Any] = dict(
    estimator="grpo", loss="sequence_sum", instances=8, rollouts=4, updates_per_generation=1, rollouts_per_forward=32,
    processes=1, epochs=1.0, max_steps=2, learning_rate=1e-3, adam_betas=[0.9, 0.99], weight_decay=0.01,
    max_grad_norm=1.0, clip_range=0.2, frozen=["embed_tokens", "norm"], precision="fp32", gradient_checkpointing=False,
    engine="transformers", vllm_tensor_parallel=1, vllm_memory=0.5, save_steps=1, sharding="none", lora=None,
)  # fmt: skip
LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "all-linear"}
OWN: dict[str, dict[str, Any]] = {
    "adapter": {"lora": {**LORA, "embeddings": True}},
    "kl_fence": {"lora": LORA, "fence": {"rationale": 1.0, "text": 6.0, "rows": 4}},
}
PROMPT = Prompt(instruction="Name the key words.", max_prompt_tokens=100)
POOLING = Pooling(method="mean", layer="last", normalize=True)


def grace_spec(
    data: str = "supervised", reward: RewardConfig | None = None, seed: int = 0, **changes: Any
) -> TrainSpec:
    return TrainSpec(
        run="grace",
        method="grace",
        data=data,  # type: ignore[arg-type]
        seed=seed,
        prompt=PROMPT,
        pooling=POOLING,
        generation=Generation(
            max_new_tokens=12, sampling_temperature=1.0, anchor_sampling_temperature=0.5, batch_size=20, compile=False
        ),
        reward=reward or RewardConfig(),
        grace=Grace(**{**GRACE, **changes}),
    )


def contrastive_spec(method: str, **changes: Any) -> TrainSpec:
    values = dict(
        batch_size=8, mini_batch_size=8, similarity_scale=20.0, epochs=1.0, max_steps=3, learning_rate=1e-3,
        warmup_ratio=0.1, weight_decay=0.0, dropout=0.1 if method == "simcse" else 0.0, precision="fp32",
        processes=1, sharding="none", lora=None, save_steps=1,
    )  # fmt: skip
    at = Contrastive(**{**values, **OWN.get(method, {}), **changes})
    return TrainSpec(
        run=method,
        method=method,  # type: ignore[arg-type]
        data="unsupervised" if method == "simcse" else "supervised",
        seed=0,
        prompt=PROMPT,
        pooling=POOLING,
        direct_prompt="chat",
        contrastive=at,
        rationales=rationales_spec(at.rows) if at.rationales else None,
    )


def rationales_spec(count: int | None = None, **changes: Any) -> RationalesSpec:
    encode = dict(
        prompt=PROMPT, pooling=POOLING, rationales=True, direct_prompt="chat", max_new_tokens=24,
        sampling_temperature=1.0, batch_size=8, seed=0,
    )  # fmt: skip
    return RationalesSpec(data="supervised", rows=count, store="float32", encode=EncodeSpec(**{**encode, **changes}))


def rounds_spec(**changes: Any) -> TrainSpec:
    """adapter+grace in two rounds of two steps each."""
    pools, base = contrastive_spec("adapter", loss="half", max_steps=2), grace_spec(lora=LORA, frozen=[], max_steps=2)
    both = {
        "run": "adapter-grace", "method": "adapter+grace", "direct_prompt": "chat", "contrastive": pools.contrastive,
        "rounds": Rounds(rounds=2, adapter_steps=2, policy_steps=2),
    }  # fmt: skip
    return base.model_copy(update=both | changes)


def offline_spec(reward: RewardConfig | None = None, data: str = "supervised", **changes: Any) -> TrainSpec:
    """best-of in a round of four steps, eight groups rewarded together."""
    values = dict(
        rows=16, rollouts=4, rounds=1, objective="sft", beta=0.1, processes=1, sharding="none", lora=None, epochs=2.0,
        batch_size=8, rows_per_forward=8, learning_rate=1e-3, precision="fp32", gradient_checkpointing=False,
        save_steps=1,
    )  # fmt: skip
    own = {"run": "grace-offline", "method": "best-of", "grace": None, "instances": 8}
    return TrainSpec(**{**grace_spec(data, reward).model_dump(), **own, "offline": Offline(**{**values, **changes})})


class Written:
    """Made-up rationales of up to `longest` tokens, which a text alone decides; the last stands for an end token."""

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def bare(self, texts: list[str]) -> list[list[int]]:
        made = (random.Random(text) for text in texts)
        return [[dice.randrange(5, 290) for _ in range(dice.randrange(1, self.longest))] for dice in made]

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [[*ids, 2] for ids in self.bare(texts)]


def rows(count: int, data: str = "supervised", negatives: int = 1) -> list[dict[str, Any]]:
    words = "sort list array matrix inverse sum mean socket thread file path graph node edge tensor".split()

    def text(i: int) -> str:
        return " ".join(words[(i * step + step) % len(words)] for step in range(1, 3 + i % 5)) + f" number {i}"

    if data == "unsupervised":
        return [{"id": str(i), "text": text(i)} for i in range(count)]
    return [
        {
            "id": str(i),
            "query": text(i),
            "positive": text(i + 7),
            "negatives": [text(i + 11 + m) for m in range(negatives)],
        }
        for i in range(count)
    ]


def taught(spec: TrainSpec) -> list[dict[str, Any]]:
    """16 rows for a trainer; of best-of made-up examples."""
    if not spec.offline:
        return rows(16, spec.data)
    said = Written(12)([str(i) for i in range(32)])
    if spec.offline.objective == "dpo":
        return [{"prompt_ids": [5] * 30, "chosen_ids": said[i], "rejected_ids": said[16 + i]} for i in range(16)]
    return [{"input_ids": [5] * 30 + said[i], "labels": [-100] * 30 + said[i]} for i in range(16)]


def maker(spec: TrainSpec, rationales: Any = None) -> Any:
    """What makes a method's trainer."""
    if spec.method == "grace":
        from grace.training.trainer import grace_trainer

        return grace_trainer
    if spec.method == "best-of":
        from grace.beyond.best_of import best_of_trainer

        return best_of_trainer
    if spec.method in ("cl", "simcse"):
        from grace.training.contrastive import ContrastiveTrainer

        return ContrastiveTrainer
    from grace.beyond.adapter import AdapterTrainer
    from grace.beyond.kl_regulariser import KLTrainer

    return partial(KLTrainer if spec.method == "kl_fence" else AdapterTrainer, rationales=rationales)


def trainer_of(folder: Path, out: Path, spec: TrainSpec, data: Any = None, rationales: Any = None) -> Any:
    """A trainer of any method, with its callbacks, for the backbone in `folder`; `out` is for checkpoints."""
    torch.manual_seed(spec.seed)
    data = taught(spec) if data is None else data
    return run.build_trainer(maker(spec, rationales or Written(24)), *run.load(folder, spec), spec, data, out)


def model_of(trainer: Any) -> Any:
    """The causal LM that a trainer trains."""
    return trainer.model[0].model if hasattr(trainer.model, "preprocess") else trainer.model


def trained(backbone: Path, folder: Path, name: str, spec: TrainSpec, data: Any = None) -> Path:
    """Train a run into `folder`/`name`, as the command does, on 16 rows if none are given."""
    write_jsonl(folder / "rows.jsonl", rows(16, spec.data) if data is None else data)
    paths = dict(rows=folder / "rows.jsonl", backbone=backbone, store=None, threads=1, started=time.time())
    train.run(spec, SimpleNamespace(**paths, out=folder / name / "manifest.json"))
    return folder / name


def command(module: str, backbone: Path, data: Path, out: Path, spec: Any, *more: str) -> list[str]:
    """The command of a stage of training."""
    given = {"--spec": spec.model_dump_json(), "--backbone": backbone, "--rows": data, "--out": out, "--threads": 1}
    words = [str(word) for pair in given.items() for word in pair]
    return [sys.executable, "-m", *module.split(), *words, *more]
