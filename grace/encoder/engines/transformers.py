"""Rationale engine on a transformers model: generates and pools in the same forward passes.

Every hidden state that eq. 11 averages is computed while the rationale is written, so pooling as we go saves the second
forward. The decoder is called without its language-model head, and the head only where a token is sampled.

Rows are written in slots of a cache: prompts are read longest first, and when rows have ended, the next prompts take
their slots, so that no row waits for the slowest. Equal prompts, and what all prompts begin with, are read once.

Pooled are the text, the template's glue after it, and the rationale without its last sampled token. That token (the end
token, or the one at the length limit) is never fed back, so it has no hidden state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grace.config.schema import Pooling
from grace.config.section import UserError
from grace.encoder.engines.forward import Reader, Slots, attending, batches, compiled
from grace.encoder.reads import Read
from grace.encoder.sampling import sample
from grace.method.prompt import turn_end

# Free slots wait for the next prompts until this share of all is free, or the prompts fill a forward pass: reading
# a few tokens costs as much as reading some hundred.
REFILL_AT = 0.125


class Written(NamedTuple):
    """Some rationales and embeddings that are finished, n of them."""

    rows: list[int]  # which of the prompts given
    token_ids: list[list[int]]  # with the end token, if it was reached before the limit
    pooled: Tensor  # [n, d] float32, not normalised, on the CPU; [n, 0] where nothing is pooled


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end a rationale: the generation config's, the tokenizer's and the one that ends a turn of the chat.

    Raises: UserError when there is none.
    """
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if wrong := [end for end in ends if not isinstance(end, int | None)]:
        raise UserError(
            f"{tokenizer.name_or_path}: generation_config.json: eos_token_id is {wrong[0]!r}; give a token's number."
        )
    found = sorted({*ends, tokenizer.eos_token_id, *turn_end(tokenizer)} - {None})
    if not found:
        raise UserError(
            f"{tokenizer.name_or_path}: no token ends a reply, so no rationale would ever end; set eos_token in "
            "tokenizer_config.json, or eos_token_id in generation_config.json."
        )
    return found


def generate(model: Any, prompts: list[list[int]], **settings: Any) -> Written:
    """All of `generate_batches` (with its arguments), in the order of the prompts."""
    width = 0 if settings["pooling"] is None else model.config.get_text_config().hidden_size
    made = Written(list(range(len(prompts))), [[] for _ in prompts], torch.empty(len(prompts), width))
    for rows, token_ids, pooled in generate_batches(model, prompts, **settings):
        made.pooled[rows] = pooled
        for row, ids in zip(rows, token_ids, strict=True):
            made.token_ids[row] = ids
    return made


def generate_batches(
    model: Any,
    prompts: list[list[int]],
    *,
    pool_from: int,
    pooling: Pooling | None,
    keys: list[int],
    temperatures: list[float],
    max_new_tokens: int | list[int],
    ends: list[int],
    batch_size: int,
    compile: bool = False,
) -> Iterator[Written]:
    """Write a rationale for each prompt and pool it on the way; yields about `batch_size` at a time, as they finish.

    Args:
        model: a causal LM of transformers, unwrapped.
        prompts: token ids, none empty.
        pool_from: the first token of a prompt that is pooled, as L_sys (eq. 11); counted from its end where negative.
        pooling: None pools nothing.
        keys: one per prompt (`sampling.text_key`); the sampled tokens depend on it and on the prompt alone.
        temperatures: one per prompt; 0 is greedy.
        max_new_tokens: the limit of all rationales, or one per prompt; at least 1.
        ends: ids that end a rationale.
        batch_size: rationales that are written side by side.
        compile: let torch compile the pass that reads one token of each, with CUDA graphs on a GPU; that takes
            minutes once.

    Raises:
        UserError: when the model turns hidden states into logits by more than a linear head, or attends in a way that
            torch's attention function does not know.
    """
    kind, config = model.config.model_type, model.config
    if any(getattr(config, name, None) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")):
        raise UserError(f"{kind}: this architecture rescales its logits, which the engine does not do.")
    if not model._supports_sdpa or getattr(config, "attn_logit_softcapping", None):
        raise UserError(f"{kind}: this architecture has an attention of its own, which the engine does not know.")
    if not prompts:
        return
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    with torch.no_grad(), attending(model):
        writer = _Writer(model, prompts, pool_from, pooling, keys, temperatures, limits, ends, batch_size, compile)
    while writer.queue or writer.rows:
        with torch.no_grad(), attending(model):
            while (writer.queue or writer.rows) and len(writer.done) < batch_size:
                writer.fill()
                writer.step()
        rows, token_ids, pooled = map(list, zip(*writer.done, strict=True))
        writer.done = []
        yield Written(rows, token_ids, torch.stack(pooled).cpu())


@dataclass
class _State:
    """What belongs to each of S slots besides its keys and values."""

    keys: Tensor  # [S] int64
    temperatures: Tensor  # [S]
    limits: Tensor  # [S] tokens that may be written
    steps: Tensor  # [S] tokens that are written
    starts: Tensor  # [S] the first token that is pooled
    lengths: Tensor  # [S] tokens in the cache
    token: Tensor  # [S] the last one written
    tokens: Tensor  # [S, limit]
    hidden: Tensor  # [S, d] of the last position
    pooled: Tensor  # [S, d] float32; the sum, where the mean is asked for


def _draw(head: Any, hidden: Tensor, keys: Tensor, steps: Tensor, temperatures: Tensor | None) -> Tensor:
    """The next token of each row, [n]; the likeliest one without temperatures."""
    logits = head(hidden)
    return logits.argmax(-1) if temperatures is None else sample(logits, keys, steps, temperatures)


class _Writer:
    """The prompts that wait (`queue`, the next one last), the rows in their slots, and the rationales that are done."""

    def __init__(
        self,
        model: Any,
        prompts: list[list[int]],
        pool_from: int,
        pooling: Pooling | None,
        keys: list[int],
        temperatures: list[float],
        limits: list[int],
        ends: list[int],
        batch_size: int,
        compile: bool,
    ) -> None:
        self.prompts, self.keys, self.temperatures, self.limits = prompts, keys, temperatures, limits
        self.pooling, self.head = pooling, model.get_output_embeddings()
        self.greedy = not any(temperatures)
        # Longest first: neighbours pad little, and too large a batch fails at once instead of an hour later.
        self.queue = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
        self.size = min(batch_size, len(prompts))
        # The last token written is never read.
        capacity = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)) - 1
        layers = model.config.get_text_config().num_hidden_layers
        self.cache = Slots(self.size, capacity, layers, fixed=compile)
        self.reader = Reader(model, self.cache, pooling, compile)
        self.starts = [min(pool_from, len(prompt) - 1) % len(prompt) for prompt in prompts]
        self.reader.read_prefix(prompts, min(self.starts))
        self.ending = torch.tensor(ends, device=self.reader.device)
        self.rows: list[int] = []  # of `prompts`, that the slots in use serve
        self.lengths: list[int] = []  # `state.lengths` of these slots, without asking the device
        self.state: _State | None = None
        self.done: list[tuple[int, list[int], Tensor]] = []

    def fill(self) -> None:
        """Read the next prompts into the free slots, if that is worth a forward pass now."""
        free = min(self.size - len(self.rows), len(self.queue))
        waiting = self.queue[len(self.queue) - free :][::-1]
        tokens = sum(len(self.prompts[i]) - self.cache.prefix for i in waiting)
        if not free or (self.rows and free < REFILL_AT * self.size and tokens < self.reader.max_tokens):
            return
        del self.queue[len(self.queue) - free :]
        owners: dict[tuple[int, ...], list[int]] = {}  # of each distinct prompt
        for i in waiting:
            owners.setdefault(tuple(self.prompts[i]), []).append(i)
        distinct = list(owners)
        for some in batches([len(prompt) - self.cache.prefix for prompt in distinct], self.reader.max_tokens):
            read = [Read(list(distinct[i]), self.starts[owners[distinct[i]][0]], len(distinct[i])) for i in some]
            pooled, hidden = self.reader.read(read)
            source = [(number, row) for number, i in enumerate(some) for row in owners[distinct[i]]]
            self._place([row for _, row in source], torch.tensor([number for number, _ in source]), pooled, hidden)

    def _place(self, rows: list[int], source: Tensor, pooled: Tensor, hidden: Tensor) -> None:
        """Give the next free slots to `rows`, whose prompts are the rows `source` of what was read last."""
        device, lengths = self.reader.device, [len(self.prompts[row]) for row in rows]
        if self.state is None:
            self.state = self._empty(pooled, hidden)
        slots = torch.arange(len(self.rows), len(self.rows) + len(rows), device=device)
        source = source.to(device)
        self.cache.place(slots, source)
        state = self.state
        for name in ("keys", "temperatures", "limits", "starts"):
            values = getattr(self, name)
            getattr(state, name)[slots] = torch.tensor([values[row] for row in rows], device=device)
        state.steps[slots] = 0
        state.lengths[slots] = torch.tensor(lengths, device=device)
        state.hidden[slots], state.pooled[slots] = hidden[source], pooled[source]
        self.rows += rows
        self.lengths += lengths

    def _empty(self, pooled: Tensor, hidden: Tensor) -> _State:
        def whole(*shape: int) -> Tensor:
            return torch.zeros(self.size, *shape, dtype=torch.long, device=hidden.device)

        return _State(
            keys=whole(),
            temperatures=torch.zeros(self.size, device=hidden.device),
            limits=whole(),
            steps=whole(),
            starts=whole(),
            lengths=whole() + self.cache.prefix,
            token=whole(),
            tokens=whole(max(self.limits)),
            hidden=hidden.new_zeros(self.size, hidden.shape[1]),
            pooled=pooled.new_zeros(self.size, pooled.shape[1]),
        )

    def step(self) -> None:
        """Write one more token of every row."""
        at, n = self.state, len(self.rows)
        assert at is not None
        read = self.size if self.reader.compiled else n  # what is compiled has one shape
        drawn = (compiled(_draw) if self.reader.compiled else _draw)(
            self.head,
            at.hidden[:read],
            at.keys[:read],
            at.steps[:read],
            None if self.greedy else at.temperatures[:read],
        )
        at.token[:n] = drawn[:n]
        at.tokens[torch.arange(n, device=drawn.device), at.steps[:n]] = at.token[:n]
        at.steps[:n] += 1
        over = torch.isin(at.token[:n], self.ending) | (at.steps[:n] >= at.limits[:n])
        self._finish(at, over.tolist())
        if n := len(self.rows):
            read = self.size if self.reader.compiled else n
            hidden, last = self.reader.feed(at.token[:read], at.lengths[:read], max(self.lengths) + 1)
            at.hidden[:n] = last[:n]
            at.lengths[:n] += 1
            self.lengths = [length + 1 for length in self.lengths]
            self._pool(at.pooled[:n], hidden[:n].float())

    def _pool(self, pooled: Tensor, hidden: Tensor) -> None:
        if self.pooling is None:
            return
        if self.pooling.method == "mean":
            pooled += hidden
        elif self.pooling.method == "max":
            torch.maximum(pooled, hidden, out=pooled)
        else:
            pooled.copy_(hidden)

    def _finish(self, at: _State, over: list[bool]) -> None:
        """Take the rows that are over out of their slots, and move the last ones into the gaps."""
        ended = [slot for slot, done in enumerate(over) if done]
        if not ended:
            return
        pooled = at.pooled[ended]
        if self.pooling is not None and self.pooling.method == "mean":
            pooled /= (at.lengths[ended] - at.starts[ended]).unsqueeze(1)
        written = zip(ended, at.tokens[ended].tolist(), at.steps[ended].tolist(), pooled, strict=True)
        self.done += [(self.rows[slot], ids[:count], vector) for slot, ids, count, vector in written]
        keep = len(over) - len(ended)
        gaps = [slot for slot in ended if slot < keep]
        movers = [slot for slot in range(keep, len(over)) if not over[slot]]
        for gap, mover in zip(gaps, movers, strict=True):
            self.rows[gap], self.lengths[gap] = self.rows[mover], self.lengths[mover]
        del self.rows[keep:], self.lengths[keep:]
        if gaps:
            to, of = (torch.tensor(slots, device=at.keys.device) for slots in (gaps, movers))
            for part in vars(at).values():
                part[to] = part[of]
            self.cache.move(to, of, max(self.lengths))
