"""What keeps a model's writing while its embeddings are trained: the forward KL of the frozen backbone to it.

    KL = mean over tokens of the sum over the vocabulary of p (log p - log q)

for the probabilities p and q that the backbone and the model give the next token. It is taken on rationales of the
backbone, and on plain text. Logits are computed for the tokens that it is taken on, and for no other.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from grace import settings
from grace.encoder.reads import whole
from grace.method.prompt import PromptTemplate
from grace.section import UserError
from grace.training.student import Lookup, features, passes

Part = dict[str, Tensor]  # of `student.features`; tokens from `prompt_tokens` - 1 on predict what the KL is taken on


class Fence:
    """Both KLs of a batch.

    Args:
        model: a causal LM that is trained. With adapters (peft) the backbone is the model without them; else it is a
            copy of the model as it is now.
        weights: of the KLs, and of how many rows they are taken.
        template: the prompt.
        rationales: needed if those have a weight.

    Raises:
        UserError: when the backbone and the model do not have the same vocabulary.
    """

    def __init__(
        self,
        model: Any,
        weights: settings.Fence,
        template: PromptTemplate,
        rationales: Lookup | None = None,
        backbone: Any = None,
    ) -> None:
        self.model, self.weights, self.template, self.rationales = model, weights, template, rationales
        self.adapted = hasattr(model, "peft_config") and backbone is None
        self.backbone = model if self.adapted else backbone or copy.deepcopy(model)
        if not self.adapted:
            self.backbone.eval().requires_grad_(False)
        ours, theirs = (len(m.get_output_embeddings().weight) for m in (model, self.backbone))
        if ours != theirs:
            raise UserError(
                f"config: kl_fence.fence: the model has {ours} tokens and the backbone {theirs}, so there is no KL "
                "between them; train from the backbone itself."
            )

    def batch(self, rows: list[dict[str, str]]) -> dict[str, Part]:
        """The sequences that the KLs are taken on, of a batch's texts {column: text}: of each row one column's."""
        texts = [list(row.values())[i % len(row)] for i, row in enumerate(rows[: self.weights.rows])]
        found = {}
        if self.weights.rationale:
            assert self.rationales is not None
            prompts = self.template.ids(texts)
            sequences = [p + r[:-1] for p, r in zip(prompts, self.rationales(texts), strict=True)]
            found["rationale"] = features([whole(ids) for ids in sequences], [len(ids) for ids in prompts])
        if self.weights.text:
            found["text"] = features([whole(ids) for ids in self._plain(texts)], [1] * len(texts))
        return found

    def _plain(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts as in pretraining: no prompt, the first token of a document before them."""
        first, room = self.template.tokenizer.bos_token_id, self.template.max_prompt_tokens
        begun = [[*([] if first is None else [first]), *ids] for ids in self.template.text_ids(texts, room)]
        return [ids[:room] or self.template.suffix[:1] for ids in begun]

    def __call__(self, batch: dict[str, Part]) -> dict[str, Tensor]:
        """The KLs of what `batch` gave, by their names: scalars, without their weights."""
        return {name: self._divergence(name, part) for name, part in batch.items()}

    def loss(self, divergences: dict[str, Tensor]) -> Tensor:
        """Their weighted sum."""
        return sum((getattr(self.weights, name) * value for name, value in divergences.items()), torch.zeros(()))

    def _divergence(self, name: str, part: Part) -> Tensor:
        common = len(self.template.prefix) if name == "rationale" else 0
        if self.adapted:
            training = self.model.training
            with torch.no_grad(), self.model.eval().disable_adapter():  # the backbone has no dropout
                theirs = logits(self.model, part, common)
            self.model.train(training)
        else:
            self.backbone.to(part["input_ids"].device)
            with torch.no_grad():
                theirs = logits(self.backbone, part, common)
        return divergence(theirs, logits(self.model, part, common))


def logits(model: Any, part: Part, common: int = 0) -> Tensor:
    """[t, V] logits of what follows the tokens from each row's `prompt_tokens` - 1 on, in an order that they decide.

    Args:
        common: tokens that all rows begin with, fewer than any prompt's.
    """
    ids, mask = part["input_ids"], part["attention_mask"]
    found = []
    for rows, hidden, start in passes(model, None, ids, mask, common):
        position = torch.arange(start, start + hidden.shape[1], device=ids.device)
        wanted = mask[rows, start : start + hidden.shape[1]].bool()
        found.append(hidden[wanted & (position >= part["prompt_tokens"][rows].unsqueeze(1) - 1)])
    return model.get_output_embeddings()(torch.cat(found))


def divergence(theirs: Tensor, ours: Tensor) -> Tensor:
    """KL of `theirs` to `ours`, both logits [t, V]: the mean over t tokens, in nats; float32."""
    p, q = (part.float().log_softmax(-1) for part in (theirs, ours))
    return F.kl_div(q, p, reduction="batchmean", log_target=True)
