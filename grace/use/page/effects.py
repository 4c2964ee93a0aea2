"""Which sentences carry the similarity of the pairs that the page shows: `grace.encoder.explain`, in bulk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from grace import manifest
from grace.encoder.digests import digests_of
from grace.encoder.saved import described
from grace.encoder.store import Store
from grace.section import UserError
from grace.use.page.models import Evaluated
from grace.use.page.neighbours import Hits

HITS = 5  # of a text's documents, and its true one, are explained
# Unasked, all texts are read again by a model of at most so many bytes (seconds on a CPU), none by a larger one.
SMALL = 50_000_000


class Effects(NamedTuple):
    """For the explained ones of n texts.

    spans: i -> where its P sentences stand, in UTF-16 units as JavaScript counts: [start, end] pairs of those in the
    text, and of those in the rationale. effects: i -> per explained hit its position among the hits, and the effects of
    the text's own sentences and of the hit's.
    """

    spans: dict[int, tuple[list[int], list[int]]]
    effects: dict[int, list[tuple[int, list[float], list[float]]]]


def affordable(model: Evaluated) -> bool:
    """Whether the model is small enough to read all texts unasked, an adapter with its backbone."""
    folders = [model.folder]
    if model.folder.is_dir() and (at := described(model.folder)):
        folders.append(model.folder / at.base)
    return sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors")) <= SMALL


def explained(
    model: Evaluated, held: Store, texts: Sequence[str], known: np.ndarray, hits: Hits, at_most: int
) -> Effects:
    """Effects for the first `at_most` texts that have an embedding; their rationales are taken from the store.

    Raises:
        UserError: when the model's folder is gone, holds other weights, or its pooling cannot be explained.
    """
    if model.encode is None:
        raise UserError("effects of sentences are computed of decoders alone.")
    if not model.folder.is_dir():
        raise UserError(f"{model.folder}: the model's folder is gone, so no sentence's effect can be computed.")
    if manifest.weights_hash(model.folder) != model.weights:
        raise UserError(f"{model.folder}: holds other weights than those that were evaluated; evaluate it again.")
    from transformers.utils import logging

    from grace.encoder import explain
    from grace.encoder.encoder import RationaleEncoder

    logging.disable_progress_bar()
    spec = model.encode.model_copy(update={"engine": "transformers"})
    encoder = RationaleEncoder.from_spec(model.folder, spec)
    chosen = np.flatnonzero(known)[:at_most].tolist()
    pairs = {i: _explained_hits(i, hits) for i in chosen}
    needed = sorted({*chosen, *(hits.numbers[i][at] for i in chosen for at in pairs[i])})
    some = [texts[i] for i in needed]
    ids = held.rationales(digests_of(some)) if spec.rationales else None
    read = dict(zip(needed, explain.read(encoder, some, spec.rationales, ids), strict=True))
    found = Effects({i: _spans(one) for i, one in read.items()}, {i: [] for i in chosen})
    for i in chosen:
        for at in pairs[i]:
            made = explain.compare(read[i], read[hits.numbers[i][at]])
            sides = [[part.effect for part in side.parts] for side in (made.a, made.b)]
            found.effects[i].append((at, sides[0], sides[1]))
    return found


def _explained_hits(i: int, hits: Hits) -> list[int]:
    """Positions among the hits of text i: the first ones, and that of its true document."""
    numbers, rank = hits.numbers[i], hits.rank[i]
    first = list(range(min(HITS, len(numbers))))
    true = min(rank, len(numbers)) - 1
    return [*first, true] if true >= len(first) else first


def _spans(read: Any) -> tuple[list[int], list[int]]:
    """Of an `explain.Reading`: sentences are found where they stand, one after the other."""
    said = read.rationale.text if read.rationale else ""
    return tuple(  # type: ignore[return-value]
        _positions(whole, [part for kind, part in read.parts if kind == wanted])
        for wanted, whole in (("text", read.text), ("rationale", said))
    )


def _positions(whole: str, parts: Sequence[str]) -> list[int]:
    found: list[int] = []
    at = done = units = 0
    for part in parts:
        at = whole.find(part, at)
        if at < 0:
            raise ValueError(f"a sentence is not in its text: {part[:40]!r}")
        for end in (at, at + len(part)):
            units += _units(whole[done:end])
            done = end
            found.append(units)
        at = done
    return found


def _units(text: str) -> int:
    """Length in UTF-16 units."""
    return len(text) + sum(character > "\uffff" for character in text)
