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

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from grace.config.section import UserError
from grace.encoder.adapters import embedding
from grace.encoder.engines.forward import hidden_states, left_padded
from grace.encoder.reads import Read, checked_texts
from grace.method.prompt import head

if TYPE_CHECKING:
    from grace.encoder.encoder import Rationale, RationaleEncoder

Kind = Literal["text", "rationale"]
TOGETHER = 8  # texts whose hidden states are in memory together
# Where a sentence may end: punctuation, a blank line, a list mark. No part of this starts inside a run that it has
# passed, so that a megabyte of dots takes no longer than one of words.
BORDER = re.compile(
    r"(?<![.!?…])(?P<stop>[.!?…]++[\"'”’)\]]*+)\s++(?P<next>\S)?"
    r"|[。！？]++[”’」』）]*+\s*+"
    r"|\n\s*\n\s*"
    r"|\n[^\S\n]*(?=(?:[-*•]|\d+[.)])\s)"
)
MARK = re.compile(r"</?think>")
WORD = re.compile(r"[\w.]+$")
ABBREVIATION = re.compile(
    r"al|approx|cf|dr|e\.g|eqs?|etc|figs?|i\.e|mr|mrs|ms|nos?|pp|prof|sec|st|tab|vol|vs", re.IGNORECASE
)


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
    """Explain the cosine of two texts, that of `encoder.encode` up to floating-point error.

    Rationales (True with, False without, None as the encoder does) are written once and both texts are then read in one
    forward pass, whatever the number of sentences.

    Raises:
        UserError: for a tokenizer that does not say where in the text its tokens are.
        TypeError: when a text is no string.
    """
    return compare(*read(encoder, [a, b], rationales))


def compare(a: Reading, b: Reading) -> Explanation:
    """The same of texts that were read before: arithmetic, no model."""
    whole = cosines(a.embedding[None], b.embedding[None])[0, 0]
    sides = []
    for one, other in ((a, b), (b, a)):
        effects = whole - cosines(one.without, other.embedding[None])[:, 0]
        parts = [Part(kind, text, float(effect)) for (kind, text), effect in zip(one.parts, effects, strict=True)]
        sides.append(Explained(one.text, one.rationale, parts))
    return Explanation(float(whole), *sides)


def read(
    encoder: RationaleEncoder,
    texts: list[str],
    rationales: bool | None = None,
    token_ids: Sequence[list[int]] | None = None,
) -> list[Reading]:
    """As `explain`, for N texts: one generation for all, none where `token_ids` has their rationales."""
    texts = checked_texts(texts)
    reasons = encoder.spec.rationales if rationales is None else rationales
    if token_ids is None and reasons:
        token_ids = [rationale.token_ids for rationale in encoder.encode(texts, rationales=True).rationales or []]
    written = encoder.rationales(token_ids) if token_ids is not None else [None] * len(texts)
    given = encoder.sequences(texts, token_ids)
    parts = [_parts(encoder, *row) for row in zip(texts, written, given, strict=True)]
    leave_out = _read_again if encoder.spec.pooling.method == "eos" else _taken_out
    vectors = leave_out(encoder, given, [[(start, end) for *_, start, end in some] for some in parts])
    return [
        Reading(text, rationale, [(kind, sentence) for kind, sentence, *_ in some], *vector)
        for text, rationale, some, vector in zip(texts, written, parts, vectors, strict=True)
    ]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, M] cosines of the rows of a [N, d] and b [M, d]; 0 where one of them has length 0."""
    a, b = (rows / np.where((norms := np.linalg.norm(rows, axis=1, keepdims=True)) > 0, norms, 1) for rows in (a, b))
    return a @ b.T


# ---- embeddings without a sentence ----

Spans = list[list[tuple[int, int]]]  # for each text, for each sentence: its first token and the first after it
Vectors = list[tuple[np.ndarray, np.ndarray]]  # for each text, the embedding [d] and those without a sentence [P, d]


def _read_again(encoder: RationaleEncoder, given: list[Read], spans: Spans) -> Vectors:
    """The last token's state, when the tokens of a sentence are not read."""
    sequences = []
    for one, some in zip(given, spans, strict=True):
        sequences.append(one)
        for start, end in some:
            ids = one.ids[:start] + one.ids[end:]
            sequences.append(Read(ids, min(one.start, len(ids) - 1), len(ids)))
    vectors = iter(encoder.pooled(sequences).double().numpy())
    return [(next(vectors), np.array([next(vectors) for _ in some])) for some in spans]


@torch.no_grad()
def _taken_out(encoder: RationaleEncoder, given: list[Read], spans: Spans) -> Vectors:
    """The pooled states, and pooled without those of a sentence."""
    found: Any = [None] * len(given)
    order = sorted(range(len(given)), key=lambda i: -len(given[i].ids))
    for begin in range(0, len(order), TOGETHER):
        rows = order[begin : begin + TOGETHER]
        inputs = left_padded([given[i].ids for i in rows], next(encoder.model.parameters()).device)
        with embedding(encoder.model) as model:
            states, _ = hidden_states(model, encoder.spec.pooling, **inputs, use_cache=False)
        for i, row in zip(rows, states, strict=True):
            padding, one = len(row) - len(given[i].ids), given[i]
            pooled = row[padding + one.start : padding + one.stop].double().cpu().numpy()
            inside = np.clip(np.array(spans[i], dtype=int).reshape(-1, 2) - one.start, 0, len(pooled))
            found[i] = _left_out(pooled, inside, encoder.spec.pooling.method)
    return found


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
        rest = [part.max(0) for part in (hidden[:start], hidden[end:]) if len(part)]
        without[row] = np.max(rest, axis=0) if rest else 0
    return hidden.max(0), without


# ---- sentences ----


def _parts(
    encoder: RationaleEncoder, text: str, rationale: Rationale | None, given: Read
) -> list[tuple[Kind, str, int, int]]:
    """The sentences of text and rationale, each with its first token in `given` and the first after it."""
    ends = _text_ends(encoder.tokenizer, text, given.size)
    seen = text[: ends[-1]] if ends else ""
    found: list[tuple[Kind, str, int, int]] = []
    for start, end in sentences(seen):
        tokens = given.text + bisect_right(ends, start), given.text + bisect_right(ends, end)
        found.append(("text", seen[start:end].strip(), *tokens))
    if rationale is None:
        return found
    ids = rationale.token_ids if rationale.truncated else rationale.token_ids[:-1]
    first = given.text + given.size + len(encoder.template.suffix)

    def decoded(count: int) -> str:
        return encoder.tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def token(character: int) -> int:
        return first + bisect_right(range(len(ids)), character, key=lambda i: len(decoded(i + 1)))

    written = decoded(len(ids))
    for start, end in rationale_sentences(written):
        found.append(("rationale", written[start:end].strip(), token(start), token(end)))
    return found


def _text_ends(tokenizer: Any, text: str, room: int) -> list[int]:
    """Where in the text each of its tokens ends that the model has read."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("explain: this model's tokenizer does not say where in the text its tokens are.")
    begin = head(text, room).encode("utf-8", "replace").decode()  # as `PromptTemplate` reads it
    found = tokenizer(begin, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    return [end for _, end in found["offset_mapping"][:room]]


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence in order; together they cover the text, so white space belongs to the one before.

    [] for a text that has nothing but white space.
    """
    found, start = [], 0
    for end in [*_borders(text), len(text)]:
        if text[start:end].strip():
            found.append((start, end))
            start = end
    return found[:-1] + [(found[-1][0], len(text))] if found else []


def rationale_sentences(text: str) -> list[tuple[int, int]]:
    """The same of a rationale, whose thought and statement are apart, and whose marks belong to no sentence."""
    found, start = [], 0
    for mark in [*MARK.finditer(text), None]:
        end = mark.start() if mark else len(text)
        found += [(start + first, start + last) for first, last in sentences(text[start:end])]
        start = mark.end() if mark else end
    return found


def _borders(text: str) -> Iterator[int]:
    for match in BORDER.finditer(text):
        if not match["stop"]:
            yield match.end()
            continue
        following = match["next"] or ""
        word = WORD.search(text, max(0, match.start() - 20), match.start()) if match["stop"] == "." else None
        initial = word and len(word[0]) == 1 and word[0].isupper()
        if not (following.islower() or initial or (word and ABBREVIATION.fullmatch(word[0]))):
            yield match.start("next") if following else match.end()
