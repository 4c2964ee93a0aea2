"""lm-eval's model of transformers, which reads a context once for all its continuations, and lets a model think.

A choice between labels asks for as many continuations of one context, and the demo's choice puts each description
before some four queries; lm-eval reads the context again for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm

from grace.config.section import UserError
from grace.evaluation.answers import without_thought

CPU_TOKENS = 1024  # read together; a CPU is fastest while they fit its cache
CACHED_TEXTS = 1024  # texts whose tokens are remembered: one context is asked for with each of its continuations
THOUGHT = 2048  # tokens that a thought may take beside the answer


class Row(NamedTuple):
    """A context and continuations of it, one after the other in a row of a forward pass; no last token is read."""

    context: list[int]
    continuations: list[list[int]]
    requests: list[int]  # whose these are

    @property
    def length(self) -> int:
        return len(self.context) + sum(len(tokens) - 1 for tokens in self.continuations)


class SharedContexts(HFLM):
    """HFLM whose log-likelihoods are the same up to floating-point error, and whose replies may hold a thought."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._tokens = lru_cache(CACHED_TEXTS)(super().tok_encode)
        super().__init__(*args, **kwargs)

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        return list(self._tokens(string, *args, **kwargs))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        try:
            return super().apply_chat_template(chat_history, add_generation_prompt)
        except Exception as error:  # whatever the template's author chose
            roles = ", ".join(turn["role"] for turn in chat_history)
            raise UserError(
                f"the model's chat template refuses these turns of a general task: {roles} ({error}); "
                "use another backbone, or take the task out of general.tasks."
            ) from None

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Replies, each from its <think> on where the prompt has opened it.

        One whose thought has not ended is asked for again with up to THOUGHT more tokens, as far as prompts leave room.
        """
        replies = self._replies(requests, 0, disable_tqdm)
        thinking = [i for i, reply in enumerate(replies) if without_thought(reply) is None]
        if thinking:
            again = [requests[i] for i in thinking]
            longest = max(len(self.tok_encode(one.args[0])) + one.args[1]["max_gen_toks"] for one in again)
            if (more := min(THOUGHT, self.max_length - longest)) > 0:
                for i, reply in zip(thinking, self._replies(again, more, disable_tqdm), strict=True):
                    replies[i] = reply
        return replies

    def _replies(self, requests: list[Any], more: int, disable_tqdm: bool) -> list[str]:
        """Replies of up to `more` tokens beside those that are asked for."""
        longer = [
            replace(one, arguments=(prompt, {**settings, "max_gen_toks": settings["max_gen_toks"] + more}))
            for one in requests
            for prompt, settings in [one.args]
        ]
        replies = super().generate_until(longer, disable_tqdm)
        return ["<think>" * _opened(one.args[0]) + reply for one, reply in zip(requests, replies, strict=True)]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of continuations of a prompt that opens a thought: behind an empty one, since they are answers."""
        closed = [replace(one, arguments=(_closed(one.args[0]), one.args[1])) for one in requests]
        return super().loglikelihood(closed, disable_tqdm)

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """For each (_, context, continuation): the continuation's log-likelihood, whether each token is the likeliest.

        A context too long for the model loses its beginning.
        """
        if not _simple(self.model.config.get_text_config()):
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with tqdm(total=len(requests), desc="log-likelihoods", disable=disable_tqdm, mininterval=5) as bar:
            for batch in _batches(_rows(requests, self.max_length), self.batch_size, self.device.type == "cpu"):
                for request, answer in self._score(batch):
                    answers[request] = answer
                    bar.update()
        return answers

    def _score(self, rows: list[Row]) -> Iterator[tuple[int, tuple[float, bool]]]:
        ids, position, mask, *asked = (part.to(self.device) for part in _tensors(rows))
        row, column, token = asked
        hidden = self.model.get_decoder()(
            input_ids=ids, position_ids=position, attention_mask=mask, use_cache=False
        ).last_hidden_state
        scores = torch.log_softmax(
            self.model.get_output_embeddings()(hidden[row, column]), dim=-1, dtype=self.softmax_dtype
        )
        found = scores.gather(1, token[:, None])[:, 0]
        likeliest = scores.amax(1) == found  # a search for where it is takes several times as long
        requests = [number for one in rows for number in one.requests]
        lengths = [len(tokens) for one in rows for tokens in one.continuations]
        for request, part, same in zip(requests, found.split(lengths), likeliest.split(lengths), strict=True):
            yield request, (float(part.sum()), bool(same.all()))


def _opened(prompt: str) -> bool:
    """Whether a prompt ends by opening a thought, as the templates of some models do."""
    return prompt.rstrip().endswith("<think>")


def _closed(prompt: str) -> str:
    return f"{prompt.rstrip()}\n\n</think>\n\n" if _opened(prompt) else prompt


def _simple(config: Any) -> bool:
    """Whether a model's attention takes a mask of ours, unlike one with a window, and its head is only linear."""
    rescaled = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return (
        config._attn_implementation == "sdpa"
        and getattr(config, "sliding_window", None) is None
        and not any(getattr(config, name, None) for name in rescaled)
    )


def _rows(requests: list[Any], longest: int) -> list[Row]:
    """Requests with the same context together, while their continuations are at most twice as long as it."""
    rows: list[Row] = []
    latest: dict[tuple[int, ...], Row] = {}
    for number, (_, context, continuation) in enumerate(requests):
        context = context[-(longest + 1 - len(continuation)) :]
        row = latest.get(tuple(context))
        if row is None or row.length + len(continuation) > 3 * len(context):
            row = latest[tuple(context)] = Row(context, [], [])
            rows.append(row)
        row.continuations.append(continuation)
        row.requests.append(number)
    return rows


def _batches(rows: list[Row], size: int, cpu: bool) -> Iterator[list[Row]]:
    """Rows of similar length, longest first."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: -row.length):
        if batch and (len(batch) == size or (cpu and (len(batch) + 1) * batch[0].length > CPU_TOKENS)):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _tensors(rows: list[Row]) -> tuple[Tensor, ...]:
    """Ids and positions [n, l], who attends to whom [n, 1, l, l] bool, and of every token of every continuation its
    row, the column that predicts it, and itself.

    A token attends to its context and its own continuation up to itself; padding is on the right, where nobody looks.
    """
    width = max(row.length for row in rows)
    ids, position, owner = torch.zeros(3, len(rows), width, dtype=torch.long)
    asked: list[tuple[int, int, int]] = []
    for i, row in enumerate(rows):
        start = at = len(row.context)
        ids[i, :at], position[i, :at] = torch.tensor(row.context), torch.arange(at)
        for number, tokens in enumerate(row.continuations, 1):
            end = at + len(tokens) - 1
            ids[i, at:end] = torch.tensor(tokens[:-1], dtype=torch.long)
            position[i, at:end] = torch.arange(start, start + end - at)
            owner[i, at:end] = number
            columns = [start - 1, *range(at, end)]
            asked += [(i, column, token) for column, token in zip(columns, tokens, strict=True)]
            at = end
    seen = (owner[:, None, :] == 0) | (owner[:, None, :] == owner[:, :, None])
    mask = (seen & torch.ones(width, width, dtype=torch.bool).tril()).unsqueeze(1)
    return ids, position, mask, *torch.tensor(asked).T
