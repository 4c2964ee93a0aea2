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
  which nothing can be taken out: there the model reads again, without the sentence's tokens.
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
from grace.encoder.reads import Read
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
        UserError: for a tokenizer that does not say where in the text its tokens are.
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
    texts = checked_texts(texts)
    reasons = encoder.spec.rationales if rationales is None else rationales
    if token_ids is None and reasons:
        token_ids = [rationale.token_ids for rationale in encoder.encode(texts, rationales=True).rationales or []]
    written = encoder.rationales(token_ids) if token_ids is not None else [None] * len(texts)
    given = encoder.sequences(texts, token_ids)
    parts = [_parts(encoder, *at) for at in zip(texts, written, given, strict=True)]
    pooled = _read_again if encoder.spec.pooling.method == "eos" else _taken_out
    vectors = pooled(encoder, given, [[(start, end) for *_, start, end in some] for some in parts])
    return [
        Reading(text, rationale, [(kind, said) for kind, said, *_ in some], *vector)
        for text, rationale, some, vector in zip(texts, written, parts, vectors, strict=True)
    ]


def _parts(
    encoder: RationaleEncoder, text: str, rationale: Rationale | None, given: Read
) -> list[tuple[Kind, str, int, int]]:
    """The sentences, and from which token of `given` on and before which each is."""
    ends = _text_ends(encoder.tokenizer, text, given.size)
    seen = text[: ends[-1]] if ends else ""
    found: list[tuple[Kind, str, int, int]] = []
    for start, end in sentences(seen):
        at = given.text + bisect_right(ends, start), given.text + bisect_right(ends, end)
        found.append(("text", seen[start:end].strip(), *at))
    if rationale is not None:
        first = given.text + given.size + len(encoder.template.suffix)
        said, where = _rationale_ends(encoder, rationale)
        for start, end in rationale_sentences(said):
            found.append(("rationale", said[start:end].strip(), first + where(start), first + where(end)))
    return found


Spans = list[list[tuple[int, int]]]  # of each text, of its sentences
Vectors = list[tuple[np.ndarray, np.ndarray]]  # the embedding [d] and those without each of P sentences [P, d]


def _read_again(encoder: RationaleEncoder, given: list[Read], spans: Spans) -> Vectors:
    """The last token's state, when the tokens of a sentence are not read."""
    every = [
        one for read, some in zip(given, spans, strict=True) for one in (read, *(_without(read, *at) for at in some))
    ]
    vectors = iter(encoder.pooled(every).double().numpy())
    return [(next(vectors), np.array([next(vectors) for _ in some])) for some in spans]


def _without(read: Read, start: int, end: int) -> Read:
    ids = read.ids[:start] + read.ids[end:]
    return Read(ids, min(read.start, len(ids) - 1), len(ids))


@torch.no_grad()
def _taken_out(encoder: RationaleEncoder, given: list[Read], spans: Spans) -> Vectors:
    """The pooled states, and pooled without those of a sentence."""
    found: Any = [None] * len(given)
    order = sorted(range(len(given)), key=lambda i: -len(given[i].ids))
    for start in range(0, len(order), TOGETHER):
        rows = order[start : start + TOGETHER]
        ids, mask = left_pad([given[i].ids for i in rows], next(encoder.model.parameters()).device)
        position = (mask.cumsum(1) - 1).clamp(min=0)
        with embedding(encoder.model) as model:
            states, _ = hidden_states(
                model, encoder.spec.pooling, input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False
            )
        for i, row in zip(rows, states, strict=True):
            first, last = (ids.shape[1] - len(given[i].ids) + at for at in given[i][1:3])
            pooled = row[first:last].double().cpu().numpy()
            inside = np.clip(np.array(spans[i], dtype=int).reshape(-1, 2) - given[i].start, 0, len(pooled))
            found[i] = _left_out(pooled, inside, encoder.spec.pooling.method)
    return found


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


def _left_out(hidden: np.ndarray, spans: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Pooled `hidden` [n, d], and pooled without each of P ranges of its rows [P, d]."""
    count, width = hidden.shape
    without = np.zeros((len(spans), width))
    if method == "mean":
        sums = np.concatenate([np.zeros((1, width)), hidden.cumsum(0)])
        for row, (start, end) in enumerate(spans):
            left = count - (end - start)
            without[row] = (sums[-1] - (sums[end] - sums[start])) / left if left else 0
        return sums[-1] / count, without
    for row, (start, end) in enumerate(spans):
        kept = [part.max(0) for part in (hidden[:start], hidden[end:]) if len(part)]
        without[row] = np.max(kept, axis=0) if kept else 0
    return hidden.max(0), without


def _explained(one: Reading, other: Reading, whole: float) -> Explained:
    effects = whole - cosines(one.without, other.embedding[None])[:, 0]
    parts = [Part(kind, text, float(effect)) for (kind, text), effect in zip(one.parts, effects, strict=True)]
    return Explained(one.text, one.rationale, parts)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, M] cosines of the rows of a [N, d] and b [M, d]; 0 where one of them has length 0."""
    a, b = (rows / np.where((norms := np.linalg.norm(rows, axis=1, keepdims=True)) > 0, norms, 1) for rows in (a, b))
    return a @ b.T
