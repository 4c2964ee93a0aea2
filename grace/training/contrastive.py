"""Contrastive training on sentence-transformers: the baselines cl and simcse, adapter, kl_fence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch import Tensor

from grace.encoder import reads
from grace.method.prompt import PromptTemplate
from grace.section import UserError
from grace.specs import TrainSpec
from grace.training import sharding
from grace.training.fence import Fence
from grace.training.finite import check
from grace.training.losses import info_nce
from grace.training.rationales import device
from grace.training.student import Lookup, PooledText, features

WEIGHTS = "trained.pt"  # in a checkpoint: the weights that are trained, which is all that differs from the backbone
FENCE = "fence"  # in a batch: what the KLs are taken on


@dataclass
class Collator(SentenceTransformerDataCollator):
    """With the sequences of the fence, if there is one."""

    fence: Fence | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        return batch if self.fence is None else batch | {FENCE: self.fence.batch(rows)}


class ContrastiveTrainer(SentenceTransformerTrainer):
    """With a fence, with checkpoints that hold the trained weights, whatever the module they are in, and with a count
    of the tokens that were trained on in its state, padding left out."""

    section: str  # of config.yaml
    fence: Fence | None = None
    divergences: dict[str, Tensor] | None = None  # of the last step

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        masks = [value for name, value in inputs.items() if name.endswith("attention_mask")]
        masks += [part["attention_mask"] for part in inputs.get(FENCE, {}).values()]
        loss = super().training_step(model, inputs, *args, **kwargs)
        check("the loss", [loss], self.section, self.state.global_step + 1)
        if self.divergences:
            self.track_loss_components({f"kl_{name}": value for name, value in self.divergences.items()})
        read = torch.stack([mask.sum() for mask in masks]).sum()
        self.state.num_input_tokens_seen += int(gather(read.to(self.accelerator.device)).sum())
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if (batch := inputs.pop(FENCE, None)) is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        assert self.fence is not None
        # Its gradient is there before the other's begins: that one's last backward pass sums both over the processes.
        with self.accelerator.autocast():  # which accelerate gives a module's own forward only
            self.divergences = self.fence(batch)
        kept = self.fence.loss(self.divergences)
        self.accelerator.backward(kept)
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        return loss + kept.detach()

    def longest(self, rows: int, length: int, new: int) -> dict[str, Any]:
        """A batch of `rows` rows of `length` tokens, the last `new` of them a rationale's."""
        student: Any = self.model[0]
        size = student.model.config.get_text_config().vocab_size
        ids = [*student.template.prefix, *(i % size for i in range(length))][:length]
        columns = cast(Dataset, self.train_dataset).column_names
        one = features([reads.whole(ids)] * rows, [length - new] * rows)
        batch: dict[str, Any] = {f"{column}_{name}": value for column in columns for name, value in one.items()}
        if self.fence is not None:
            few, text = min(rows, self.fence.weights.rows), ids[: length - new]  # all of a text follows its first token
            parts = {
                "rationale": features([reads.whole(ids)] * few, [length - new] * few),
                "text": features([reads.whole(text)] * few, [1] * few),
            }
            batch[FENCE] = {name: part for name, part in parts.items() if getattr(self.fence.weights, name)}
        return batch

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
    model: Any,
    tokenizer: Any,
    spec: TrainSpec,
    rows: list[dict[str, Any]],
    output_dir: str,
    rationales: Lookup | None = None,
    **kwargs: Any,
) -> ContrastiveTrainer:
    """A trainer of InfoNCE over a model's embeddings.

    (query, positive, negatives) with in-batch negatives; simcse: each text is its own positive, seen through another
    dropout mask. Of several processes each embeds its share of a batch, and every row's negatives still come from all
    of it.

    Args:
        rationales: of the texts of `rows`, where the settings need them.

    Raises:
        UserError: when there are fewer rows than a batch, SimCSE's two views do not differ, or the settings exclude
            each other.
    """
    c, p = spec.contrastive, spec.prompt
    assert c is not None and spec.direct_prompt is not None
    if len(rows) < c.batch_size:
        raise UserError(f"config: {spec.method}.batch_size: {c.batch_size} is more than the {len(rows)} training rows.")
    if c.loss == "half" and spec.direct_prompt != "chat":
        raise UserError(
            f"config: {spec.method}.loss: half needs evaluation.direct_prompt: chat, where one pass gives both "
            "embeddings."
        )
    if c.loss == "half" and (spec.pooling.tokens != "both" or spec.pooling.closing):
        raise UserError(
            f"config: {spec.method}.loss: half takes both embeddings from one pass, so it needs pooling.tokens: both "
            "and no closing; set loss: direct or rationale."
        )
    if c.loss != "half":
        reads.check(spec.pooling, c.loss == "rationale")
    template = PromptTemplate.from_tokenizer(tokenizer, p.instruction, p.max_prompt_tokens)
    module = PooledText(model, template, spec.pooling, spec.direct_prompt, c.loss, rationales)
    student = SentenceTransformer(modules=[module], device=device())
    if spec.method == "simcse":
        _assert_views_differ(student, rows[0]["text"])
    head = model.get_output_embeddings()
    if head.weight is not model.get_input_embeddings().weight:
        head.weight.requires_grad_(False)  # no part of an embedding; DDP waits for the gradient of all that train
    share = c.batch_size // c.processes
    loss = info_nce(
        student,
        half=c.loss == "half",
        mini_batch_size=c.mini_batch_size if c.mini_batch_size < share else None,
        scale=c.similarity_scale,
        gather=c.processes > 1,
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
        logging_nan_inf_filter=False,  # as in `grace.training.arguments`
        report_to=[],
        seed=spec.seed,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    sharding.configure(args, model)
    fence = Fence(model, c.fence, template, rationales) if c.fence else None
    trainer = ContrastiveTrainer(
        model=student,
        args=args,
        train_dataset=_columns(rows, spec.method),
        loss=loss,
        data_collator=Collator(preprocess_fn=student.preprocess, fence=fence),
        **kwargs,
    )
    trainer.section, trainer.fence = spec.method, fence
    return trainer


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
