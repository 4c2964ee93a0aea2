"""Seconds of a GRACE training step against TRL's plain GRPOTrainer and against a limit made of its parts.

    python -m bench.step [--model PATH | --random 384x8] [--rows FILE.jsonl] [--json results/bench.json]
    python -m bench.step --backbone qwen2.5-1.5b --instances 8 --new 256 --median-text 300     (a GPU, bf16)

The plain trainer is TRL's own with transformers' `generate` and a trivial reward. It writes K rollouts per instance;
GRACE writes one rationale of the query and of each of M negatives beside them, pools all, and scores them. So

    limit = (K + 1 + M) / K x plain generation + plain update
    ratio = GRACE step / limit

with generation as TRL's call that writes alone, and a step from the end of one to the end of the next. The rest of the
plain step (tokenising, decoding, the reward) is in no part of the limit, that of the GRACE step is in its time.

Held equal: weights, token ids of the prompts and their order, K, rollouts per forward pass, loss, optimizer,
precision, and the length of each rollout, drawn between `--shortest` and `--new` (TRL by a logits processor, our
engine by its limit per prompt). With `--shortest` equal to `--new` no row waits for another. Each repeat trains both
anew for `--steps` steps, in turn, after a step that is not counted; of a repeat's steps the median counts.

Without a demo backbone and `--model` the weights are random and the texts are prose of Python's documentation. What
pooling costs while a rationale is written is measured apart: the same rationales without it.
"""

from __future__ import annotations

import argparse
import collections
import copy
import itertools
import json
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from transformers import LogitsProcessor, LogitsProcessorList, PrinterCallback, TrainerCallback
from transformers.trainer_utils import SaveStrategy
from trl import GRPOTrainer

from bench import common
from grace.config.plan import Plan
from grace.config.section import UserError, build
from grace.config.specs import TrainSpec
from grace.config.studies import read_config
from grace.encoder.engines import transformers as engine
from grace.encoder.saved import DEFAULT_POOLING, DEFAULT_PROMPT
from grace.jobs.reader import read_jsonl
from grace.jobs.stage import in_one_sentence
from grace.method.prompt import PromptTemplate
from grace.training.trainer import GraceTrainer, GroupSampler, grpo_config, training_set

DEMO_ROWS = common.ROOT / "results/demo/data/rows/tiny/supervised.jsonl"
PARTS = ("generate", "pool", "reward", "other", "update")
COLUMNS = ("trainer", *(f"{part} s" for part in PARTS), "step s", "peak GB")
NEVER = -1  # an id that no model writes


# ---- the trainers --------------------------------------------------------------------------


class StepClock(TrainerCallback):
    """Seconds of the parts of each step but the first, in `laps`."""

    def __init__(self) -> None:
        self.now: dict[str, float] = {}
        self.laps: list[dict[str, float]] = []
        self.count, self.last = 0, 0.0

    def time(self, trainer: Any, method: str, name: str) -> None:
        """Count the seconds of this trainer's `method` as part `name`."""
        inner = getattr(trainer, method)

        def outer(*args: Any, **kwargs: Any) -> Any:
            started = common.now()
            try:
                return inner(*args, **kwargs)
            finally:
                self.now[name] = self.now.get(name, 0.0) + common.now() - started

        setattr(trainer, method, outer)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.last = common.now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = common.now()
        if self.count:
            step = now - self.last
            other = self.now["prepare"] - self.now["generate"] - self.now["reward"]
            self.laps.append({**self.now, "other": other, "update": step - self.now["prepare"], "step": step})
        self.count, self.last, self.now = self.count + 1, now, {}


class EndAt(LogitsProcessor):
    """Row i ends with its `lengths[i]`-th new token and not before."""

    def __init__(self, width: int, lengths: torch.Tensor, ends: list[int], end: int) -> None:
        self.width, self.lengths, self.ends, self.end = width, lengths, ends, end

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores[:, self.ends] = -torch.inf
        over = input_ids.shape[1] - self.width + 1 >= self.lengths
        scores[over] = -torch.inf
        scores[over, self.end] = 0.0
        return scores


class Plain(GRPOTrainer):
    """TRL's trainer on given token ids and with given lengths; all else is TRL's."""

    def __init__(
        self, *, prompts: dict[str, list[int]], draw: Callable[[int], list[int]], order: dict[str, Any], **settings: Any
    ) -> None:
        super().__init__(reward_funcs=_trivial_reward, **settings)
        model = settings["model"]
        self.prompts, self.draw, self.order, self.generate = prompts, draw, order, model.generate
        model.generate = self._generate_to_length

    def _get_train_sampler(self, dataset: Any = None) -> GroupSampler:
        return GroupSampler(self.train_dataset if dataset is None else dataset, trainer=self, **self.order)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.prompts[text] for text in prompts], None, {}

    def _generate_to_length(self, input_ids: Any, **settings: Any) -> Any:
        lengths = torch.tensor(self.draw(len(input_ids)), device=input_ids.device)
        ends: list[int] = list(self.eos_token_ids)
        end_at = EndAt(input_ids.shape[1], lengths, [*ends, self._tokenizer.pad_token_id], ends[0])
        return self.generate(input_ids=input_ids, logits_processor=LogitsProcessorList([end_at]), **settings)


def _trivial_reward(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    return [float(ids[0] % 2) for ids in completion_ids]


@contextmanager
def given_lengths(draw: Callable[[int], list[int]], ends: list[int]) -> Iterator[None]:
    """Our engine writes as many tokens as drawn for each prompt; the last of them becomes an end token."""
    write = engine.generate

    def limited(model: Any, prompts: list[list[int]], **settings: Any) -> Any:
        made = write(model, prompts, **{**settings, "ends": [NEVER], "max_new_tokens": draw(len(prompts))})
        return made._replace(token_ids=[[*ids[:-1], ends[0]] for ids in made.token_ids])

    with mock.patch.object(engine, "generate", limited):
        yield


# ---- measuring -----------------------------------------------------------------------------


class StepBench:
    """A model, rows and settings; `train` trains one of the trainers and keeps the median seconds of its steps."""

    def __init__(self, model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, Any]], shortest: int) -> None:
        assert spec.grace is not None and spec.generation is not None
        self.model, self.tokenizer, self.spec, self.rows = model, tokenizer, spec, rows
        self.shortest, self.grace, self.generation = shortest, spec.grace, spec.generation
        self.template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
        self.found: dict[str, list[dict[str, float]]] = {"plain": [], "grace": []}
        self.peaks: dict[str, float | None] = {}

    def draws(self) -> Callable[[int], list[int]]:
        """Gives the lengths of a step's n rationales, step after step: of the first m the same for any n >= m."""
        step, longest = itertools.count(), self.generation.max_new_tokens
        return lambda n: np.random.default_rng(next(step)).integers(self.shortest, longest + 1, n).tolist()

    def train(self, name: str) -> None:
        common.gpu_peak()
        with tempfile.TemporaryDirectory() as folder:
            trainer: Any = self.grace_trainer(folder) if name == "grace" else self.plain_trainer(folder)
            trainer.remove_callback(PrinterCallback)
            clock = StepClock()
            trainer.add_callback(clock)
            clock.time(trainer, "_prepare_inputs", "prepare")
            clock.time(trainer, "_generate_single_turn", "generate")
            clock.time(trainer, "_calculate_rewards", "reward")
            with given_lengths(self.draws(), trainer.ends) if name == "grace" else nullcontext():
                trainer.train()
        self.found[name].append(_medians(clock.laps))
        self.peaks[name] = common.gpu_peak()

    def _arguments(self, folder: str) -> Any:
        args = grpo_config(self.spec, folder, len(self.rows))
        args.save_strategy, args.disable_tqdm = SaveStrategy.NO, True
        return args

    def grace_trainer(self, folder: str) -> GraceTrainer:
        return GraceTrainer(copy.deepcopy(self.model), self.tokenizer, self.spec, self.rows, self._arguments(folder))

    def plain_trainer(self, folder: str) -> Plain:
        args = self._arguments(folder)
        args.reward_weights = None
        data = training_set(self.rows, self.spec.data)
        model, texts = copy.deepcopy(self.model), list(data["prompt"])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not any(part in name for part in self.grace.frozen))
        order = {"mini_repeat_count": self.grace.rollouts, "batch_size": self.grace.instances}
        order |= {"repeat_count": args.steps_per_generation, "seed": args.seed}
        prompts = dict(zip(texts, self.template.ids(texts), strict=True))
        settings = {"args": args, "train_dataset": data, "processing_class": self.tokenizer}
        return Plain(prompts=prompts, draw=self.draws(), order=order, model=model, **settings)

    def pooling_seconds(self, repeats: int) -> float:
        """Seconds that pooling adds to the writing of one step's rationales."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.grace_trainer(folder)
        some = self.rows[: self.grace.instances]
        texts = [row["positive"] for row in some for _ in range(self.grace.rollouts)]
        texts += [text for row in some for text in (row["query"], *row["negatives"])]
        prompts = self.template.ids(texts)
        each: dict[str, Any] = {
            "keys": list(range(len(prompts))),
            "temperatures": [1.0] * len(prompts),
            "max_new_tokens": self.draws()(len(texts)),
        }

        def write(pooling: Any) -> None:
            shared: dict[str, Any] = {"pool_from": len(self.template.prefix), "batch_size": self.generation.batch_size}
            with trainer.policy() as model:
                made = engine.generate_batches(model, prompts, pooling=pooling, ends=[NEVER], **each, **shared)
                collections.deque(made, maxlen=0)

        ways = {"with": partial(write, DEFAULT_POOLING), "without": partial(write, None)}
        seconds = common.interleaved(ways, repeats)
        return statistics.median(a - b for a, b in zip(seconds["with"], seconds["without"], strict=True))

    def measure(self, repeats: int) -> dict[str, Any]:
        """The entry of this benchmark."""
        common.interleaved({name: partial(self.train, name) for name in self.found}, repeats)
        plain, grace = (self.found[name][1:] for name in ("plain", "grace"))  # the first call warms up
        k = self.grace.rollouts
        more = (k + 1 + len(self.rows[0]["negatives"])) / k
        limits = [more * one["generate"] + one["update"] for one in plain]
        steps = [one["step"] for one in grace]
        split = {name: _medians(found) for name, found in (("plain", plain), ("grace", grace))}
        split["grace"]["pool"] = self.pooling_seconds(repeats)
        split["grace"]["generate"] -= split["grace"]["pool"]
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
    """Of a step and its parts, so they add up only about."""
    names = ("generate", "reward", "other", "update", "step")
    return {name: statistics.median(one[name] for one in found) for name in names}


# ---- what is trained -----------------------------------------------------------------------


def prepare(arguments: argparse.Namespace) -> StepBench:
    """Raises: UserError for settings that do not fit each other."""
    new, rollouts = arguments.new, arguments.rollouts
    model, tokenizer, what = _model(arguments)
    prompt = DEFAULT_PROMPT if "random weights" in what else common.prompt_of(arguments.model or common.DEMO)
    prompt = prompt.model_copy(update={"max_prompt_tokens": min(prompt.max_prompt_tokens, arguments.prompt)})
    source = arguments.rows or (DEMO_ROWS if what == "demo backbone" and DEMO_ROWS.exists() else None)
    few = "random weights" in what  # and larger than the demo's
    instances, steps = arguments.instances or (4 if few else 16), (arguments.steps or (2 if few else 4)) + 1
    if source:
        rows = [
            {**row, "negatives": row.get("negatives") or []}
            for row in read_jsonl(source, need=("id", "query", "positive"))
        ]
    else:  # real words that mean nothing together: what a step costs does not depend on it
        texts = iter(common.texts(tokenizer, 3 * instances * steps, 0, median=arguments.median_text))
        rows = [
            {"id": str(i), "query": next(texts), "positive": next(texts), "negatives": [next(texts)]}
            for i in range(instances * steps)
        ]
    cuda = torch.cuda.is_available()
    rationales = instances * (rollouts + 1 + len(rows[0]["negatives"]))
    spec = demo_spec(
        {"prompt": prompt.model_dump(), "pooling": DEFAULT_POOLING.model_dump(), "keep_steps": []},
        generation={"max_new_tokens": new, "batch_size": arguments.batch or rationales},
        grace={
            "instances": instances,
            "rollouts": rollouts,
            "max_steps": steps,
            "save_steps": steps,
            "rollouts_per_forward": arguments.forward or min(8 if cuda else 32, instances * rollouts),
            "precision": "bf16" if cuda else "fp32",
            "gradient_checkpointing": cuda,
        },
    )
    shortest = new // 4 if arguments.shortest is None else arguments.shortest
    if not 1 <= shortest <= new:
        raise UserError(f"--shortest must lie between 1 and --new ({new}), not {shortest}.")
    print(
        f"{what}; {instances} instances, K = {rollouts}, {shortest} - {new} new tokens; {common.hardware()}", flush=True
    )
    return StepBench(model, tokenizer, spec, rows, shortest)


def _model(arguments: argparse.Namespace) -> tuple[Any, Any, str]:
    """Model in float32, tokenizer, and what they are."""
    if arguments.backbone:
        length = arguments.prompt + arguments.new
        model: Any = common.shaped_model(arguments.backbone, length, torch.device("cpu"))
        tokenizer = common.random_tokenizer(min(model.config.vocab_size, 8192))
        what = f"{arguments.backbone}, random weights"
    elif arguments.random:
        width, _, layers = arguments.random.partition("x")
        if not (width.isdigit() and layers.isdigit()):
            raise UserError(f"--random must be WIDTHxLAYERS, such as 384x8, not {arguments.random!r}.")
        model, tokenizer = common.random_model(int(width), int(layers), device="cpu")
        what = f"random weights, width {int(width)}, {int(layers)} layers"
    elif arguments.model is None and not common.DEMO.exists():
        model, tokenizer = common.random_model(layers=4, device="cpu")  # 12 M of them
        what = "random weights"
    else:
        model, tokenizer, what = common.backbone_or_random(arguments.model, "cpu")
    return model.float(), tokenizer, what


def demo_spec(values: dict[str, Any], **sections: dict[str, Any]) -> TrainSpec:
    """The demo's training, changed by `values`, and in `sections` by theirs."""
    config = read_config(common.ROOT / "config.yaml")
    known = json.loads(Plan({**config, "study": "demo"}).spec_train("grace", 0)) | values
    return build(TrainSpec, known | {name: known[name] | given for name, given in sections.items()}, "spec")


@in_one_sentence()
def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--model", type=Path, help="folder of a model; by default the demo's backbone, if there is one")
    parser.add_argument("--random", metavar="WIDTHxLAYERS", help="random weights instead")
    parser.add_argument("--backbone", help="random weights in the shape of this one of available_backbones")
    parser.add_argument("--rows", type=Path, help="training rows, as of `grace.data.lengths`")
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
    entry = prepare(arguments).measure(arguments.repeats)
    rows = [
        [name, *(f"{parts[part]:.3f}" if part in parts else None for part in (*PARTS, "step")), entry["peak_gb"][name]]
        for name, parts in entry["split"].items()
    ]
    ratio = common.spread([entry[key] for key in ("low", "ratio", "high")], 3)
    print(common.table(COLUMNS, rows))
    print(f"\nGRACE step / limit ({entry['limit']:.3f} s): {ratio}; ", end="")
    print(f"GRACE step / plain step: {entry['step_vs_plain']:.3f}")
    common.write(arguments.json, [entry])


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    logging.getLogger("grace").setLevel(logging.ERROR)  # that some terms teach nothing is true and known
    main()
