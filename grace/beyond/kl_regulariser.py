"""kl_fence: contrastive training with a KL regulariser that keeps a model's writing.

The regulariser is the forward KL of the frozen backbone to the model,

    KL = mean over tokens of the sum over the vocabulary of p (log p - log q)

for the probabilities p and q that the backbone and the model give the next token. It is taken on rationales of the
backbone, and on plain text. Logits are computed for the tokens that it is taken on, and for no other.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch import Tensor

from grace.beyond import adapter
from grace.beyond.adapter import AdapterTrainer, Lookup
from grace.config import schema
from grace.encoder.reads import whole
from grace.method.prompt import PromptTemplate
from grace.training.contrastive import features, passes

KL = "kl"  # in a batch: the sequences that the KLs are taken on

Part = dict[str, Tensor]  # of `features`; tokens from `prompt_tokens` - 1 on predict what the KL is taken on


class KLRegulariser:
    """Both KLs of a batch.

    Args:
        model: a causal LM that is trained. With adapters (peft) the backbone is the model without them; else it is a
            copy of the model as it is now.
        weights: of the KLs, and of how many rows they are taken.
        template: the prompt.
        rationales: needed if those have a weight.
    """

    def __init__(
        self, model: Any, weights: schema.Fence, template: PromptTemplate, rationales: Lookup | None = None
    ) -> None:
        self.model, self.weights, self.template, self.rationales = model, weights, template, rationales
        self.adapted = hasattr(model, "peft_config")
        self.backbone = model if self.adapted else copy.deepcopy(model).eval().requires_grad_(False)

    def batch(self, rows: list[dict[str, str]]) -> dict[str, Part]:
        """The sequences that the KLs are taken on, of a batch's texts {column: text}: of each row one column's."""
        texts = [list(row.values())[i % len(row)] for i, row in enumerate(rows[: self.weights.rows])]
        found = {}
        if self.weights.rationale:
            assert self.rationales is not None
            prompts = self.template.ids(texts)
            sequences = [p + r[:-1] for p, r in zip(prompts, self.rationales(texts), strict=True)]
            found["rationale"] = features([whole(ids) for ids in sequences], [len(ids) for ids in prompts])
        if self.weights.text:  # as in pretraining: no prompt, the first token of a document before the text
            first, room = self.template.tokenizer.bos_token_id, self.template.max_prompt_tokens
            begun = [[*([] if first is None else [first]), *ids] for ids in self.template.text_ids(texts, room)]
            plain = [ids[:room] or self.template.suffix[:1] for ids in begun]
            found["text"] = features([whole(ids) for ids in plain], [1] * len(texts))
        return found

    def longest(self, ids: list[int], rows: int, new: int) -> dict[str, Part]:
        """As `batch`, of at most `rows` rows of the tokens `ids`, the last `new` of them a rationale's."""
        rows = min(rows, self.weights.rows)
        prompt = ids[: len(ids) - new]
        found = {}
        if self.weights.rationale:
            found["rationale"] = features([whole(ids)] * rows, [len(prompt)] * rows)
        if self.weights.text:  # all of a text follows its first token
            found["text"] = features([whole(prompt)] * rows, [1] * rows)
        return found

    def __call__(self, batch: dict[str, Part]) -> dict[str, Tensor]:
        """The KLs of what `batch` gave, by their names: scalars, without their weights."""
        return {name: self._divergence(name, part) for name, part in batch.items()}

    def loss(self, divergences: dict[str, Tensor]) -> Tensor:
        """Their weighted sum."""
        return sum((getattr(self.weights, name) * value for name, value in divergences.items()), torch.zeros(()))

    def _divergence(self, name: str, part: Part) -> Tensor:
        """KL of the backbone's logits to the model's, both [t, V]: the mean over t tokens, in nats; float32."""
        common = len(self.template.prefix) if name == "rationale" else 0
        if self.adapted:
            training = self.model.training
            with torch.no_grad(), self.model.eval().disable_adapter():  # the backbone has no dropout
                theirs = _logits(self.model, part, common)
            self.model.train(training)
        else:
            self.backbone.to(part["input_ids"].device)
            with torch.no_grad():
                theirs = _logits(self.backbone, part, common)
        p, q = (each.float().log_softmax(-1) for each in (theirs, _logits(self.model, part, common)))
        return F.kl_div(q, p, reduction="batchmean", log_target=True)


def _logits(model: Any, part: Part, common: int = 0) -> Tensor:
    """[t, V] logits of what follows the tokens from each row's `prompt_tokens` - 1 on, in an order that they decide;
    all rows begin with `common` tokens, fewer than any prompt's."""
    ids, mask = part["input_ids"], part["attention_mask"]
    found = []
    for rows, hidden, start in passes(model, None, ids, mask, common):
        position = torch.arange(start, start + hidden.shape[1], device=ids.device)
        wanted = mask[rows, start : start + hidden.shape[1]].bool()
        found.append(hidden[wanted & (position >= part["prompt_tokens"][rows].unsqueeze(1) - 1)])
    return model.get_output_embeddings()(torch.cat(found))


@dataclass
class KLCollator(SentenceTransformerDataCollator):
    """With the sequences that the KLs are taken on."""

    regulariser: Any = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return super().__call__(rows) | {KL: self.regulariser.batch(rows)}


class KLTrainer(AdapterTrainer):
    """With the KL regulariser, and with its tokens in the count of those that were trained on."""

    regulariser: KLRegulariser
    divergences: dict[str, Tensor]  # of the last step

    def collator(self, embedder: SentenceTransformer) -> SentenceTransformerDataCollator:
        module: Any = embedder[0]
        assert self.spec.contrastive is not None and self.spec.contrastive.fence is not None
        self.regulariser = KLRegulariser(module.model, self.spec.contrastive.fence, module.template, self.rationales)
        return KLCollator(preprocess_fn=embedder.preprocess, regulariser=self.regulariser)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        masks = [part["attention_mask"] for part in inputs[KL].values()]
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.track_loss_components({f"kl_{name}": value for name, value in self.divergences.items()})
        self.count_tokens(masks)
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # The KL's gradient is there before the other's begins: the last backward pass sums both over the processes.
        with self.accelerator.autocast():  # which accelerate gives a module's own forward only
            self.divergences = self.regulariser(inputs.pop(KL))
        kl = self.regulariser.loss(self.divergences)
        self.accelerator.backward(kl)
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        return loss + kl.detach()

    def longest(self, rows: int, length: int, new: int) -> dict[str, Any]:
        return super().longest(rows, length, new) | {KL: self.regulariser.longest(self.longest_ids(length), rows, new)}


train = partial(adapter.train, make=KLTrainer)
