"""The policy's log-probabilities of rollouts, on a CPU: a group's prompt is read once for all its rollouts.

TRL's chunked kernel saves memory on a GPU; on a CPU a plain log-softmax is faster and its logits fit
(docs/measurements.md). The K rollouts of an instance follow one prompt, so where that is less work they share a row:

    prompt without its last token | last token, rollout 1 | last token, rollout 2 | ...     each without its own end

A token attends to the prompt and to what is before it in its own rollout. Positions go on from the prompt in each
rollout, so a column after the prompt predicts the token that it would predict in a row of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# Architectures known to attend by a given [n, 1, T, T] mask and nothing else.
SHARING = ("llama", "qwen2", "qwen3")

Scores = tuple[Tensor, Tensor | None]  # log-probabilities and entropies


class SharedRows(NamedTuple):
    """g groups of `size` rollouts as rows of T columns, of which the last S follow the prompts."""

    ids: Tensor  # [g, T]
    position: Tensor  # [g, T]
    mask: Tensor  # [g, 1, T, T] bool: may attend
    targets: Tensor  # [g, S] token that a column predicts, 0 where none counts
    counts: Tensor  # [g * size, L] bool: rollouts' tokens
    row: Tensor  # [n] where in [g, S] these n tokens are predicted
    column: Tensor  # [n]

    def per_rollout(self, values: Tensor) -> Tensor:
        """[N, L] with zeros at padding, of values [g, S]."""
        return values.new_zeros(self.counts.shape).masked_scatter(self.counts, values[self.row, self.column])


def log_probabilities(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    new: int,
    *,
    config: Any,
    size: int,
    batch_size: int,
    temperature: float,
    entropy: bool,
) -> Scores:
    """Log-probabilities of the last `new` tokens, and the entropies of what they were drawn from.

    Args:
        model: a causal LM, or a wrapper that forwards to one.
        ids: [N, P + new], prompts padded on the left, rollouts on the right.
        mask: [N, P + new], 1 where there is a token.
        config: the causal LM's.
        size: so many rows, one after the other, may have a common prompt.
        batch_size: rollouts that go through the model together.
        temperature: of sampling; logits are divided by it.

    Returns:
        Two of [N, new]; no gradients through the entropies. Values at padding have no meaning.
    """
    parts = []
    for some, there in zip(ids.split(batch_size), mask.split(batch_size), strict=True):
        shared = None
        if _have_one_prompt(some, new, size) and attends_by_mask(config):
            shared = _shared_rows(some, there, new, size)
        if shared is None or not less_work(config, some.shape, shared.ids.shape):
            logits = model(input_ids=some, attention_mask=there, logits_to_keep=new + 1).logits[:, :-1]
            parts.append(_scores(logits, some[:, -new:], temperature, entropy))
            continue
        inputs = {"input_ids": shared.ids, "position_ids": shared.position, "attention_mask": shared.mask}
        logits = model(**inputs, logits_to_keep=shared.targets.shape[1]).logits
        logps, entropies = _scores(logits, shared.targets, temperature, entropy)
        parts.append((shared.per_rollout(logps), None if entropies is None else shared.per_rollout(entropies)))
    all_logps, all_entropies = zip(*parts, strict=True)
    return torch.cat(all_logps), torch.cat(all_entropies) if entropy else None


def _scores(logits: Tensor, targets: Tensor, temperature: float, entropy: bool) -> Scores:
    """Log-probabilities of `targets` [n, l] under `logits` [n, l, vocabulary] / temperature, and entropies, [n, l]."""
    logps = (logits if temperature == 1 else logits / temperature).log_softmax(-1)  # a copy of all logits saved
    entropies = None
    if entropy:
        with torch.no_grad():
            entropies = logps.exp().mul_(logps).sum(-1).neg_()
    return logps.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropies


def _have_one_prompt(ids: Tensor, new: int, size: int) -> bool:
    """Whether `ids` [N, P + new] are whole groups of `size` > 1 rows with one prompt each."""
    if size == 1 or len(ids) % size:
        return False
    prompts = ids[:, :-new].unflatten(0, (-1, size))
    return bool((prompts == prompts[:, :1]).all())


def attends_by_mask(config: Any) -> bool:
    """Whether a model takes the mask of shared rows as it is: full attention in all layers, by torch's own kernel."""
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return config.model_type in SHARING and config._attn_implementation == "sdpa" and layers == {"full_attention"}


def less_work(config: Any, plain: torch.Size, shared: torch.Size) -> bool:
    """Whether rows that share prompts, `shared` [g, T], multiply fewer numbers than `plain` rows [N, P + new].

    A token of a layer takes 4 w^2 + 3 w f multiplications for width w and feed-forward width f, and 2 w for each
    token of its row, as masked attention computes all of them.
    """

    def work(rows: int, length: int) -> int:
        return rows * length * (4 * config.hidden_size + 3 * config.intermediate_size + 2 * length)

    return work(*shared) < work(*plain)


def _shared_rows(ids: Tensor, mask: Tensor, new: int, size: int) -> SharedRows:
    prompt, rollout = ids[:, :-new], ids[:, -new:]
    before, counts = mask[::size, : -new - 1].bool(), mask[:, -new:].bool()
    groups = len(before)
    lengths = counts.sum(1).view(groups, size)
    first = (lengths.cumsum(1) - lengths).view(-1, 1)  # a rollout's first column after the prompt
    columns = torch.arange(new, device=ids.device)
    row = torch.arange(groups, device=ids.device).repeat_interleave(size).view(-1, 1).expand_as(counts)[counts]
    column = (first + columns)[counts]

    def after(values: Tensor, empty: int) -> Tensor:
        made = values.new_full((groups, int(lengths.sum(1).max())), empty)
        made[row, column] = values.expand_as(counts)[counts]
        return made

    owner = after(torch.arange(len(ids), device=ids.device).view(-1, 1) % size, -1)  # -1: padding
    owner = torch.cat((torch.where(before, size, -1), owner), 1)  # size: the prompt's
    total = owner.shape[1]
    causal = torch.ones(total, total, dtype=torch.bool, device=ids.device).tril()
    sees = (owner.unsqueeze(2) == owner.unsqueeze(1)) | (owner == size).unsqueeze(1)
    sees &= causal & (owner >= 0).unsqueeze(1)
    sees |= torch.eye(total, dtype=torch.bool, device=ids.device)  # softmax over nothing is not a number
    read = torch.cat((prompt[:, -1:], rollout[:, :-1]), 1)
    position = (before.cumsum(1) - 1).clamp(min=0)
    return SharedRows(
        ids=torch.cat((prompt[::size, :-1], after(read, 0)), 1),
        position=torch.cat((position, after(mask[:, :-new].sum(1, keepdim=True) - 1 + columns, 0)), 1),
        mask=sees.unsqueeze(1),
        targets=after(rollout, 0),
        counts=counts,
        row=row,
        column=column,
    )
