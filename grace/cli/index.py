"""The index of a corpus: its texts, their embeddings and rationales, and nearest-neighbour search.

<corpus>.index/index.json    what the index was made of; written last
<corpus>.index/store/        embeddings and rationales (`grace.encoder.store`): a changed corpus embeds only new texts
<corpus>.index/texts.jsonl   {"id", "text"} of each row, and in starts.npy the byte at which it begins
<corpus>.index/vectors.npy   [N, d] float32 of unit length; above EXACT texts vectors.faiss instead

Search is exact for up to EXACT vectors, above that by faiss in the lists nearest to the query. This kind was chosen by
measurement (bench/index.py): a graph (HNSW) takes over ten times as long to build and its answers need not be that
fast. Vectors in 16 bits take half the memory, search twice as fast, and have the same recall.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grace.cli import embed, texts
from grace.cli.embed import CachedEncoder
from grace.config.section import UserError
from grace.encoder.store import folder_under
from grace.jobs.files import check_writable, read_json, write_json, writing

if TYPE_CHECKING:
    from grace.encoder.encoder import RationaleEncoder

VERSION = 1
ABOUT, TEXTS, STARTS, STORE = "index.json", "texts.jsonl", "starts.npy", "store"
VECTORS, LISTS = "vectors.npy", "vectors.faiss"
FILES = {ABOUT, TEXTS, STARTS, STORE, VECTORS, LISTS}
EXACT = 50_000
TOP, RECALL = 10, 0.99  # as many lists are searched as find this share of the nearest TOP
SAMPLE = 256  # vectors on which that is measured
MIN_PROBES = 16  # lists that are searched at least
TRAINING = 128  # vectors per list from which the lists' centres are learnt
BLOCK = 16_384
HALF = 2e-4  # bound on what 16 bits change of a cosine


class Corpus:
    """A corpus whose index is complete (`prepare`). Raises: UserError when a part of it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.index = Index(folder)
            self._starts = np.load(folder / STARTS, mmap_mode="r")
            self._texts = open(folder / TEXTS, "rb")  # noqa: SIM115  # it lives as long as the object
        except (OSError, ValueError, RuntimeError, EOFError) as error:  # numpy's and faiss's of a file that is cut off
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{folder}: is not whole ({reason}); give --rebuild.") from None

    def row(self, number: int) -> texts.Row:
        """Row `number` of the corpus, from 0."""
        self._texts.seek(int(self._starts[number]))
        try:
            return texts.Row(**json.loads(self._texts.readline()))
        except (ValueError, TypeError):
            raise UserError(f"{self.folder}: is not whole ({TEXTS}, row {number + 1}); give --rebuild.") from None


def folder_of(source: str, given: Path | None) -> Path:
    """The folder of the index of `source`. Raises: UserError for what is no file of texts."""
    texts.check(source)
    if not texts.rereadable(source):
        raise UserError(f"{source}: a corpus must be a file, since its index is kept for the next search.")
    return given or Path(source).with_name(f"{Path(source).name}.index")


def prepare(
    source: str, folder: Path, field: str, encoder: RationaleEncoder, settings: dict[str, Any], rebuild: bool
) -> Corpus:
    """The corpus `source` with its index in `folder`, made where it is missing or older than the corpus.

    Args:
        settings: what decides the encoder's embeddings (`grace.cli.model.load`).
        rebuild: make the index again, whatever model made it.

    Raises:
        UserError: when another model or other settings made the index, the folder holds other files, or for a mistake
            in the corpus.
    """
    made = read_json(folder / ABOUT, object) if (folder / ABOUT).exists() else None
    if made is not None and not (isinstance(made, dict) and isinstance(made.get("settings"), dict)):
        raise UserError(f"{folder}: is no index, its {ABOUT} is another file; give another folder with --index.")
    stat = Path(source).stat()
    fingerprint = {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, "field": field}
    if made and not rebuild:
        before = made["settings"]
        differing = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if differing or made.get("version") != VERSION:
            raise UserError(
                f"{folder}: was made by another model or other settings ({', '.join(differing) or 'version'}); give "
                "those, --rebuild to embed the corpus again, or another folder with --index."
            )
        if made["corpus"] == fingerprint:
            return Corpus(folder)
    if not folder.exists():
        check_writable(folder.parent)
        folder.mkdir()
    check_writable(folder)
    if others := sorted(path.name for path in folder.iterdir() if path.name not in FILES and path.name[0] != "."):
        raise UserError(f"{folder}: is no index, it holds {others[0]}; give another folder with --index.")
    total = embed.count(source, field)
    (folder / ABOUT).unlink(missing_ok=True)
    with embed.resumable(folder), CachedEncoder(encoder, settings, folder / STORE) as cached:
        rows = _write_rows(source, folder, field, cached, total)
    if made and (old := folder_under(folder / STORE, made["settings"])) != cached.store.folder:
        shutil.rmtree(old, ignore_errors=True)
    recall = build(folder)
    about = {"version": VERSION, "corpus": fingerprint, "rows": rows, "recall": recall, "settings": settings}
    write_json(folder / ABOUT, about)
    how = "exact" if recall is None else f"approximate, recall@{TOP} {recall:.3f}"
    print(f"{folder}: texts: {rows:,}, embedded now: {cached.fresh:,}; search is {how}", file=sys.stderr)
    cached.report_cut()
    return Corpus(folder)


def _write_rows(source: str, folder: Path, field: str, cached: CachedEncoder, total: int | None) -> int:
    """Texts and unit vectors of all rows, in their order; returns their number."""
    starts = [0]
    with (
        writing(folder / VECTORS) as vectors,
        embed.npy(vectors, cached.encoder.width) as add,
        writing(folder / TEXTS) as temporary,
        open(temporary, "wb") as lines,
        embed.progress(total) as bar,
    ):
        for block in texts.blocks(texts.read(source, field)):
            add(unit_length(cached.store.read(cached.fill([row.text for row in block], bar.update))))
            for row in block:
                starts.append(starts[-1] + lines.write((json.dumps(row._asdict(), ensure_ascii=False) + "\n").encode()))
    with writing(folder / STARTS) as temporary, open(temporary, "wb") as file:
        np.save(file, np.array(starts[:-1], dtype=np.int64))
    return len(starts) - 1


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """[n, d] scaled to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


# ---- nearest neighbours --------------------------------------------------------------------


def build(folder: Path, exact: int | None = None) -> float | None:
    """Make the index of the vectors in `folder`: up to `exact` (EXACT) their own file, above that one of faiss.

    Args:
        folder: holds VECTORS, [N, d] float32 of unit length.

    Returns:
        Its recall: the share of a vector's TOP neighbours that it finds, measured on some of the vectors. None: exact.
    """
    vectors = np.load(folder / VECTORS, mmap_mode="r")
    if len(vectors) <= (EXACT if exact is None else exact):
        (folder / LISTS).unlink(missing_ok=True)
        return None
    import faiss

    index = make(vectors)
    recall = tune(index, vectors)
    with writing(folder / LISTS) as temporary:
        faiss.write_index(index, str(temporary))
    (folder / VECTORS).unlink()
    return recall


def make(vectors: np.ndarray) -> Any:
    """A faiss index of `vectors` [N, d] in sqrt(N) lists; deterministic."""
    import faiss

    count = round(math.sqrt(len(vectors)))
    index = faiss.index_factory(vectors.shape[1], f"IVF{count},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.train(sample(vectors, TRAINING * count))
    for start in range(0, len(vectors), BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + BLOCK]))
    return index


def tune(index: Any, vectors: np.ndarray) -> float:
    """Double the lists that `index` searches until its recall is RECALL, or all are searched; returns the recall."""
    import faiss

    queries = sample(vectors, SAMPLE)
    best, _ = faiss.knn(queries, vectors, TOP + 1, metric=faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(MIN_PROBES, index.nlist)
    while True:
        scores, _ = index.search(queries, TOP + 1)
        # By cosine and not by row, since texts may be equal. The first one is the vector itself.
        recall = float((scores[:, 1:] >= best[:, -1:] - HALF).mean())
        if recall >= RECALL or index.nprobe == index.nlist:
            return recall
        index.nprobe = min(2 * index.nprobe, index.nlist)


def sample(vectors: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows of [N, d], in their order."""
    rows = np.random.default_rng(0).permutation(len(vectors))[:count]
    return np.ascontiguousarray(vectors[np.sort(rows)])


class Index:
    """What `build` made in `folder`. Raises: FileNotFoundError when there is none."""

    def __init__(self, folder: Path) -> None:
        self.vectors: np.ndarray | None = None
        self.lists: Any = None
        if (folder / VECTORS).exists():
            self.vectors = np.load(folder / VECTORS, mmap_mode="r")
        else:
            import faiss

            if not (folder / LISTS).exists():
                raise FileNotFoundError(folder / LISTS)
            # Mapped: only the lists near a query are read.
            self.lists = faiss.read_index(str(folder / LISTS), faiss.IO_FLAG_MMAP_IFC)

    def __len__(self) -> int:
        return self.lists.ntotal if self.vectors is None else len(self.vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors of each query.

        Args:
            queries: [m, d] float32 of unit length.
            k: at most so many.

        Returns:
            Cosines [m, k] float32, falling, and rows [m, k] int64. Where fewer than k were found, the row is -1.
        """
        import faiss

        k = min(k, len(self))
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if self.vectors is None:
            return self.lists.search(queries, k)
        return faiss.knn(queries, self.vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
