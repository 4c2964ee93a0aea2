"""What the page computes from embeddings: nearest documents, two-dimensional maps, and effects of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from grace.cli.page.study_data import DOCUMENT, QUERY, Evaluated, PageTexts
from grace.config.section import UserError
from grace.encoder.saved import adapter_of
from grace.encoder.store import digests_of
from grace.jobs import manifest

HITS = 10
CHUNK = 512  # texts scored together: 512 x 5,000 scores are 10 MB
SIDE = 4095  # coordinates are whole numbers from 0 to SIDE
ITERATIONS = 500  # of t-SNE; half of scikit-learn's default, which moves points little after that
PERPLEXITY = 30.0
EXPLAINED_HITS = 5  # of a text's documents, and its true one, are explained
SMALL = 50_000_000  # bytes of a model that reads all texts again by default (seconds on a CPU)


# ---- nearest documents ---------------------------------------------------------------------


class Ranking(NamedTuple):
    """For each of n texts; empty for a text without embedding."""

    numbers: list[list[int]]  # its HITS best documents, by falling cosine, then its true one where that is none of them
    scores: list[list[float]]  # their cosines
    rank: list[int]  # of its best true document: 1 is first, 0 without one


def rank_documents(texts: PageTexts, known: np.ndarray, vectors: np.ndarray) -> Ranking:
    """Cosine ranking among the documents that have an embedding, a document's own left out; ties by number.

    Args:
        known: [n] bool, which texts have an embedding.
        vectors: [m, d] unit length, of those.
    """
    rows = np.flatnonzero(known)
    kinds = texts.kinds[rows]
    documents, targets = rows[kinds == DOCUMENT], vectors[kinds == DOCUMENT]
    column = {int(number): j for j, number in enumerate(documents)}
    found = Ranking([[] for _ in known], [[] for _ in known], [0] * len(known))
    for start in range(0, len(rows), CHUNK):
        scores = vectors[start : start + CHUNK] @ targets.T
        for i, line in zip(rows[start : start + CHUNK].tolist(), scores, strict=True):
            if i in column:
                line[column[i]] = -np.inf
            order = np.argsort(-line, kind="stable")[: len(line) - (i in column)]
            best = order[:HITS]
            if texts.texts[i].kind == QUERY:
                true = [column[j] for j in texts.true[i] if j in column]
                at = np.flatnonzero(np.isin(order, true))[:1]
                found.rank[i] = int(at[0]) + 1 if len(at) else 0
                best = np.concatenate([best, order[at[at >= HITS]]])
            found.numbers[i], found.scores[i] = documents[best].tolist(), line[best].tolist()
    return found


# ---- maps ----------------------------------------------------------------------------------


class Maps(NamedTuple):
    """Coordinates of m texts."""

    neighbourhoods: np.ndarray | None  # [m, 2] of t-SNE; None where there are too few texts for it
    components: np.ndarray  # [m, 2] main components
    share: float  # of the variance, by these


def draw_maps(vectors: np.ndarray, like: Maps | None = None) -> Maps:
    """Both maps of m embeddings.

    Args:
        vectors: [m, d] unit length.
        like: of the same texts under another model; the maps are rotated to match these.
    """
    from sklearn.decomposition import PCA

    if len(vectors) < 3 or vectors.shape[1] < 2:
        return Maps(None, np.column_stack([np.arange(len(vectors)), np.zeros(len(vectors))]), 0.0)
    pca = PCA(2, svd_solver="covariance_eigh" if vectors.shape[1] <= 4096 else "randomized", random_state=0)
    with np.errstate(invalid="ignore"):  # equal texts have no variance
        components = pca.fit_transform(vectors.astype(np.float64))
    share = float(np.nan_to_num(pca.explained_variance_ratio_).sum())
    if like is None:
        return Maps(_neighbourhoods(vectors, components), components, share)
    components = rotated(components, like.components)
    near = _neighbourhoods(vectors, components if like.neighbourhoods is None else like.neighbourhoods)
    if near is not None and like.neighbourhoods is not None:
        near = rotated(near, like.neighbourhoods)
    return Maps(near, components, share)


def _neighbourhoods(vectors: np.ndarray, start: np.ndarray) -> np.ndarray | None:
    from sklearn.manifold import TSNE

    if len(vectors) <= 3 * PERPLEXITY or not np.std(start[:, 0]):
        return None
    # The spread from which scikit-learn's own initialisation starts.
    start = ((start - start.mean(axis=0)) / np.std(start[:, 0]) * 1e-4).astype(np.float32)
    return TSNE(2, perplexity=PERPLEXITY, init=start, max_iter=ITERATIONS, random_state=0).fit_transform(vectors)


def rotated(points: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Points [m, 2] around their mean, rotated or mirrored to be nearest to `like` [m, 2]."""
    from scipy.linalg import orthogonal_procrustes

    points = points - points.mean(axis=0)
    rotation, _ = orthogonal_procrustes(points, like - like.mean(axis=0))
    return points @ rotation


def whole_coordinates(points: np.ndarray) -> np.ndarray:
    """[m, 2] as whole numbers from 0 to SIDE, one scale for both axes."""
    if not len(points):
        return np.zeros((0, 2), dtype=int)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = SIDE / max(float((high - low).max()), 1e-12)
    middle = (SIDE - (high - low) * scale) / 2
    return np.rint((points - low) * scale + middle).astype(int)


# ---- effects of sentences ------------------------------------------------------------------


class Effects(NamedTuple):
    """For the explained ones of n texts."""

    # Where the P sentences of the text, and those of its rationale, begin and end in UTF-16 units, as in JavaScript.
    spans: dict[int, tuple[list[int], list[int]]]
    # Of each explained hit its position among the hits, the effects of the text's sentences, those of the hit's.
    effects: dict[int, list[tuple[int, list[float], list[float]]]]


def affordable(model: Evaluated) -> bool:
    """Whether the model, an adapter with its backbone, is small enough to read all texts by default."""
    folders = [model.folder]
    if model.folder.is_dir() and (adapter := adapter_of(model.folder)):
        folders.append(model.folder / adapter.base)
    return sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors")) <= SMALL


def compute_effects(
    model: Evaluated, texts: Sequence[str], known: np.ndarray, ranking: Ranking, at_most: int
) -> Effects:
    """Effects (`grace.encoder.explain`) for the first `at_most` texts that have an embedding.

    Their rationales are taken from the store.

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
    positions = {}  # of the hits to explain: the first ones, and the true document
    for i in chosen:
        count = len(ranking.numbers[i])
        true = min(ranking.rank[i], count) - 1
        positions[i] = [*range(min(EXPLAINED_HITS, count)), *([true] if true >= EXPLAINED_HITS else [])]
    needed = sorted({*chosen, *(ranking.numbers[i][at] for i in chosen for at in positions[i])})
    some = [texts[i] for i in needed]
    ids = model.store.rationales(digests_of(some)) if model.store is not None and spec.rationales else None
    readings = dict(zip(needed, explain.read(encoder, some, spec.rationales, ids), strict=True))
    made = Effects({}, {i: [] for i in chosen})
    for i, one in readings.items():
        in_text, in_rationale = (
            [part for kind, part in one.parts if kind == wanted] for wanted in ("text", "rationale")
        )
        made.spans[i] = _spans(one.text, in_text), _spans(one.rationale.text if one.rationale else "", in_rationale)
    for i in chosen:
        for at in positions[i]:
            pair = explain.compare(readings[i], readings[ranking.numbers[i][at]])
            own, other = ([part.effect for part in side.parts] for side in (pair.a, pair.b))
            made.effects[i].append((at, own, other))
    return made


def _spans(text: str, sentences: Sequence[str]) -> list[int]:
    """Begin and end in UTF-16 units of sentences, one after the other in the text."""
    units = [0, *accumulate(2 if character > "\uffff" else 1 for character in text)]
    spans: list[int] = []
    end = 0
    for sentence in sentences:
        start = text.find(sentence, end)
        if start < 0:
            raise ValueError(f"a sentence is not in its text: {sentence[:40]!r}")
        end = start + len(sentence)
        spans += [units[start], units[end]]
    return spans
