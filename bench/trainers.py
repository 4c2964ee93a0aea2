"""What `bench.step` compares: TRL's trainer and ours, both with given lengths of rollouts, and a clock in each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TrainerCallback
from trl import GRPOTrainer

from grace.encoder.engines import transformers as engine
from grace.training.batches import GroupSampler

NEVER = -1  # an id that no model writes


class Clock(TrainerCallback):
    """Seconds of the parts of each step; [steps] lists in `laps`, the first step left out."""

    def __init__(self) -> None:
        self.now, self.laps = dict[str, float](), list[dict[str, float]]()
        self.count, self.last = 0, 0.0

    def timed(self, trainer: Any, method: str, name: str) -> None:
        """Let the clock run as `name` while `method` of this trainer does."""
        inner = getattr(trainer, method)

        def outer(*args: Any, **kwargs: Any) -> Any:
            started = _time()
            try:
                return inner(*args, **kwargs)
            finally:
                self.now[name] = self.now.get(name, 0.0) + _time() - started

        setattr(trainer, method, outer)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.last = _time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = _time()
        if self.count:
            self.laps.append({**self.now, "step": now - self.last})
        self.count, self.last, self.now = self.count + 1, now, {}

    def median(self) -> dict[str, float]:
        """Seconds of a step and its parts: medians over steps, so they add up only about."""
        each = [
            {
                "generate": lap["generate"],
                "reward": lap["reward"],
                "other": lap["prepare"] - lap["generate"] - lap["reward"],
                "update": lap["step"] - lap["prepare"],
                "step": lap["step"],
            }
            for lap in self.laps
        ]
        return {name: statistics.median(lap[name] for lap in each) for name in each[0]}


def _time() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


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
        super().__init__(reward_funcs=_trivial, **settings)
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
        own = EndAt(input_ids.shape[1], lengths, [*ends, self._tokenizer.pad_token_id], ends[0])
        return self.generate(input_ids=input_ids, logits_processor=LogitsProcessorList([own]), **settings)


def _trivial(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    return [float(ids[0] % 2) for ids in completion_ids]


@contextmanager
def lengths_given(draw: Callable[[int], list[int]], ends: list[int]) -> Iterator[None]:
    """Our engine writes as many tokens as drawn for each prompt; the last of them becomes an end token."""
    write = engine.generate

    def limited(model: Any, prompts: list[list[int]], **settings: Any) -> Any:
        made = write(model, prompts, **{**settings, "ends": [NEVER], "max_new_tokens": draw(len(prompts))})
        return made._replace(token_ids=[[*ids[:-1], ends[0]] for ids in made.token_ids])

    with mock.patch.object(engine, "generate", limited):
        yield
