"""Two-dimensional maps of embeddings: t-SNE for the neighbourhoods, the two main components for the whole."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIDE = 4095  # coordinates are whole numbers from 0 to SIDE
ITERATIONS = 500  # of t-SNE; half of scikit-learn's default, which moves points little after that
PERPLEXITY = 30.0


class Layout(NamedTuple):
    """Coordinates [m, 2] of m texts, float; `share` is the main components' share of the variance."""

    neighbourhoods: np.ndarray | None  # None where there are too few texts for t-SNE
    components: np.ndarray
    share: float


def layout(vectors: np.ndarray, like: Layout | None = None) -> Layout:
    """Both maps of m embeddings.

    Args:
        vectors: [m, d] unit length.
        like: of the same texts under another model, to which these are turned, so that the two can be compared.
    """
    from sklearn.decomposition import PCA

    if len(vectors) < 3 or vectors.shape[1] < 2:
        flat = np.column_stack([np.arange(len(vectors)), np.zeros(len(vectors))])
        return Layout(None, flat, 0.0)
    made = PCA(2, svd_solver="covariance_eigh" if vectors.shape[1] <= 4096 else "randomized", random_state=0)
    with np.errstate(invalid="ignore"):  # equal texts have no variance to share
        components = made.fit_transform(vectors.astype(np.float64))
    share = float(np.nan_to_num(made.explained_variance_ratio_).sum())
    if like is None:
        return Layout(_neighbourhoods(vectors, components), components, share)
    components = turned(components, like.components)
    near = _neighbourhoods(vectors, components if like.neighbourhoods is None else like.neighbourhoods)
    if near is not None and like.neighbourhoods is not None:
        near = turned(near, like.neighbourhoods)
    return Layout(near, components, share)


def _neighbourhoods(vectors: np.ndarray, start: np.ndarray) -> np.ndarray | None:
    from sklearn.manifold import TSNE

    if len(vectors) <= 3 * PERPLEXITY or not np.std(start[:, 0]):
        return None
    # The spread from which scikit-learn's own initialisation starts.
    start = ((start - start.mean(axis=0)) / np.std(start[:, 0]) * 1e-4).astype(np.float32)
    return TSNE(2, perplexity=PERPLEXITY, init=start, max_iter=ITERATIONS, random_state=0).fit_transform(vectors)


def turned(points: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Points [m, 2] around their mean, rotated or mirrored to lie as near to `like` [m, 2] as that can."""
    from scipy.linalg import orthogonal_procrustes

    points = points - points.mean(axis=0)
    rotation, _ = orthogonal_procrustes(points, like - like.mean(axis=0))
    return points @ rotation


def whole(points: np.ndarray) -> list[int]:
    """Coordinates as whole numbers, one scale for both axes: x and y of the first point, then of the next."""
    if not len(points):
        return []
    low, high = points.min(axis=0), points.max(axis=0)
    scale = SIDE / max(float((high - low).max()), 1e-12)
    middle = (SIDE - (high - low) * scale) / 2
    return np.rint((points - low) * scale + middle).astype(int).ravel().tolist()
