"""What the tests share: rows as the split stage writes them, encoders without a model, and calls of the job."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from grace.encoder.store import Store
from grace.evaluation import evaluate, mteb_scores, mteb_tasks
from grace.evaluation.evaluate import Embedder

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
PACKAGES = {"numpy": 6, "scipy": 5, "pandas": 4, "sklearn": 4, "torch": 4, "sympy": 3, "networkx": 2, "nltk": 2}
WORDS = ("return array value index matrix graph node tensor frame column solve fit sample norm sort merge path").split()


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

    dtype = "float32"
    template = SimpleNamespace(digest="none")

    def __init__(self, size: int = 32, rationales: bool = False, noise: float = 0.3) -> None:
        self.size, self.rationales, self.noise = size, rationales, noise
        self.encoded: list[str] = []

    @property
    def width(self) -> int:
        return self.size

    def _vector(self, word: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(word.encode())).normal(size=self.size)

    def encode_batches(self, texts: list[str], rationales: bool | None = None) -> Iterator[tuple[list[int], Encoding]]:
        """Batches of 16, the longest texts first, as the engines do."""
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        for start in range(0, len(order), 16):
            rows = order[start : start + 16]
            yield rows, self.encode([texts[i] for i in rows], rationales)

    def encode(self, texts: list[str], rationales: bool | None = None, progress: bool = False) -> Encoding:
        self.encoded += texts
        out = np.zeros((len(texts), self.size), dtype=np.float32)
        for i, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower())
            out[i] = self.noise * self._vector("\0" + text) + sum((self._vector(word) for word in words), 0.0)
            out[i] /= np.linalg.norm(out[i])
        use = self.rationales if rationales is None else rationales
        return Encoding(out, [self.say(text) for text in texts] if use else None)

    def say(self, text: str) -> Rationale:
        """5, 6 or 7 tokens in turn, and every fourth is cut off, by the number that the text ends in."""
        number = int((re.findall(r"\d+", text) or [zlib.crc32(text.encode())])[-1])
        thought = f"<think>{' '.join(text.split()[:3])} unseenword</think> about it"
        return Rationale(thought, list(range(5 + number % 3)), number % 4 == 0, number % 4 != 0)


class Broken(FakeEncoder):
    """Fails, or embeds all texts as the same `constant` vector."""

    def __init__(self, error):
        super().__init__(size=4)
        self.error = error

    def encode(self, texts, rationales=None, progress=False):
        if self.error == "constant":
            return Encoding(np.ones((len(texts), 4), dtype=np.float32) / 2, None)
        raise RuntimeError("generation failed")


def embedder(encoder: Any, folder: Any, settings: dict[str, Any] | None = None) -> Embedder:
    """With a store in `folder`."""
    return Embedder(encoder, Store(folder, {"precision": "float32", **(settings or {})}, encoder.width))


def evaluated(
    made: Any,
    names: list[str],
    data: dict[str, Any] | None = None,
    local: dict[str, str] | None = None,
    sample: dict[str, int] | None = None,
) -> dict[str, Any]:
    """The results of an embedder, without a job."""
    return mteb_scores.run(made, mteb_tasks.find(names, data, local, sample), "grace/test", "r1")


def results(arguments, out, store):
    """What the command of an evaluation writes, without its manifest."""
    evaluate.main([*arguments, "--store", str(store)])
    written = json.loads(out.read_text())
    del written["manifest"]
    return written


def spec_of(arguments):
    """The settings of the one run of a command."""
    (spec,) = json.loads(arguments[1])["runs"]
    return spec


def changed(arguments, **spec):
    """Arguments of the command with other settings, and with those of `encode` that stand in a dictionary."""
    old = spec_of(arguments)
    encode = old["encode"] | spec.pop("encode", {})
    return ["--spec", json.dumps({"runs": [old | {"encode": encode} | spec]}), *arguments[2:]]
