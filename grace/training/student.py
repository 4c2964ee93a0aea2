"""What a contrastive training embeds, as sentence-transformers wants it: prompt, pooling and vectors as at evaluation.

The direct and the reasoning embedding of a text begin with the same chat prompt and the model is causal, so one pass
over prompt and rationale gives both: pooled over the prompt alone, and over the prompt and the rationale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache

from grace.encoder import reads
from grace.encoder.engines import transformers as engine
from grace.encoder.engines.reading import batches, hidden_states
from grace.encoder.reads import Read
from grace.method.pooling import pool
from grace.method.prompt import PromptTemplate
from grace.settings import Pooling

MAX_TOKENS = 2048  # that go together on a CPU
Lookup = Callable[[list[str]], list[list[int]]]  # texts -> token ids of their rationales


class PooledText(InputModule):
    """A text's trained embedding.

    Args:
        model: a causal LM.
        template: its prompt.
        pooling: of the embeddings.
        prompt: of direct embeddings, `chat` or `plain`.
        loss: `direct` or `rationale` embeddings [N, d], or `half`: both, side by side, [N, 2 d].
        rationales: needed unless `direct`.
    """

    def __init__(
        self,
        model: Any,
        template: PromptTemplate,
        pooling: Pooling,
        prompt: str,
        loss: str = "direct",
        rationales: Lookup | None = None,
    ) -> None:
        super().__init__()
        self.model, self.template, self.pooling, self.prompt, self.loss = model, template, pooling, prompt, loss
        self.tokenizer, self.rationales = template.tokenizer, rationales
        self.ends = engine.end_tokens(model, template.tokenizer)
        self.common = len(template.prefix) if loss != "direct" or prompt == "chat" else 0  # tokens that all begin with

    def preprocess(self, inputs: Any, prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        texts = list(inputs)
        if self.loss == "direct":
            return features(reads.direct(self.template, texts, self.prompt, self.pooling, self.ends))
        assert self.rationales is not None
        prompts = self.template.ids(texts)
        given = reads.written(self.template, prompts, self.rationales(texts), self.pooling, self.ends)
        return features(given, [len(ids) for ids in prompts])

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        ids, mask = features["input_ids"], features["attention_mask"]
        found, order = [], []
        for rows, hidden, start in passes(self.model, self.pooling, ids, mask, self.common):
            position = torch.arange(start, start + hidden.shape[1], device=ids.device)
            first, stop = (features[name][rows].unsqueeze(1) for name in ("start", "stop"))
            whole = (position >= first) & (position < stop)
            direct = whole & (position < features["prompt_tokens"][rows].unsqueeze(1))
            pooled = {"direct": [direct], "rationale": [whole], "half": [direct, whole]}[self.loss]
            found.append(torch.cat([pool(hidden.float(), at, self.pooling.method) for at in pooled], 1))
            order.append(rows)
        features["sentence_embedding"] = torch.cat(found)[torch.cat(order).argsort()]
        return features

    def get_embedding_dimension(self) -> int:
        return self.model.config.get_text_config().hidden_size * (2 if self.loss == "half" else 1)

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
    """Hidden states of rows padded on the right, which need no mask as the model is causal.

    On a CPU rows of similar length go together, and the `common` tokens that all begin with are read once for all,
    unless each row is to have a dropout of its own. Sharded weights are read by all processes at the same time, so
    there, and on a GPU, all rows go in one pass.

    Args:
        pooling: whose layer is read; None: the last.
        ids, mask: [N, L].

    Yields:
        Numbers of n rows, their hidden states [n, l, d], and the position that these begin with.
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
