"""The contrastive baselines, cl and simcse, on sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.modules import InputModule
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor

from grace.encoder.encoder import direct_ids
from grace.encoder.engines import packed
from grace.encoder.engines import transformers as engine
from grace.method.prompt import PromptTemplate
from grace.section import UserError
from grace.settings import Pooling
from grace.specs import TrainSpec
from grace.training import sharding

WEIGHTS = "trained.pt"  # in a checkpoint: the weights that are trained, which is all that differs from the backbone


class DirectEmbedding(InputModule):
    """The evaluation's own direct embedding as a sentence-transformers module: same prompt, same pooling."""

    def __init__(self, model: Any, template: PromptTemplate, pooling: Pooling, prompt: str) -> None:
        super().__init__()
        self.model, self.template, self.pooling, self.prompt = model, template, pooling, prompt
        self.tokenizer = template.tokenizer
        self.ends = engine.end_tokens(model, template.tokenizer)

    def preprocess(self, inputs: Any, prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        sequences, _skip = direct_ids(self.template, list(inputs), self.prompt, self.ends)
        ids, mask = packed.left_pad(sequences)
        return {"input_ids": ids, "attention_mask": mask}

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        skip = len(self.template.prefix) if self.prompt == "chat" else 0
        features["sentence_embedding"] = packed.forward_pooled(
            self.model, features["input_ids"], features["attention_mask"], skip, self.pooling
        )
        return features

    def get_embedding_dimension(self) -> int:
        return self.model.config.get_text_config().hidden_size

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        self.model.save_pretrained(output_path)


class ContrastiveTrainer(SentenceTransformerTrainer):
    """With checkpoints that hold the trained weights, whatever the module they are in."""

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


def contrastive_trainer(
    model: Any, tokenizer: Any, spec: TrainSpec, rows: list[dict[str, Any]], output_dir: str, **kwargs: Any
) -> ContrastiveTrainer:
    """A trainer of InfoNCE over direct embeddings.

    cl: (query, positive, negatives) with in-batch negatives. simcse: each text is its own positive,
    seen through another dropout mask. Of several processes each embeds its share of a batch, and every
    row's negatives still come from all of it.

    Raises:
        UserError: when there are fewer rows than a batch, or SimCSE's two views do not differ.
    """
    c, p = spec.contrastive, spec.prompt
    assert c is not None and spec.direct_prompt is not None
    if len(rows) < c.batch_size:
        raise UserError(f"config: {spec.method}.batch_size: {c.batch_size} is more than the {len(rows)} training rows.")
    template = PromptTemplate.from_tokenizer(tokenizer, p.instruction, p.max_prompt_tokens)
    module = DirectEmbedding(model, template, spec.pooling, spec.direct_prompt)
    student = SentenceTransformer(modules=[module], device="cuda" if torch.cuda.is_available() else "cpu")
    if spec.method == "simcse":
        _assert_views_differ(student, rows[0]["text"])
    head = model.get_output_embeddings()
    if head.weight is not model.get_input_embeddings().weight:
        head.weight.requires_grad_(False)  # no part of an embedding; DDP waits for the gradient of all that train
    share = c.batch_size // c.processes
    common: dict[str, Any] = {"scale": c.similarity_scale, "gather_across_devices": c.processes > 1}
    loss = (
        CachedMultipleNegativesRankingLoss(student, mini_batch_size=c.mini_batch_size, **common)
        if c.mini_batch_size < share
        else MultipleNegativesRankingLoss(student, **common)
    )
    args = SentenceTransformerTrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=share,
        num_train_epochs=c.epochs,
        max_steps=c.max_steps or -1,
        learning_rate=c.learning_rate,
        warmup_steps=c.warmup_ratio,
        weight_decay=c.weight_decay,
        bf16=c.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps",
        save_steps=c.save_steps,
        save_total_limit=2,
        logging_steps=5,
        report_to=[],
        seed=spec.seed,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    sharding.configure(args, model)
    return ContrastiveTrainer(model=student, args=args, train_dataset=_columns(rows, spec.method), loss=loss, **kwargs)


def _columns(rows: list[dict[str, Any]], method: str) -> Dataset:
    if method == "simcse":
        return Dataset.from_list([{"anchor": row["text"], "positive": row["text"]} for row in rows])
    counts = {len(row.get("negatives") or []) for row in rows}
    if len(counts) > 1:
        raise UserError(
            f"the triples have between {min(counts)} and {max(counts)} negatives; give all the same number."
        )
    return Dataset.from_list(
        [
            {"anchor": row["query"], "positive": row["positive"]}
            | {f"negative_{m}": text for m, text in enumerate(row.get("negatives") or [])}
            for row in rows
        ]
    )


@torch.no_grad()
def _assert_views_differ(student: SentenceTransformer, text: str) -> None:
    """SimCSE with dropout off still lowers its loss, and learns nothing from its positives."""
    student.train()
    features = student.preprocess([text, text])
    one, other = (student(dict(features))["sentence_embedding"] for _ in range(2))
    if torch.allclose(one, other):
        raise UserError("config: simcse.dropout: two passes over one text do not differ; it must be above 0.")
