"""Seconds of a GRACE training step against TRL's plain GRPOTrainer and against a limit made of its parts.

    python -m bench.step [--model PATH | --random 384x8] [--rows FILE.jsonl] [--json results/bench.json]
    python -m bench.step --backbone qwen2.5-1.5b --instances 8 --new 256 --median-text 300     (a GPU, bf16)

The plain trainer is TRL's own with transformers' `generate` and a trivial reward. It writes K rollouts per instance;
GRACE writes one rationale of the query and of each negative beside them (K + 1 + M), pools all, and scores them. So

    limit = (K + 1 + M) / K x plain generation + plain update
    ratio = GRACE step / limit

with generation as TRL's call that writes alone, and a step from the end of one to the end of the next. The rest of the
plain step (tokenising, decoding, the reward) is in no part of the limit, that of the GRACE step is in its time.

Held equal: weights, token ids of the prompts and their order, K, rollouts per forward pass, loss, optimizer,
precision, and how many tokens each rollout gets: drawn between `--shortest` and `--new`, none ends before and all end
then (TRL by a logits processor, our engine by its limit per prompt). `--shortest` as large as `--new` makes all
equally long, so that no row waits for another. Each repeat trains both anew for `--steps` steps, in turn, after a step
that is not counted; of a repeat's steps the median counts.

Where there is no demo backbone and no `--model`, the model has random weights and the texts are prose of Python's
documentation. What pooling costs while a rationale is written is measured apart: the same rationales without it.
"""

from __future__ import annotations

import argparse
import collections
import copy
import itertools
import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PrinterCallback
from transformers.trainer_utils import SaveStrategy

from bench import common
from bench.train_step import model_of, shape
from bench.trainers import NEVER, Clock, Plain, lengths_given
from bench.work import prompt_of
from grace.encoder.encoder import DEFAULT_POOLING, DEFAULT_PROMPT
from grace.encoder.engines import transformers as engine
from grace.merging import read_config
from grace.method.prompt import PromptTemplate
from grace.reader import read_jsonl
from grace.section import UserError, build
from grace.specs import TrainSpec
from grace.study import Plan
from grace.training.arguments import grpo_config
from grace.training.batches import training_set
from grace.training.trainer import GraceTrainer

DEMO_ROWS = common.ROOT / "results/demo/data/rows/tiny/supervised.jsonl"
PARTS = ("generate", "pool", "reward", "other", "update")
COLUMNS = ("trainer", *(f"{part} s" for part in PARTS), "step s", "peak GB")


class Bench:
    """A model, rows and settings; `train` makes a trainer of it train for some steps and keeps the seconds of one."""

    def __init__(self, model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, Any]], shortest: int) -> None:
        assert spec.grace is not None and spec.generation is not None
        self.model, self.tokenizer, self.spec, self.rows = model, tokenizer, spec, rows
        self.shortest, self.longest, self.k = shortest, spec.generation.max_new_tokens, spec.grace.rollouts
        self.template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
        self.negatives = len(rows[0]["negatives"])
        self.found: dict[str, list[dict[str, float]]] = {"plain": [], "grace": []}
        self.peaks: dict[str, float | None] = {}

    def draws(self) -> Callable[[int], list[int]]:
        """Gives the lengths of a step's n rationales, step after step: of the first m the same for any n >= m."""
        step = itertools.count()
        return lambda n: np.random.default_rng(next(step)).integers(self.shortest, self.longest + 1, n).tolist()

    def train(self, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            args = grpo_config(self.spec, folder, len(self.rows))
            args.save_strategy, args.disable_tqdm = SaveStrategy.NO, True
            trainer: Any = self.grace(args) if name == "grace" else self.plain(args)
            trainer.remove_callback(PrinterCallback)
            clock = Clock()
            trainer.add_callback(clock)
            clock.timed(trainer, "_prepare_inputs", "prepare")
            clock.timed(trainer, "_generate_single_turn", "generate")
            clock.timed(trainer, "_calculate_rewards", "reward")
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            with lengths_given(self.draws(), trainer.ends) if name == "grace" else nullcontext():
                trainer.train()
        self.found[name].append(clock.median())
        self.peaks[name] = round(torch.cuda.max_memory_allocated() / 1e9, 2) if torch.cuda.is_available() else None

    def grace(self, args: Any) -> GraceTrainer:
        return GraceTrainer(copy.deepcopy(self.model), self.tokenizer, self.spec, self.rows, args)

    def plain(self, args: Any) -> Plain:
        assert self.spec.grace is not None
        args.reward_weights = None
        data = training_set(self.rows, self.spec.data)
        model, texts = copy.deepcopy(self.model), list(data["prompt"])
        for parameter_name, parameter in model.named_parameters():
            parameter.requires_grad_(not any(part in parameter_name for part in self.spec.grace.frozen))
        order = {
            "mini_repeat_count": self.k,
            "batch_size": self.spec.grace.instances,
            "repeat_count": args.steps_per_generation,
            "seed": args.seed,
        }
        return Plain(
            prompts=dict(zip(texts, self.template.ids(texts), strict=True)), draw=self.draws(), order=order,
            model=model, args=args, train_dataset=data, processing_class=self.tokenizer,
        )  # fmt: skip

    def pooling(self, repeats: int) -> float:
        """Seconds that pooling adds to the writing of one step's rationales."""
        assert self.spec.grace is not None and self.spec.generation is not None
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.grace(grpo_config(self.spec, folder, len(self.rows)))
        some = self.rows[: self.spec.grace.instances]
        texts = [row["positive"] for row in some for _ in range(self.k)]
        texts += [text for row in some for text in (row["query"], *row["negatives"])]
        prompts, lengths = self.template.ids(texts), self.draws()(len(texts))
        batch_size = self.spec.generation.batch_size

        def write(pooling: Any) -> None:
            with trainer.policy() as model:
                made = engine.generate_batches(
                    model, prompts, pool_from=len(self.template.prefix), pooling=pooling,
                    keys=list(range(len(prompts))), temperatures=[1.0] * len(prompts), max_new_tokens=lengths,
                    ends=[NEVER], batch_size=batch_size,
                )  # fmt: skip
                collections.deque(made, maxlen=0)

        seconds = common.interleaved(
            {"with": partial(write, DEFAULT_POOLING), "without": partial(write, None)}, repeats
        )
        return statistics.median(a - b for a, b in zip(seconds["with"], seconds["without"], strict=True))

    def measure(self, repeats: int) -> dict[str, Any]:
        """The entry of this benchmark."""
        common.interleaved({name: partial(self.train, name) for name in self.found}, repeats)
        plain, grace = (self.found[name][1:] for name in ("plain", "grace"))  # the first call warms up
        more = (self.k + 1 + self.negatives) / self.k
        limits = [more * one["generate"] + one["update"] for one in plain]
        steps = [one["step"] for one in grace]
        split = {name: _medians(found) for name, found in (("plain", plain), ("grace", grace))}
        pool = self.pooling(repeats)
        split["grace"] = {**split["grace"], "generate": split["grace"]["generate"] - pool, "pool": pool}
        return common.entry(
            "step_vs_limit",
            common.ratios(steps, limits),
            common.command(),
            f"seconds of a GRACE step / ({more:g} x TRL's generation + TRL's update)",
            split=split,
            limit=statistics.median(limits),
            step_vs_plain=statistics.median(common.ratios(steps, [one["step"] for one in plain])),
            peak_gb=self.peaks,
        )


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


# ---- what is trained --------------------------------------------------------------------


def prepare(arguments: argparse.Namespace) -> Bench:
    """Raises: UserError for settings that do not fit each other."""
    cuda = torch.cuda.is_available()
    prompt = DEFAULT_PROMPT
    if arguments.backbone:
        at = shape(arguments.backbone)
        model: Any = model_of(at, arguments.prompt + arguments.new, torch.device("cpu"))
        tokenizer = common.random_tokenizer(min(at.vocab_size, 8192))
        what = f"{arguments.backbone}, random weights"
    elif arguments.random:
        width, layers = _size(arguments.random)
        model, tokenizer = common.random_model(width, layers, device="cpu")
        what = f"random weights, width {width}, {layers} layers"
    elif arguments.model is None and not common.DEMO.exists():
        model, tokenizer = common.random_model(layers=4, device="cpu")  # 12 M of them
        what = "random weights"
    else:
        model, tokenizer, what = common.backbone_or_random(arguments.model, "cpu")
        prompt = prompt_of(arguments.model or common.DEMO)
    model = model.float()
    prompt = prompt.model_copy(update={"max_prompt_tokens": min(prompt.max_prompt_tokens, arguments.prompt)})
    source = arguments.rows or (DEMO_ROWS if what == "demo backbone" and DEMO_ROWS.exists() else None)
    few = "random" in what  # and larger than the demo's
    instances, steps = arguments.instances or (4 if few else 16), (arguments.steps or (2 if few else 4)) + 1
    rows = given(source) if source else drawn(tokenizer, instances * steps, arguments.median_text)
    each = arguments.rollouts + 1 + len(rows[0]["negatives"])
    spec = demo_spec(
        {"prompt": prompt.model_dump(), "pooling": DEFAULT_POOLING.model_dump(), "keep_steps": []},
        generation={"max_new_tokens": arguments.new, "batch_size": arguments.batch or instances * each},
        grace={
            "instances": instances, "rollouts": arguments.rollouts, "max_steps": steps, "save_steps": steps,
            "rollouts_per_forward": arguments.forward or min(8 if cuda else 32, instances * arguments.rollouts),
            "precision": "bf16" if cuda else "fp32", "gradient_checkpointing": cuda,
        },
    )  # fmt: skip
    shortest = arguments.new // 4 if arguments.shortest is None else arguments.shortest
    if not 1 <= shortest <= arguments.new:
        raise UserError(f"--shortest must lie between 1 and --new ({arguments.new}), not {shortest}.")
    print(
        f"{what}; {instances} instances, K = {arguments.rollouts}, {shortest} - {arguments.new} new tokens; "
        f"{common.hardware()}",
        flush=True,
    )
    return Bench(model, tokenizer, spec, rows, shortest)


def demo_spec(values: dict[str, Any], **sections: dict[str, Any]) -> TrainSpec:
    """The demo's training, changed by `values`, and in `sections` by theirs."""
    config = read_config(common.ROOT / "config.yaml")
    known = json.loads(Plan({**config, "study": "demo"}).spec_train("grace", 0)) | values
    return build(TrainSpec, known | {name: known[name] | given for name, given in sections.items()}, "spec")


def _size(given: str) -> tuple[int, int]:
    width, _, layers = given.partition("x")
    if not (width.isdigit() and layers.isdigit()):
        raise UserError(f"--random must be WIDTHxLAYERS, such as 384x8, not {given!r}.")
    return int(width), int(layers)


def given(path: Path) -> list[dict[str, Any]]:
    """Supervised training rows of a file."""
    rows = list(read_jsonl(path, need=("id", "query", "positive")))
    return [{**row, "negatives": row.get("negatives") or []} for row in rows]


def drawn(tokenizer: Any, count: int, median: float) -> list[dict[str, Any]]:
    """Rows of real words that mean nothing together: what a step costs does not depend on it."""
    texts = iter(common.texts(tokenizer, 3 * count, 0, median=median))
    return [
        {"id": str(i), "query": next(texts), "positive": next(texts), "negatives": [next(texts)]} for i in range(count)
    ]


def show(entry: dict[str, Any]) -> str:
    rows = []
    for name, parts in entry["split"].items():
        cells = [f"{parts[part]:.3f}" if part in parts else None for part in (*PARTS, "step")]
        rows.append([name, *cells, entry["peak_gb"][name]])
    ratio = common.spread([entry[key] for key in ("low", "ratio", "high")], 3)
    return (
        f"{common.table(COLUMNS, rows)}\n\nGRACE step / limit ({entry['limit']:.3f} s): {ratio}; "
        f"GRACE step / plain step: {entry['step_vs_plain']:.3f}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--model", type=Path, help="folder of a model; by default the demo's backbone, if there is one")
    parser.add_argument("--random", metavar="WIDTHxLAYERS", help="random weights instead")
    parser.add_argument("--backbone", help="random weights in the shape of this one of available_backbones")
    parser.add_argument("--rows", type=Path, help="training rows, as of `grace.data.rows`")
    parser.add_argument("--instances", type=int, help="per step; 16, or 4 with random weights")
    parser.add_argument("--rollouts", type=int, default=8, help="K")
    parser.add_argument("--prompt", type=int, default=1024, help="tokens of a prompt at most")
    parser.add_argument("--median-text", type=float, default=40, help="tokens of the median text, where none are given")
    parser.add_argument("--new", type=int, default=40, help="new tokens of a rationale at most")
    parser.add_argument("--shortest", type=int, help="and at least; a quarter of --new if not given")
    parser.add_argument("--forward", type=int, help="rollouts per forward pass; 32, on a GPU 8")
    parser.add_argument("--batch", type=int, help="rationales that our engine writes at a time; all of a step's")
    parser.add_argument("--steps", type=int, help="that count, of each training; 4, or 2 with random weights")
    arguments = parser.parse_args(argv)
    try:
        entry = prepare(arguments).measure(arguments.repeats)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(show(entry))
    common.write(arguments.json, [entry])


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    logging.getLogger("grace").setLevel(logging.ERROR)  # that some terms teach nothing is true and known
    main()
