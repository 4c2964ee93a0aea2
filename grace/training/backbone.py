"""The demo's backbone: a tiny Qwen2 that reads docstrings and answers the instruction with a short rationale.

A tokenizer and token embeddings (PPMI-SVD) are made of the corpus. Then two stages with fixed step counts: language
modelling on the training split, and supervised answers of the form `<think> four key words </think> five-word summary`.
Muon for the matrices, AdamW for the rest. On a GPU, if there is one, the forward pass is in bfloat16; weights and
optimizers are float32 everywhere.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    set_seed,
)

from grace.config.schema import Backbone
from grace.config.section import UserError
from grace.config.specs import BackboneSpec
from grace.jobs import manifest, stage
from grace.jobs.reader import read_training
from grace.method.prompt import PromptTemplate
from grace.training.model_folder import save_model
from grace.training.run import check_finite

log = logging.getLogger(__name__)

Pair = tuple[list[int], list[int]]  # token ids of a query and of its positive
Example = tuple[list[int], str]  # token ids of a text as far as the prompt shows it, its rationale

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# PAD also stands before every document in pretraining, so it is the bos token: a harness that
# measures perplexity starts from it, and not from the END of a chat turn.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EMBEDDING_STD = 0.04
BLOCK = 128  # tokens per row where perplexity is measured
PLAIN_SHARE = 0.3  # weight of plain text in the second stage, so that it keeps modelling language
MATRIX_RATE, OTHER_RATE = 0.02, 3e-3
INSTRUCT_RATE = 0.5  # second stage's learning rates, relative to the first
QUINTIC = (3.4445, -4.7750, 2.0315)  # of Jordan's iteration: singular values above some .01 come to .7 to 1.2
ITERATIONS = 5


# ---- tokenizer, token ids, first embeddings ---------------------------------------------


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
        tokenizer_object=tokenizer,
        bos_token=PAD,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=TEMPLATE,
        padding_side="left",
    )


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


# ---- model and optimizer ----------------------------------------------------------------


def build_model(config: Backbone, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0
    )
    return model


def orthogonalized(matrices: Tensor) -> Tensor:
    """Nearly U V^T of matrices U S V^T, [n, rows, columns], by Newton-Schulz iterations."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon (Keller Jordan, 2024): orthogonalized Nesterov momentum, larger for tall matrices; decoupled weight decay.

    torch.optim.Muon multiplies in bfloat16, which a CPU without such instructions does ten times as slowly as float32,
    and takes one matrix after the other. Here matrices of one shape go together, in float32 (docs/measurements.md).

    Args:
        params: matrices. lr: learning rate. momentum: of the mean of gradients. weight_decay: per unit of `lr`.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(tuple(matrix.shape), []).append(matrix)
            for (rows, columns), matrices in shapes.items():
                update = orthogonalized(torch.stack([self._direction(m, group["momentum"]) for m in matrices]))
                rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
                for matrix, change in zip(matrices, update, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-rate)

    def _direction(self, matrix: Tensor, momentum: float) -> Tensor:
        assert matrix.grad is not None
        mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix.grad))
        mean.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(mean, momentum)


class Optimizer:
    """Muon on the layers' matrices, AdamW on embeddings and norms, one linear schedule with warm-up."""

    def __init__(self, model: Any, steps: int, scale: float) -> None:
        self.weights = list(model.parameters())
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
        self.parts: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=MATRIX_RATE * scale, momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(others, lr=OTHER_RATE * scale, betas=(0.9, 0.95), weight_decay=0.0),
        ]

        def rate(step: int) -> float:
            return min(1.0, (step + 1) / 20) * max(0.05, 1 - step / steps)

        self.schedules = [torch.optim.lr_scheduler.LambdaLR(part, rate) for part in self.parts]

    def step(self, loss: Tensor) -> None:
        loss.backward()
        for part, schedule in zip(self.parts, self.schedules, strict=True):
            part.step()
            part.zero_grad(set_to_none=True)
            schedule.step()
        check_finite("the loss or a weight", [loss, *self.weights], "available_backbones", self.schedules[0].last_epoch)


def arithmetic(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 on a GPU, float32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def next_token_loss(model: Any, ids: Tensor, labels: Tensor, shared: int = 0) -> Tensor:
    """Mean cross-entropy of ids[:, 1:] where labels[:, 1:] is not -100; logits only where needed.

    Args:
        shared: number of unlabelled leading tokens that all rows have in common; they are read once for all.
    """
    ids, labels, cache = ids.to(model.device), labels.to(model.device), None
    with arithmetic(model.device):
        if shared:
            cache = DynamicCache(config=model.config)
            model.get_decoder()(input_ids=ids[:1, :shared], past_key_values=cache)
            cache.batch_repeat_interleave(len(ids))
        rest, labels = ids[:, shared:-1], labels[:, shared + 1 :]
        hidden = model.get_decoder()(input_ids=rest, past_key_values=cache, use_cache=bool(shared)).last_hidden_state
        wanted = labels != -100
        return F.cross_entropy(model.lm_head(hidden[wanted]), labels[wanted])


# ---- what it is trained on --------------------------------------------------------------


def plain_rows(stream: np.ndarray, generator: np.random.Generator, count: int, block: int = BLOCK) -> Tensor:
    """`count` random rows of `block` + 1 consecutive tokens."""
    starts = generator.integers(0, len(stream) - block - 1, count)
    return torch.from_numpy(np.stack([stream[s : s + block + 1] for s in starts])).long()


def answers(rows: list[dict[str, Any]], pairs: list[Pair], template: PromptTemplate, seed: int) -> Iterator[Example]:
    """Endless examples.

    A rationale is four of the eight best tf-idf words of what the prompt shows of the text, in random
    order, then the first five words of the summary.
    """
    texts = [ids[: template.text_room] for at in (1, 0) for ids in (pair[at] for pair in pairs)]
    vectorizer = TfidfVectorizer(token_pattern=r"[A-Za-z][A-Za-z-]{2,}", stop_words="english", sublinear_tf=True)
    weights = vectorizer.fit_transform(template.tokenizer.batch_decode(texts))
    words = vectorizer.get_feature_names_out()
    dice = random.Random(seed)
    while True:
        at = dice.randrange(len(texts))
        line = weights[at]
        best = [str(words[i]) for i in line.indices[np.argsort(-line.data, kind="stable")[:8]]]
        if not best:
            continue
        keys = dice.sample(best, min(4, len(best)))
        summary = " ".join(re.findall(r"\S+", rows[at % len(rows)]["query"])[:5])
        yield texts[at], f"<think> {' '.join(keys)} </think> {summary}"


def instruct_rows(examples: Iterator[Example], template: PromptTemplate, count: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids and labels [count, L] of prompts with answers; only the answer is labelled."""
    batch = [next(examples) for _ in range(count)]
    prompts = [[*template.prefix, *ids, *template.suffix] for ids, _ in batch]
    replies = template.tokenizer([reply for _, reply in batch])["input_ids"]
    replies = [[*ids, template.tokenizer.eos_token_id] for ids in replies]
    width = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
    ids = torch.full((count, width), template.tokenizer.pad_token_id)
    labels = torch.full((count, width), -100)
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        ids[i, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
        labels[i, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
    return ids, labels


@torch.no_grad()
def perplexity(model: Any, stream: np.ndarray, blocks: int = 200) -> float:
    """exp of the mean token loss over the first `blocks` rows of BLOCK tokens.

    Raises:
        UserError: when it is worse than a guess, or no number: the training has failed.
    """
    usable = min(blocks, (len(stream) - 1) // BLOCK)
    losses = []
    for start in range(0, usable, 50):
        rows = [stream[i * BLOCK : (i + 1) * BLOCK + 1] for i in range(start, min(start + 50, usable))]
        ids = torch.from_numpy(np.stack(rows)).long()
        losses.append(next_token_loss(model, ids, ids).item() * len(rows))
    mean = sum(losses) / usable
    if not mean < 100:  # a guess among all tokens has the logarithm of their number, 12 of a large vocabulary
        raise UserError(
            f"available_backbones: the held-out loss is {mean:.0f} a token, worse than a guess; lower learning_rate."
        )
    return math.exp(mean)


def train(
    spec: BackboneSpec, rows: list[dict[str, Any]], held_out: list[dict[str, Any]]
) -> tuple[Any, Any, dict[str, float]]:
    """Train tokenizer and model.

    Returns:
        model, tokenizer, and the held-out perplexity after each stage.

    Raises:
        UserError: when there is too little text, the shape is impossible, or the training fails.
    """
    config = spec.backbone
    if config.width > config.vocab_size:
        raise UserError(
            f"available_backbones: a width of {config.width} is more than vocab_size ({config.vocab_size})."
        )
    set_seed(config.seed)
    order = np.random.default_rng(config.seed)
    rows = [rows[i] for i in order.permutation(len(rows))]
    texts = [f"{row['query']}\n{row['positive']}" for row in rows]
    tokenizer = train_tokenizer(texts, config.vocab_size)
    template = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
    pairs = token_pairs(rows, template)
    stream, held = (text_stream(some, tokenizer) for some in (pairs, token_pairs(held_out, template)))
    if len(stream) < 20 * config.block or len(held) < 2 * BLOCK:
        raise UserError(
            f"the training split has only {len(stream)} tokens; give the backbone more text (data.max_rows)."
        )
    log.info("backbone: %d rows, %d tokens", len(rows), len(stream))

    model: Any = build_model(config, tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(ppmi_embeddings(stream, config.vocab_size, config.width))
    model.train().to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = Optimizer(model, config.pretrain_steps, config.learning_rate)
    for _ in tqdm(range(config.pretrain_steps), desc="pretrain", mininterval=5):
        text = plain_rows(stream, order, config.batch_size, config.block)
        optimizer.step(next_token_loss(model, text, text))
    figures = {"perplexity_pretrained": perplexity(model, held)}

    optimizer = Optimizer(model, config.instruct_steps, INSTRUCT_RATE * config.learning_rate)
    examples = answers(rows, pairs, template, config.seed)
    prefix, plain = len(template.prefix), round(PLAIN_SHARE * config.batch_size)
    for _ in tqdm(range(config.instruct_steps), desc="instruct", mininterval=5):
        ids, labels = instruct_rows(examples, template, config.batch_size)
        text = plain_rows(stream, order, plain, config.block)
        answered = next_token_loss(model, ids, labels, prefix)
        optimizer.step((1 - PLAIN_SHARE) * answered + PLAIN_SHARE * next_token_loss(model, text, text))
    figures["perplexity"] = perplexity(model, held)
    log.info("backbone: held-out perplexity %.1f, then %.1f", *figures.values())
    return model.eval().to("cpu"), tokenizer, figures


@stage.entry(BackboneSpec, inputs=("train", "validation"), outputs=("out",))
def main(spec: BackboneSpec, paths: SimpleNamespace) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = str(paths.threads > 1).lower()  # no process is forked here
    rows, held_out = (read_training(path, ("query", "positive")) for path in (paths.train, paths.validation))
    model, tokenizer, figures = train(spec, rows, held_out)
    record = manifest.make("backbone", spec, [paths.train, paths.validation], paths.started, figures=figures)
    save_model(Path(paths.out).parent, model, tokenizer, record, prompt=spec.prompt)


if __name__ == "__main__":
    main()
