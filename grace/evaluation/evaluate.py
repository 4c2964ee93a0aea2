"""Rule `evaluate`: one model on one group of MTEB tasks, into one result file.

A killed job resumes by its embeddings, which go to the store as they are made. Scores are always computed anew.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tqdm import tqdm

from grace.config import specs
from grace.config.section import UserError
from grace.encoder.store import REFRESH, Index, Store, digests_of, settings
from grace.evaluation.tasks import by_hash, load
from grace.jobs import manifest, stage

READ_BLOCK = 8192  # rationales of another store that are in memory at once
GEOMETRY_BLOCK = 2048  # rows that are compared with all others at a time
log = logging.getLogger(__name__)


class Embedder:
    """Gives embeddings as the store has them, so that a job gives the same whether it embeds or finds them.

    Args:
        encoder: has `encode_batches(texts)`, as `grace.encoder.encoder.RationaleEncoder`.
        store: of the encoder's model and settings.
        written: store of the same model under settings with the same rationales, or longer ones. They are pooled
            again by the encoder's `encode_written(texts, token_ids)` and not written again.
    """

    def __init__(self, encoder: Any, store: Store, written: Store | None = None) -> None:
        self.encoder, self.store, self.written = encoder, store, written
        self.standard: tuple[np.ndarray, np.ndarray] | None = None  # mean and deviation [d] of each dimension
        self.seen = Index()  # the distinct texts of this job, in the store before or not
        self.tokens = self.truncated = self.well_formed = self.reused = 0

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings [N, d] float32 of `texts`, in their order. Raises: whatever the encoder or the store raises."""
        digests = digests_of(texts)
        unknown = np.flatnonzero(~_known(self.store, digests))
        if len(unknown):
            _, first = np.unique(digests[unknown], axis=0, return_index=True)
            self._embed(texts, digests, unknown[np.sort(first)])
        self._count(np.unique(digests, axis=0))
        found = self.store.read(digests)
        return found if self.standard is None else (found - self.standard[0]) / self.standard[1]

    def standardize(self, texts: list[str]) -> None:
        """From now on give each dimension with the mean 0 and the deviation 1 that it has over `texts`."""
        vectors = Embedder(self.encoder, self.store, self.written).encode(texts).astype(np.float64)
        deviation = vectors.std(0)
        scale = np.where(deviation > 0, deviation, 1)
        self.standard = vectors.mean(0).astype(np.float32), scale.astype(np.float32)

    def check_room(self, batches: Iterable[list[str]], at_most: int) -> None:
        """Raises: UserError when the disk has no room for the unknown ones of at most `at_most` texts."""
        try:
            self.store.check_room(at_most)
        except UserError:
            self.store.refresh()
            found = (np.unique(digests_of(texts), axis=0) for texts in batches)
            self.store.check_room(sum(int((~self.store.known(digests)).sum()) for digests in found))

    def rationale(self) -> dict[str, Any] | None:
        """Mean length in tokens and the shares cut off and well formed; None for a run without rationales.

        `reused` counts the texts whose rationale is in `written`, so that a resumed job says the same.
        """
        texts = len(self.seen)
        if not self.tokens:
            return None
        return {
            "mean_tokens": self.tokens / texts,
            "truncated_share": self.truncated / texts,
            "well_formed_share": self.well_formed / texts,
            "texts": texts,
            "reused": self.reused,
        }

    def _embed(self, texts: list[str], digests: np.ndarray, new: np.ndarray) -> None:
        """Put the embeddings of the texts numbered `new` into the store."""
        log.info("encoding %d texts (%d asked, %d known)", len(new), len(texts), len(self.store))
        self.store.check_room(len(new))
        written = self._in_written(digests[new])
        if self.written is not None:
            log.info("the rationales of %d of them are there and are pooled again", written.sum())
        with tqdm(total=len(new), desc="encode", unit="text", mininterval=5) as bar:
            for rows, made in self._batches(texts, digests, new[written], new[~written]):
                self.store.add(digests[rows], made.embeddings, made.rationales)
                bar.update(len(rows))

    def _batches(
        self, texts: list[str], digests: np.ndarray, written: np.ndarray, missing: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Numbers of n texts and what the encoder made of them."""
        for start in range(0, len(written), READ_BLOCK):
            block = written[start : start + READ_BLOCK]
            assert self.written is not None
            rationales = self.written.rationales(digests[block])
            for rows, made in self.encoder.encode_written([texts[i] for i in block], rationales):
                yield block[rows], made
        if len(missing):
            for rows, made in self.encoder.encode_batches([texts[i] for i in missing]):
                yield missing[rows], made

    def _in_written(self, digests: np.ndarray) -> np.ndarray:
        return np.zeros(len(digests), dtype=bool) if self.written is None else _known(self.written, digests)

    def _count(self, digests: np.ndarray) -> None:
        new = digests[self.seen.find(digests) < 0]
        self.seen.add(new, np.zeros(len(new)))
        tokens, truncated, well_formed = self.store.notes(new)
        self.tokens += int(tokens.sum())
        self.truncated += int(truncated.sum())
        self.well_formed += int(well_formed.sum())
        self.reused += int(self._in_written(new).sum())


def _known(store: Store, digests: np.ndarray) -> np.ndarray:
    """[n] bool: which are in the store, which is read again if another job may have added to it."""
    if not store.known(digests).all():
        store.refresh(older_than=REFRESH)
    return store.known(digests)


class Layers:
    """Pools several layers of a `RationaleEncoder` in one pass: those of other runs go to their stores.

    Args:
        others: number of blocks -> the store of the same embeddings by that layer.
    """

    def __init__(self, encoder: Any, others: dict[int, Store]) -> None:
        self.encoder, self.others = encoder, others

    def encode_batches(self, texts: list[str]) -> Iterator[tuple[list[int], Any]]:
        digests, own = digests_of(texts), self.encoder.spec.pooling.layer
        for rows, pooled in self.encoder.encode_layers(texts, [own, *self.others]):
            for place, other in enumerate(self.others.values(), 1):
                other.add(digests[rows], pooled[:, place], None)
            yield rows, SimpleNamespace(embeddings=pooled[:, 0], rationales=None)


# ---- geometry ------------------------------------------------------------------------------


def read_pairs(paths: list[Path], count: int) -> tuple[list[str], list[str]]:
    """Queries and positives of the first `count` held-out rows by hash, of fewer where there are fewer.

    Raises:
        UserError: when there are none, or naming file and row for a row that lacks a field.
    """
    rows = [row for path in paths for row in by_hash(path)][:count]
    if not rows:
        raise UserError(f"spec.pairs: {count} held-out pairs are wanted but no file is given; correct --pairs.")
    return [row["query"] for row in rows], [row["positive"] for row in rows]


def geometry(queries: list[str], positives: list[str], embed: Callable[[list[str]], np.ndarray]) -> dict[str, Any]:
    """How the embeddings of N pairs lie in space, at unit length and in float64.

    Args:
        queries, positives: N texts each.
        embed: texts -> embeddings [M, d].

    Returns:
        pairs (N), texts (M distinct ones), width (d); over distinct texts `random_pair_cosine`, the mean cosine of two
        of them, and `uniformity`, both None for less than two texts, and `effective_rank`; `alignment`, the mean over
        the pairs of their squared distances, which are the items.
    """
    texts = list(dict.fromkeys([*queries, *positives]))
    row = {text: i for i, text in enumerate(texts)}
    vectors = embed(texts).astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    left, right = ([row[text] for text in side] for side in (queries, positives))
    squared = np.square(vectors[left] - vectors[right]).sum(1)
    n = len(texts)
    # The squared length of the sum is the sum of all n^2 cosines; those of a row with itself are taken away.
    cosines = np.square(vectors.sum(0)).sum() - np.square(vectors).sum()
    return {
        "pairs": len(queries),
        "texts": n,
        "random_pair_cosine": float(cosines / (n * (n - 1))) if n > 1 else None,
        "uniformity": _uniformity(vectors) if n > 1 else None,
        "alignment": float(squared.mean()),
        "effective_rank": _effective_rank(vectors),
        "width": vectors.shape[1],
        "items": {"alignment": squared.tolist()},
    }


def _uniformity(vectors: np.ndarray) -> float:
    """Log of the mean of exp(-2 |x - y|^2) over pairs of different rows (Wang and Isola 2020); 0 when all are one."""
    n, total = len(vectors), 0.0
    lengths = np.square(vectors).sum(1)
    for start in range(0, n, GEOMETRY_BLOCK):
        block = slice(start, start + GEOMETRY_BLOCK)
        near = np.exp(-2 * (lengths[block, None] + lengths - 2 * vectors[block] @ vectors.T))
        np.fill_diagonal(near[:, block], 0.0)
        total += near.sum()
    return float(np.log(total / (n * (n - 1))))


def _effective_rank(vectors: np.ndarray) -> float:
    """exp of the entropy of the singular values, divided by their sum (Roy and Vetterli 2007): 1 to d.

    The rows are not centred: a common direction of all rows makes it smaller.
    """
    values = np.linalg.svd(np.linalg.qr(vectors, mode="r"), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


# ---- the job -------------------------------------------------------------------------------


@stage.entry(specs.EvaluationsSpec, inputs=("model", "data*", "pairs*", "standard*"), outputs=("out*", "store?"))
def main(spec: specs.EvaluationsSpec, paths: SimpleNamespace) -> None:
    for run, out in zip(spec.runs, paths.out, strict=True):
        evaluate(run, SimpleNamespace(**{**vars(paths), "out": out, "started": time.time()}))


def evaluate(spec: specs.EvaluateSpec, paths: SimpleNamespace) -> None:
    from grace.encoder.encoder import EncoderOnly, RationaleEncoder
    from grace.encoder.engines.vllm import require_vllm
    from grace.evaluation import mteb_scores, mteb_tasks

    if spec.encode and spec.encode.engine == "vllm" and spec.encode.rationales:
        require_vllm("evaluation.engine")
    data = load(paths.data, spec.rows)
    pairs = read_pairs(paths.pairs, spec.pairs) if spec.pairs else None
    todo = mteb_tasks.find(spec.tasks, data, spec.local, spec.sample)
    weights = manifest.weights_hash(paths.model)
    encoder: Any
    if spec.encode is None:
        encoder, template, revision = EncoderOnly(paths.model), "", weights[:12]
    else:
        encoder = RationaleEncoder.from_spec(paths.model, spec.encode)
        template, revision = encoder.template.digest, f"{weights[:12]}-{manifest.settings_hash(spec.encode)}"
    width, dtype = encoder.width, encoder.dtype
    own = settings(spec.encode, weights, dtype, spec.store, template)
    with (
        tempfile.TemporaryDirectory(dir=paths.out.parent, prefix=".store-") as temporary,
        contextlib.ExitStack() as stores,
    ):
        root = paths.store or Path(temporary)
        if spec.layers and spec.encode:
            others = {}
            for layer in spec.layers:
                pooling = spec.encode.pooling.model_copy(update={"layer": layer})
                encode = spec.encode.model_copy(update={"pooling": pooling})
                theirs = settings(encode, weights, dtype, spec.store, template)
                others[layer] = stores.enter_context(Store(root, theirs, width, model=paths.model))
            encoder = Layers(encoder, others)
        written = _written(spec, root, own, manifest.writer_hash(paths.model), width)
        with Store(root, own, width, model=paths.model) as store:
            embedder = Embedder(encoder, store, written)
            if spec.standardize:
                texts = [row["positive"] for row in by_hash(paths.standard[0])]
                embedder.standardize(texts[: spec.standardize])
            found = mteb_scores.run(embedder, todo, f"grace/{spec.run}", revision)
            rationale = embedder.rationale()  # of the tasks' texts, without those of the pairs
            measured = geometry(*pairs, embedder.encode) if pairs else None
    standard = paths.standard if spec.standardize else []
    inputs = [paths.model, *paths.data, *(paths.pairs if pairs else []), *standard]
    record = manifest.make("evaluate", spec, inputs, paths.started, revision=revision)
    manifest.write_result(paths.out, record, tasks=found, geometry=measured, rationale=rationale)


def _written(spec: specs.EvaluateSpec, root: Path, ours: dict[str, Any], writer: str, width: int) -> Store | None:
    """The store that already has this model's rationales, if the spec names one.

    Args:
        writer: `manifest.writer_hash` of the model.

    Raises:
        UserError: when the rationales there are not the beginning of those that would be written here.
    """
    if spec.rationales_of is None or spec.encode is None:
        return None
    theirs = settings(spec.rationales_of, writer, ours["dtype"], spec.store, ours["template"])
    free = ("pooling", "max_new_tokens", "weights")
    differing = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name) and name not in free]
    if spec.encode.max_new_tokens > spec.rationales_of.max_new_tokens:
        differing.append("max_new_tokens is larger")
    if differing or not spec.encode.rationales:
        reason = ", ".join(differing) or "rationales: false"
        raise UserError(f"spec.rationales_of: other rationales than those of encode ({reason}); leave it out.")
    return Store(root, theirs, width)


if __name__ == "__main__":
    main()
