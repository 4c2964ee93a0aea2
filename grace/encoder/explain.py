"""Why two texts are near: the sentences of both, and of what the model wrote about them, that carry their cosine.

An embedding is the mean of the hidden states of the tokens after the system prefix (eq. 11): the text's, those of the
template's glue after it, and the rationale's without its last one. So a sentence can be taken out of the mean without
the model being run again:

    effect of a sentence = cos(a, b) - cos(a without the hidden states of the sentence's tokens, b)

A positive effect says that the sentence carries the similarity, a negative one that it speaks against it. Effects do
not add up to the cosine. The other tokens keep the hidden states in which they have seen the sentence, so this is not
what the model would give for a text without it.

- A token belongs to the sentence in which it ends; white space to the sentence before it.
- The glue and the marks `<think>` and `</think>` belong to no sentence and always stay.
- Max pooling: the maximum over the tokens that stay. With eos pooling the embedding is one token's hidden state, from
  which nothing can be taken out: refused.
- A text of one sentence leaves the glue and the rationale. Where nothing is left (the prompt `plain`, one sentence),
  the cosine without it counts as 0, so the effect is the cosine.
- Of a cut text and of a cut rationale only what the model has read counts; a part of which no token is pooled, such as
  a rationale of one token, has the effect 0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from grace.encoder.adapters import embedding
from grace.encoder.engines.packed import left_pad
from grace.encoder.engines.reading import hidden_states
from grace.encoder.inputs import checked_texts
from grace.encoder.splitting import rationale_sentences, sentences
from grace.method.prompt import head
from grace.section import UserError

if TYPE_CHECKING:
    from grace.encoder.encoder import Rationale, RationaleEncoder

Kind = Literal["text", "rationale"]
# Texts whose hidden states are in memory together.
TOGETHER = 8


class Part(NamedTuple):
    """A sentence."""

    kind: Kind
    text: str  # as it stands in the text or the rationale
    effect: float  # the cosine's change when it is left out; positive: it carries the similarity


class Explained(NamedTuple):
    """One of two texts."""

    text: str
    rationale: Rationale | None  # None: embedded without
    parts: list[Part]  # in the order in which they stand, those of the text first


class Explanation(NamedTuple):
    """Two texts, their cosine and what carries it."""

    similarity: float
    a: Explained
    b: Explained


class Reading(NamedTuple):
    """A text as the model has read it: all that `compare` needs, to explain one text against many."""

    text: str
    rationale: Rationale | None
    parts: list[tuple[Kind, str]]  # P sentences
    embedding: np.ndarray  # [d] float64, not normalised
    without: np.ndarray  # [P, d] float64: the embedding when a sentence is left out; zeros when nothing is left


def explain(encoder: RationaleEncoder, a: str, b: str, rationales: bool | None = None) -> Explanation:
    """Explain the cosine of two texts; defined in this module's docstring.

    Rationales are written once and both texts are then read in one forward pass, whatever the number of sentences.
    The cosine is that of `encoder.encode` up to floating-point error.

    Args:
        rationales: True with, False without; None as the encoder does.

    Raises:
        UserError: with eos pooling, or a tokenizer that does not say where in the text its tokens are.
        TypeError: when a text is no string.
    """
    return compare(*read(encoder, [a, b], rationales))


def compare(a: Reading, b: Reading) -> Explanation:
    """The same of texts that were read before: arithmetic, no model."""
    whole = cosines(a.embedding[None], b.embedding[None])[0, 0]
    return Explanation(float(whole), _explained(a, b, whole), _explained(b, a, whole))


def read(
    encoder: RationaleEncoder,
    texts: list[str],
    rationales: bool | None = None,
    token_ids: Sequence[list[int]] | None = None,
) -> list[Reading]:
    """Read N texts: at most one generation for all, and a forward pass for every few of them.

    Args:
        rationales: True with, False without; None as the encoder does.
        token_ids: rationales that are written already; then nothing is generated.

    Raises:
        as `explain`.
    """
    if encoder.spec.pooling.method == "eos":
        raise UserError(
            "explain: with eos pooling an embedding is one token's hidden state, from which no sentence can be left "
            "out; use a model with mean or max pooling."
        )
    texts = checked_texts(texts)
    reasons = encoder.spec.rationales if rationales is None else rationales
    if token_ids is None and reasons:
        token_ids = [rationale.token_ids for rationale in encoder.encode(texts, rationales=True).rationales or []]
    written = encoder.rationales(token_ids) if token_ids is not None else None
    sequences, pool_from = encoder.sequences(texts, token_ids)
    found: list[Any] = [None] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: -len(sequences[i]))
    for start in range(0, len(order), TOGETHER):
        rows = order[start : start + TOGETHER]
        for i, hidden in zip(rows, _hidden(encoder, [sequences[i] for i in rows], pool_from), strict=True):
            found[i] = _reading(encoder, texts[i], written[i] if written else None, hidden)
    return found


@torch.no_grad()
def _hidden(encoder: RationaleEncoder, sequences: list[list[int]], pool_from: int) -> list[np.ndarray]:
    """The hidden states that are pooled of each sequence: [n, d] float64."""
    device = next(encoder.model.parameters()).device
    ids, mask = left_pad(sequences, device)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    with embedding(encoder.model) as model:
        states, _ = hidden_states(
            model, encoder.spec.pooling, input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False
        )
    width = ids.shape[1]
    return [
        row[width - len(sequence) + pool_from :].double().cpu().numpy()
        for row, sequence in zip(states, sequences, strict=True)
    ]


def _reading(encoder: RationaleEncoder, text: str, rationale: Rationale | None, hidden: np.ndarray) -> Reading:
    parts: list[tuple[Kind, str]] = []
    spans: list[tuple[int, int]] = []
    room, glue = encoder.template.max_prompt_tokens, 0
    if rationale is not None or encoder.spec.direct_prompt == "chat":
        room, glue = encoder.template.text_room, len(encoder.template.suffix)
    ends = _text_ends(encoder.tokenizer, text, room)
    seen = text[: ends[-1]] if ends else ""
    for start, end in sentences(seen):
        parts.append(("text", seen[start:end].strip()))
        spans.append((bisect_right(ends, start), bisect_right(ends, end)))
    if rationale is not None:
        first = len(ends) + glue
        said, where = _rationale_ends(encoder, rationale)
        for start, end in rationale_sentences(said):
            parts.append(("rationale", said[start:end].strip()))
            spans.append((first + where(start), first + where(end)))
    whole, without = _left_out(hidden, spans, encoder.spec.pooling.method)
    return Reading(text, rationale, parts, whole, without)


def _text_ends(tokenizer: Any, text: str, room: int) -> list[int]:
    """Where in the text each of its tokens ends that the model has read."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("explain: this model's tokenizer does not say where in the text its tokens are.")
    read = head(text, room).encode("utf-8", "replace").decode()  # as `PromptTemplate` reads it
    found = tokenizer(read, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    return [end for _, end in found["offset_mapping"][:room]]


def _rationale_ends(encoder: RationaleEncoder, rationale: Rationale) -> tuple[str, Callable[[int], int]]:
    """The rationale as it was decoded, and how many of its tokens end at or before a character of it."""
    ids = rationale.token_ids if rationale.truncated else rationale.token_ids[:-1]

    def decoded(count: int) -> str:
        return encoder.tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def where(at: int) -> int:
        return bisect_right(range(len(ids)), at, key=lambda i: len(decoded(i + 1)))

    return decoded(len(ids)), where


def _left_out(hidden: np.ndarray, spans: list[tuple[int, int]], method: str) -> tuple[np.ndarray, np.ndarray]:
    """Pooled `hidden` [n, d], and pooled without each of P ranges of its rows [P, d]; zeros of no rows."""
    count, width = hidden.shape
    without = np.zeros((len(spans), width))
    if method == "mean":
        sums = np.concatenate([np.zeros((1, width)), hidden.cumsum(0)])
        for row, (start, end) in enumerate(spans):
            start, end = min(start, count), min(end, count)
            left = count - (end - start)
            without[row] = (sums[-1] - (sums[end] - sums[start])) / left if left else 0
        return sums[-1] / max(1, count), without
    for row, (start, end) in enumerate(spans):
        kept = [part.max(0) for part in (hidden[:start], hidden[end:]) if len(part)]
        without[row] = np.max(kept, axis=0) if kept else 0
    return hidden.max(0) if count else np.zeros(width), without


def _explained(one: Reading, other: Reading, whole: float) -> Explained:
    effects = whole - cosines(one.without, other.embedding[None])[:, 0]
    parts = [Part(kind, text, float(effect)) for (kind, text), effect in zip(one.parts, effects, strict=True)]
    return Explained(one.text, one.rationale, parts)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, M] cosines of the rows of a [N, d] and b [M, d]; 0 where one of them has length 0."""
    a, b = (rows / np.where((norms := np.linalg.norm(rows, axis=1, keepdims=True)) > 0, norms, 1) for rows in (a, b))
    return a @ b.T
