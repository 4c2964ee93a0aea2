"""Rationale engine on a transformers model: generates and pools in the same forward passes.

Every hidden state that eq. 11 averages is computed while the rationale is written, so pooling
as we go saves the second forward. The decoder is called without its language-model head, and
the head only where a token is sampled.

Which tokens are pooled, here and in `embed`: the text, the template's glue after it, and the
rationale without its last sampled token. That token (the end token, or the one at the length
limit) is never fed back, so it has no hidden state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from grace.encoder.sampling import sample
from grace.method.pooling import pool
from grace.section import UserError
from grace.settings import Pooling

# Rows are dropped from the batch once this share of them has finished: copying the cache costs too.
COMPACT_AT = 0.25


class Written(NamedTuple):
    """One finished batch of n rationales and embeddings."""

    rows: list[int]  # which of the prompts given
    token_ids: list[list[int]]  # with the end token, if it was reached
    truncated: list[bool]  # the limit was reached without an end token
    pooled: Tensor  # [n, d] float32, not normalised, on the CPU


class Rationales(NamedTuple):
    """N rationales and embeddings, in the order of the prompts."""

    token_ids: list[list[int]]  # with the end token, if it was reached
    truncated: Tensor  # [N] bool: the limit was reached without an end token
    pooled: Tensor  # [N, d] float32, not normalised


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end a rationale: the generation config's and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return sorted({*ends, tokenizer.eos_token_id} - {None})


def generate(model: Any, prompts: list[list[int]], **settings: Any) -> Rationales:
    """All of `generate_batches` (with its arguments), in the order of the prompts."""
    pooled = torch.empty(len(prompts), model.config.get_text_config().hidden_size)
    written: list[list[int]] = [[] for _ in prompts]
    truncated = torch.zeros(len(prompts), dtype=torch.bool)
    for batch in generate_batches(model, prompts, **settings):
        pooled[batch.rows] = batch.pooled
        truncated[batch.rows] = torch.as_tensor(batch.truncated)
        for row, tokens in zip(batch.rows, batch.token_ids, strict=True):
            written[row] = tokens
    return Rationales(written, truncated, pooled)


@torch.no_grad()
def generate_batches(
    model: Any,
    prompts: list[list[int]],
    *,
    pool_from: int,
    pooling: Pooling,
    keys: list[int],
    temperatures: list[float],
    max_new_tokens: int,
    ends: list[int],
    batch_size: int,
) -> Iterator[Written]:
    """Write a rationale for each prompt and pool it on the way; yields batches as they finish, longest prompts first.

    Args:
        model: a causal LM of transformers, unwrapped.
        prompts: token ids.
        pool_from: L_sys, the number of leading tokens that are not pooled (eq. 11).
        keys: one per prompt (`sampling.text_key`); the sampled tokens depend on it and on the prompt alone.
        temperatures: one per prompt; 0 is greedy.
        ends: ids that end a rationale.
        batch_size: prompts per batch.

    Raises:
        UserError: when the model turns hidden states into logits by more than a linear head.
    """
    if any(getattr(model.config, name, None) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")):
        raise UserError(
            f"{model.config.model_type}: this architecture rescales its logits, which the engine does not do."
        )
    device = next(model.parameters()).device
    # Longest first: a batch pads little, and too large a batch fails at once instead of an hour later.
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask = left_pad([prompts[i] for i in rows], device)
        batch = _Batch(model, ids, mask, pool_from, pooling)
        batch.decode(
            torch.tensor([keys[i] for i in rows], device=device),
            torch.tensor([temperatures[i] for i in rows], device=device),
            max_new_tokens,
            torch.tensor(ends, device=device),
        )
        lengths = batch.lengths.tolist()
        tokens = [ids[:length] for ids, length in zip(batch.tokens.tolist(), lengths, strict=True)]
        yield Written(rows, tokens, [ids[-1] not in ends for ids in tokens], batch.result().cpu())


class _Batch:
    """One batch: prefill at construction, then `decode`."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, pool_from: int, pooling: Pooling) -> None:
        self.model, self.pooling = model, pooling
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.cache = DynamicCache(config=model.config)
        self.mask = mask
        position = (mask.cumsum(1) - 1).clamp(min=0)
        self.position = position[:, -1]
        hidden, self.last = self._forward(ids, position)
        use = (mask.bool() & (position >= pool_from)).unsqueeze(-1)
        self.count = use.sum(1).float()
        if pooling.method == "mean":
            self.pooled = (hidden.float() * use).sum(1)
        else:
            self.pooled = pool(hidden.float(), use.squeeze(-1), pooling.method)

    def _forward(self, ids: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states to pool [n, l, d] and the last position's, which the head reads [n, d]."""
        deeper = self.pooling.layer == "penultimate"
        out = self.decoder(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
            output_hidden_states=deeper,
        )
        return (out.hidden_states[-2] if deeper else out.last_hidden_state), out.last_hidden_state[:, -1]

    def decode(self, keys: Tensor, temperatures: Tensor, limit: int, ends: Tensor) -> None:
        """Sample until every row has ended. Sets `tokens` [n, <= limit] and `lengths` [n]."""
        total = len(keys)
        self.tokens = torch.zeros(total, limit, dtype=torch.long, device=keys.device)
        self.lengths = torch.full((total,), limit, device=keys.device)
        alive = torch.arange(total, device=keys.device)  # row of the batch that each cache row serves
        running = torch.ones(total, dtype=torch.bool, device=keys.device)
        for step in range(limit):
            token = sample(self.head(self.last), keys, step, temperatures)
            self.tokens[alive, step] = token
            ended = torch.isin(token, ends) & running
            self.lengths[alive[ended]] = step + 1
            running = running & ~ended
            left = int(running.sum())
            if left == 0 or step == limit - 1:
                break
            if left <= (1 - COMPACT_AT) * len(alive):
                keep = running.nonzero().squeeze(1)
                self.cache.batch_select_indices(keep)
                self.mask, self.position = self.mask[keep], self.position[keep]
                alive, keys, temperatures = alive[keep], keys[keep], temperatures[keep]
                token, running = token[keep], running[keep]
            self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), 1)
            self.position = self.position + 1
            hidden, self.last = self._forward(token.unsqueeze(1), self.position.unsqueeze(1))
            self._add(alive[running], hidden[running, 0].float())
        self.tokens = self.tokens[:, : step + 1]

    def _add(self, rows: Tensor, hidden: Tensor) -> None:
        if self.pooling.method == "mean":
            self.pooled[rows] += hidden
            self.count[rows] += 1
        elif self.pooling.method == "max":
            self.pooled[rows] = torch.maximum(self.pooled[rows], hidden)
        else:
            self.pooled[rows] = hidden

    def result(self) -> Tensor:
        return self.pooled / self.count.clamp(min=1) if self.pooling.method == "mean" else self.pooled


def embed(
    model: Any,
    sequences: list[list[int]],
    *,
    pool_from: int,
    pooling: Pooling,
    batch_size: int,
) -> Tensor:
    """All of `embed_batches`: [N, d] float32, not normalised, in the order of `sequences`, gradients kept."""
    pooled: list[Tensor] = [torch.empty(0)] * len(sequences)
    for rows, vectors in embed_batches(model, sequences, pool_from=pool_from, pooling=pooling, batch_size=batch_size):
        for row, vector in zip(rows, vectors, strict=True):
            pooled[row] = vector
    return torch.stack(pooled) if pooled else torch.empty(0, model.config.get_text_config().hidden_size)


def embed_batches(
    model: Any,
    sequences: list[list[int]],
    *,
    pool_from: int,
    pooling: Pooling,
    batch_size: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """Pool given token sequences by a forward pass: direct embeddings, or rationales that another engine wrote.

    Args:
        model: a causal LM of transformers, or a wrapper that forwards to one.
        sequences: token ids; every token from `pool_from` on is pooled.

    Yields:
        Rows of `sequences` and their embeddings [n, d] float32, longest first.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask = left_pad([sequences[i] for i in rows], device)
        yield rows, forward_pooled(model, ids, mask, pool_from, pooling)


def forward_pooled(model: Any, ids: Tensor, mask: Tensor, pool_from: int, pooling: Pooling) -> Tensor:
    """[N, d] float32 embeddings of padded `ids` [N, L] with `mask` [N, L], gradients kept."""
    position = (mask.cumsum(1) - 1).clamp(min=0)
    deeper = pooling.layer == "penultimate"
    out = model.get_decoder()(
        input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False, output_hidden_states=deeper
    )
    hidden = out.hidden_states[-2] if deeper else out.last_hidden_state
    return pool(hidden.float(), mask.bool() & (position >= pool_from), pooling.method)


def left_pad(rows: list[list[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Token rows of different lengths as ids [N, L] (0 where padded) and mask [N, L]."""
    width = max(1, max(map(len, rows)))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
    return ids.to(device), mask.to(device)
