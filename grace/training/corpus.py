"""What is made of the corpus before a backbone is trained on it: its tokenizer, its token ids, its first embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from grace.method.prompt import PromptTemplate

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# PAD also stands before every document in pretraining, so it is the bos token: a harness that
# measures perplexity starts from it, and not from the END of a chat turn.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Pair = tuple[list[int], list[int]]  # token ids of a query and of its positive
EMBEDDING_STD = 0.04


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `vocab_size` entries with chat markers and think markers."""
    tokenizer = Tokenizer(models.BPE())
    # Qwen's, which transformers puts into any tokenizer of a Qwen model that it loads.
    qwen = Qwen2Tokenizer().backend_tokenizer
    tokenizer.normalizer, tokenizer.pre_tokenizer = qwen.normalizer, qwen.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=PAD, eos_token=END, pad_token=PAD, additional_special_tokens=[START],
        chat_template=TEMPLATE, padding_side="left",
    )  # fmt: skip


def token_pairs(rows: list[dict[str, Any]], template: PromptTemplate) -> list[Pair]:
    """Token ids of each row's query and of its positive."""
    return list(zip(*(template.text_ids([row[name] for row in rows]) for name in ("query", "positive")), strict=True))


def text_stream(pairs: list[Pair], tokenizer: Any) -> np.ndarray:
    """[T] token ids of all pairs, query and positive on a line each, every pair with PAD after it."""
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    rows = ([*query, *newline, *positive, tokenizer.pad_token_id] for query, positive in pairs)
    return np.concatenate([np.array(ids, dtype=np.int32) for ids in rows])


def ppmi_embeddings(stream: np.ndarray, vocab_size: int, width: int, window: int = 4) -> Tensor:
    """Token vectors from co-occurrence: truncated SVD of the positive pointwise mutual information.

    Args:
        stream: [T] token ids in text order.

    Returns:
        [vocab_size, width], standard deviation EMBEDDING_STD; tokens that do not occur get noise.
    """
    counts = np.zeros((vocab_size, vocab_size))
    for distance in range(1, window + 1):
        pairs = stream[:-distance].astype(np.int64) * vocab_size + stream[distance:]
        found = np.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)
        counts += found + found.T
    share = counts.sum(1)
    smooth = share**0.75 / (share**0.75).sum()  # context distribution smoothing (Levy et al. 2015)
    with np.errstate(divide="ignore", invalid="ignore"):
        ppmi = np.log(counts / (share[:, None] * smooth[None, :]))
    ppmi = torch.from_numpy(np.nan_to_num(np.maximum(ppmi, 0), posinf=0)).float()
    left, values, _ = torch.svd_lowrank(ppmi, q=width, niter=4)
    vectors = left * values.sqrt()
    noise = torch.randn_like(vectors) * vectors.std()
    vectors = torch.where((vectors.abs().sum(1) > 0).unsqueeze(1), vectors, noise)
    return vectors / vectors.std() * EMBEDDING_STD
