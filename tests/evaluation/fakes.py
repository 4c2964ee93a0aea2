"""Stand-ins for tests: rows as the split stage writes them, and an encoder without a model."""

from __future__ import annotations

import re
import zlib
from typing import Any, NamedTuple

import numpy as np

PACKAGES = {"numpy": 6, "scipy": 5, "pandas": 4, "sklearn": 4, "torch": 4, "sympy": 3, "networkx": 2, "stdlib": 2}
WORDS = [
    "return",
    "array",
    "value",
    "index",
    "matrix",
    "graph",
    "node",
    "tensor",
    "frame",
    "column",
    "solve",
    "fit",
    "sample",
    "norm",
    "sort",
    "merge",
    "path",
]


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows id, query, positive, label, sublabel; texts of a module share words, so that tasks are learnable."""
    rng = np.random.default_rng(seed)
    names, weights = list(PACKAGES), np.array(list(PACKAGES.values()), dtype=float)
    rows = []
    for i in range(count):
        label = str(rng.choice(names, p=weights / weights.sum()))
        module = int(rng.integers(3))
        own = [f"{label}{module}{k}" for k in range(4)]
        topic = [str(rng.choice(own)), str(rng.choice(WORDS)), f"item{i % 37}"]
        filler = [str(word) for word in rng.choice(WORDS, 5)]
        rows.append(
            {
                "id": f"row{i}",
                "query": f"{topic[0]} of the {topic[1]} {topic[2]} number {i}.",
                "positive": " ".join([*topic, *filler, f"in case {i}."]),
                "label": label,
                "sublabel": f"{label}.mod{module}",
            }
        )
    return rows


class Rationale(NamedTuple):
    text: str
    token_ids: list[int]
    truncated: bool
    well_formed: bool


class Encoding(NamedTuple):
    embeddings: np.ndarray
    rationales: list[Rationale] | None


class FakeEncoder:
    """Hashed bag of words under a fixed random projection; counts what it encodes."""

    def __init__(self, size: int = 32, rationales: bool = False, noise: float = 0.3) -> None:
        self.size, self.rationales, self.noise = size, rationales, noise
        self.encoded: list[str] = []

    def _vector(self, word: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(word.encode())).normal(size=self.size)

    def encode(self, texts: list[str], rationales: bool | None = None, progress: bool = False) -> Encoding:
        self.encoded += texts
        out = np.zeros((len(texts), self.size), dtype=np.float32)
        for i, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower())
            out[i] = self.noise * self._vector("\0" + text) + sum((self._vector(word) for word in words), 0.0)
            out[i] /= np.linalg.norm(out[i])
        use = self.rationales if rationales is None else rationales
        if not use:
            return Encoding(out, None)
        said = []
        for i, text in enumerate(texts):
            words = text.split()
            thought = f"<think>{' '.join(words[:3])} unseenword</think> about it"
            said.append(Rationale(thought, list(range(5 + i % 3)), i % 4 == 0, i % 4 != 0))
        return Encoding(out, said)
