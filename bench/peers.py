"""Peers of the encoder: the released code's way, written from its description, and transformers' continuous batching.

The released way writes with padded batches through `generate`, each as slow as its longest rationale, decodes the
rationales, tokenises prompt and rationale again as one text, and averages the hidden states of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import ContinuousBatchingConfig, GenerationConfig, StoppingCriteria, StoppingCriteriaList

PAGE = 64  # tokens of a page of the cache of continuous batching


class Released(NamedTuple):
    embeddings: np.ndarray  # [N, d] float32, unit length
    written: list[list[int]]  # token ids as `generate` gave them
    pooled: list[list[int]]  # token ids of the second forward pass


class OwnLength(StoppingCriteria):
    """Ends row i of a batch after `lengths[i]` new tokens."""

    def __init__(self, prompt_width: int, lengths: Tensor) -> None:
        self.width, self.lengths = prompt_width, lengths

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        return input_ids.shape[1] - self.width >= self.lengths


@torch.inference_mode()
def released(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    lengths: Sequence[int],
    *,
    pool_from: int,
    ends: list[int],
    batch_size: int,
) -> Released:
    """Greedy rationales and embeddings in the released code's way, in batches of the order given.

    Where a rationale stops, its last token is left out of the embedding, as everywhere in this project; else both
    ways would not embed the same.

    Args:
        prompts: N token id lists.
        lengths: N numbers of new tokens, fewer where one of `ends` is written.
        pool_from: leading tokens that are not pooled.
    """
    embeddings, written, pooled = [], [], []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        made = write(model, batch, lengths[start : start + batch_size], ends, tokenizer.pad_token_id)
        texts = [tokenizer.decode(ids + own[:-1]) for ids, own in zip(batch, made, strict=True)]
        vectors, ids = embed(model, tokenizer, texts, pool_from)
        embeddings.append(vectors)
        written += made
        pooled += ids
    return Released(torch.cat(embeddings).cpu().numpy(), written, pooled)


def write(
    model: Any, prompts: list[list[int]], lengths: Sequence[int], ends: list[int], pad: int, **settings: Any
) -> list[list[int]]:
    """New tokens of one padded batch by transformers' `generate`, greedy, with the end token where it was reached."""
    given = [torch.tensor(ids, device=model.device) for ids in prompts]
    ids = pad_sequence(given, batch_first=True, padding_value=pad, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in given], batch_first=True, padding_side="left")
    own = [OwnLength(ids.shape[1], torch.tensor(lengths, device=model.device))] if len({*lengths}) > 1 else []
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max(lengths), eos_token_id=ends or None, pad_token_id=pad, **settings
    )
    out = model.generate(
        ids, attention_mask=mask, generation_config=config, stopping_criteria=StoppingCriteriaList(own)
    )
    written = [row[:length] for row, length in zip(out[:, ids.shape[1] :].tolist(), lengths, strict=True)]
    return [row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))] for row in written]


def embed(model: Any, tokenizer: Any, texts: list[str], pool_from: int) -> tuple[Tensor, list[list[int]]]:
    """Embeddings [n, d] of texts by a forward pass, and the tokens that went in."""
    given = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    ids, mask = given["input_ids"].to(model.device), given["attention_mask"].to(model.device)
    # No logits but the last: nothing needs them, and all of them would only slow the peer.
    out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False, logits_to_keep=1)
    use = mask.clone()
    use[:, :pool_from] = 0
    mean = (out.hidden_states[-1].float() * use.unsqueeze(-1)).sum(1) / use.sum(1, keepdim=True)
    tokens = [row[:count] for row, count in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)]
    return mean, tokens


def continuous(
    model: Any, prompts: list[list[int]], lengths: Sequence[int], ends: list[int], pad: int, batch_size: int
) -> list[list[int]]:
    """New tokens by transformers' continuous batching, greedy, at most `batch_size` prompts at a time.

    Raises:
        RuntimeError: when it does not write all of them.
    """
    pages = max((len(ids) + length) // PAGE + 1 for ids, length in zip(prompts, lengths, strict=True))
    batching = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=pages * batch_size,
        max_batch_tokens=max(512, PAGE * pages),
        max_requests_per_batch=batch_size,
        use_cuda_graph=None if model.device.type == "cuda" else False,
    )
    config = GenerationConfig(do_sample=False, max_new_tokens=max(lengths), eos_token_id=ends or -1, pad_token_id=pad)
    written: dict[str, list[int]] = {}
    with model.continuous_batching_context_manager(
        generation_config=config, continuous_batching_config=batching, block=True, warmup=False
    ) as manager:
        for row, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
            manager.add_request(ids, request_id=str(row), max_new_tokens=length, eos_token_id=ends or -1)
        while len(written) < len(prompts):
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise RuntimeError("transformers' continuous batching stopped before it was done")
            if result is not None and result.error is not None:
                raise RuntimeError(f"transformers' continuous batching: {result.error}")
            if result is not None and result.is_finished():
                written[result.request_id] = list(result.generated_tokens)
    return [written[str(row)] for row in range(len(prompts))]
