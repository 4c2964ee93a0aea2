"""The paper's baselines CL and SimCSE on sentence-transformers: InfoNCE over direct embeddings, which are computed as
at evaluation: the same prompt, pooling and layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.modules import InputModule
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache

from grace.config.schema import Pooling
from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.encoder import reads
from grace.encoder.engines import transformers as engine
from grace.encoder.engines.forward import batches, hidden_states
from grace.encoder.reads import Read
from grace.method.pooling import pool
from grace.method.prompt import PromptTemplate
from grace.training import hardware
from grace.training.run import check_finite, check_negatives, trainer_arguments

MAX_TOKENS = 2048  # of a forward pass on a CPU
WEIGHTS = "trained.pt"  # in a checkpoint: the trained weights, which is all that differs from the backbone
LOSSES = (MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss)  # without and with a gradient cache


class PooledText(InputModule):
    """A text's direct embedding, [N, d].

    Args:
        model: a causal LM.
        template: its prompt.
        pooling: of the embeddings.
        prompt: of direct embeddings, as of `grace.encoder.reads.direct`.
    """

    def __init__(self, model: Any, template: PromptTemplate, pooling: Pooling, prompt: str) -> None:
        super().__init__()
        self.model, self.template, self.pooling, self.prompt = model, template, pooling, prompt
        self.tokenizer = template.tokenizer
        self.ends = engine.end_tokens(model, template.tokenizer)
        self.common = len(template.prefix) if prompt == "chat" else 0  # tokens that all texts begin with

    def preprocess(self, inputs: Any, prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        return features(reads.direct(self.template, list(inputs), self.prompt, self.pooling, self.ends))

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        ids, mask = features["input_ids"], features["attention_mask"]
        found, order = [], []
        for rows, hidden, start in passes(self.model, self.pooling, ids, mask, self.common):
            position = torch.arange(start, start + hidden.shape[1], device=ids.device)
            some = {name: features[name][rows].unsqueeze(1) for name in ("start", "stop", "prompt_tokens")}
            spans = self.spans(position, some)
            found.append(torch.cat([pool(hidden.float(), span, self.pooling.method) for span in spans], 1))
            order.append(rows)
        features["sentence_embedding"] = torch.cat(found)[torch.cat(order).argsort()]
        return features

    def spans(self, position: Tensor, features: dict[str, Tensor]) -> list[Tensor]:
        """Masks [n, l] of the tokens that are pooled: of each embedding that stands in a row."""
        return [(position >= features["start"]) & (position < features["stop"])]

    def get_embedding_dimension(self) -> int:
        return self.model.config.get_text_config().hidden_size

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        self.model.save_pretrained(output_path)


def features(given: list[Read], prompt_tokens: list[int] | None = None) -> dict[str, Tensor]:
    """Sequences padded on the right: ids [N, L], mask [N, L], the tokens that are pooled from `start` [N] on and before
    `stop` [N], and how many tokens of each are its prompt [N]."""
    lengths, start, stop = torch.tensor([(len(one.ids), one.start, one.stop) for one in given]).T
    ids = torch.zeros(len(given), int(lengths.max()), dtype=torch.long)
    for row, one in zip(ids, given, strict=True):
        row[: len(one.ids)] = torch.tensor(one.ids)
    mask = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).long()
    prompts = lengths if prompt_tokens is None else torch.tensor(prompt_tokens)
    return {"input_ids": ids, "attention_mask": mask, "start": start, "stop": stop, "prompt_tokens": prompts}


def passes(
    model: Any, pooling: Pooling | None, ids: Tensor, mask: Tensor, common: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Hidden states of rows [N, L] padded on the right, which need no mask as the model is causal.

    On a CPU rows of similar length go together, and the `common` tokens that all begin with are read once for all,
    unless each row is to have a dropout of its own. Sharded weights are read by all processes at the same time, so
    there, and on a GPU, all rows go in one pass.

    Yields:
        Numbers of n rows, their hidden states [n, l, d] in the layer of `pooling` (None: the last), and the position
        that these begin with.
    """
    if ids.device.type != "cpu" or any(isinstance(module, FSDPModule) for module in model.modules()):
        yield torch.arange(len(ids)), hidden_states(model, pooling, input_ids=ids, use_cache=False)[0], 0
        return
    dropout = model.training and getattr(model.config.get_text_config(), "attention_dropout", 0.0) > 0
    start = 0 if dropout else common
    prefix = DynamicCache(config=model.config)
    if start:
        model.get_decoder()(input_ids=ids[:1, :start], past_key_values=prefix, use_cache=True)
    lengths = mask.sum(1).tolist()
    for rows in batches([length - start for length in lengths], MAX_TOKENS):
        cache = DynamicCache(config=model.config)
        layers: Any = prefix.layers if start else ()
        for number, layer in enumerate(layers):
            cache.update(*(part.expand(len(rows), -1, -1, -1) for part in (layer.keys, layer.values)), number)
        some = ids[rows, start : lengths[rows[0]]]  # the longest comes first
        yield torch.tensor(rows), hidden_states(model, pooling, input_ids=some, past_key_values=cache)[0], start


def info_nce(embedder: Any, *, losses: Any = LOSSES, mini_batch_size: int | None, scale: float, gather: bool) -> Any:
    """InfoNCE over the embeddings of `embedder`, with a cosine times `scale`; the second of `losses` has a gradient
    cache of `mini_batch_size`. `gather`: the other processes' texts are negatives too."""
    common: dict[str, Any] = {"scale": scale, "gather_across_devices": gather}
    if mini_batch_size is None:
        return losses[0](embedder, **common)
    return losses[1](embedder, mini_batch_size=mini_batch_size, **common)


class ContrastiveTrainer(SentenceTransformerTrainer):
    """InfoNCE over a model's embeddings of (query, positive, negatives), with in-batch negatives.

    SimCSE: each text is its own positive, seen through another dropout mask. Of several processes each embeds its share
    of a batch, and every row's negatives still come from all of it. A checkpoint holds the trained weights alone, and
    the trainer's state counts the tokens that were trained on, without padding.

    Raises:
        UserError: when there are fewer rows than a batch, SimCSE's two views do not differ, or the settings exclude
            each other.
    """

    losses: Any = LOSSES

    def __init__(
        self, model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, Any]], output_dir: str, **kwargs: Any
    ) -> None:
        c, p = spec.contrastive, spec.prompt
        assert c is not None and spec.direct_prompt is not None
        self.spec, self.section = spec, spec.method
        if len(rows) < c.batch_size:
            raise UserError(
                f"config: {spec.method}.batch_size: {c.batch_size} is more than the {len(rows)} training rows."
            )
        template = PromptTemplate.from_tokenizer(tokenizer, p.instruction, p.max_prompt_tokens)
        embedder = SentenceTransformer(modules=[self.embedder(model, template, spec)], device=hardware.device())
        if spec.method == "simcse":
            _check_views_differ(embedder, rows[0]["text"])
        head = model.get_output_embeddings()
        if head.weight is not model.get_input_embeddings().weight:
            head.weight.requires_grad_(False)  # no part of an embedding; DDP waits for the gradient of all that train
        share = c.batch_size // c.processes
        loss = info_nce(
            embedder,
            losses=self.losses,
            mini_batch_size=c.mini_batch_size if c.mini_batch_size < share else None,
            scale=c.similarity_scale,
            gather=c.processes > 1,
        )
        args = SentenceTransformerTrainingArguments(
            **trainer_arguments(spec, output_dir),
            per_device_train_batch_size=share,
            max_steps=c.max_steps or -1,
            warmup_steps=c.warmup_ratio,
            weight_decay=c.weight_decay,
            logging_steps=5,
            dataloader_drop_last=True,
        )
        hardware.configure_sharding(args, model)
        super().__init__(
            model=embedder,
            args=args,
            train_dataset=_columns(rows, spec.method),
            loss=loss,
            data_collator=self.collator(embedder),
            **kwargs,
        )

    def embedder(self, model: Any, template: PromptTemplate, spec: TrainSpec) -> PooledText:
        reads.check(spec.pooling, False)
        return PooledText(model, template, spec.pooling, str(spec.direct_prompt))

    def collator(self, embedder: SentenceTransformer) -> SentenceTransformerDataCollator:
        return SentenceTransformerDataCollator(preprocess_fn=embedder.preprocess)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        masks = [value for name, value in inputs.items() if name.endswith("attention_mask")]
        loss = super().training_step(model, inputs, *args, **kwargs)
        check_finite("the loss", [loss], self.section, self.state.global_step + 1)
        self.count_tokens(masks)
        return loss

    def count_tokens(self, masks: list[Tensor]) -> None:
        read = torch.stack([mask.sum() for mask in masks]).sum()
        self.state.num_input_tokens_seen += int(gather(read.to(self.accelerator.device)).sum())

    def longest(self, rows: int, length: int, new: int) -> dict[str, Any]:
        """A batch of `rows` rows of `length` tokens, the last `new` of them a rationale's."""
        one = features([reads.whole(self.longest_ids(length))] * rows, [length - new] * rows)
        columns = cast(Dataset, self.train_dataset).column_names
        return {f"{column}_{name}": value for column in columns for name, value in one.items()}

    def longest_ids(self, length: int) -> list[int]:
        embedder: Any = self.model[0]
        size = embedder.model.config.get_text_config().vocab_size
        return [*embedder.template.prefix, *(i % size for i in range(length))][:length]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        state = self.model.state_dict() if state_dict is None else state_dict
        trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
        torch.save({name: value for name, value in state.items() if name in trained}, folder / WEIGHTS)

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:  # its weights are read by name and sharded again
            from accelerate.utils import load_fsdp_model

            load_fsdp_model(self.accelerator.state.fsdp_plugin, self.accelerator, self.model, checkpoint_path)
            return
        state = torch.load(Path(checkpoint_path) / WEIGHTS, map_location="cpu", weights_only=True)
        unknown = self.model.load_state_dict(state, strict=False).unexpected_keys
        assert not unknown, unknown


def _columns(rows: list[dict[str, Any]], method: str) -> Dataset:
    if method == "simcse":
        return Dataset.from_list([{"anchor": row["text"], "positive": row["text"]} for row in rows])
    check_negatives(rows)
    return Dataset.from_list(
        [
            {"anchor": row["query"], "positive": row["positive"]}
            | {f"negative_{m}": text for m, text in enumerate(row.get("negatives") or [])}
            for row in rows
        ]
    )


@torch.no_grad()
def _check_views_differ(embedder: SentenceTransformer, text: str) -> None:
    """SimCSE with dropout off still lowers its loss, and learns nothing from its positives."""
    embedder.train()
    inputs = embedder.preprocess([text, text])
    one, other = (embedder(dict(inputs))["sentence_embedding"] for _ in range(2))
    if torch.allclose(one, other):
        raise UserError("config: simcse.dropout: two passes over one text do not differ; it must be above 0.")
