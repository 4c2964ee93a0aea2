"""Rationales and embeddings on disk, by content: a text is embedded once for given weights and settings.

    <root>/<key>/settings.json       what decides an embedding, for people; `key` is its hash
    <root>/<key>/<segment>.npy       embeddings of some texts
    <root>/<key>/<segment>.parquet   whose they are (SCHEMA), row by row; a segment counts once it has this file

Segments are written whole and never changed. So there are no locks: several jobs may share a store on a network file
system, and a killed job loses what it had in memory. Two jobs that embed one text at the same time both keep it; the
first counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grace.config.section import UserError
from grace.config.specs import EncodeSpec
from grace.jobs.files import read_json, write_json, writing

VERSION = 1  # raised when the same settings give other embeddings
SECONDS = 30.0  # a killed job loses no more than this, and the batch it was in
BYTES = 1 << 28  # of embeddings in memory, however fast they come
MERGE_AT = 64  # small segments of a job before they become one
REFRESH = 60.0  # seconds between looks for other jobs' segments
ABANDONED = 3600.0  # age in seconds at which a temporary file or half a segment was left by a kill
SCHEMA = pa.schema(
    {
        "digest": pa.binary(16),
        "length": pa.uint32(),  # of the rationale, in tokens; 0 without
        "truncated": pa.bool_(),
        "well_formed": pa.bool_(),
        "tokens": pa.list_(pa.uint32()),
    }
)
PARQUET: Any = {"compression": "zstd", "use_dictionary": False}
_counter = count()
log = logging.getLogger(__name__)


def settings(encode: EncodeSpec | None, weights: str, dtype: str, precision: str, template: str = "") -> dict[str, Any]:
    """What decides an embedding, and nothing else: runs that differ in the rest share a folder.

    Args:
        encode: None for an encoder-only model, whose folder says how it embeds.
        weights: `grace.jobs.manifest.weights_hash` of the model.
        dtype: precision that the model computes in.
        precision: float32 or float16, of the stored embeddings.
        template: `PromptTemplate.digest`; "" where it is not known.
    """
    fixed = {"version": VERSION, "weights": weights, "dtype": dtype, "precision": precision}
    if encode is None:
        return fixed
    names = ["prompt", "pooling", "rationales"]
    if encode.rationales:
        names += ["engine", "max_new_tokens", "sampling_temperature"]
        names += ["seed"] if encode.sampling_temperature > 0 else []
    else:
        names += ["direct_prompt"]
    spec = encode.model_dump()
    return fixed | ({"template": template} if template else {}) | {name: spec[name] for name in names}


def folder_under(root: Path | str, settings: dict[str, Any]) -> Path:
    """The folder of the embeddings of these settings."""
    return Path(root) / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


# ---- texts ----


def digests_of(texts: Iterable[str]) -> np.ndarray:
    """BLAKE2b digests of texts: [N, 2] uint64, equal on every machine."""
    joined = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64).reshape(-1, 2)


class Index:
    """Digest -> the first row added for it, in few sorted arrays: 20 bytes per text, where a dictionary takes 150."""

    def __init__(self) -> None:
        self.blocks: list[tuple[np.ndarray, ...]] = []  # oldest first; high halves (sorted), low halves, rows

    def __len__(self) -> int:
        return sum(len(rows) for _, _, rows in self.blocks)

    def add(self, digests: np.ndarray, rows: np.ndarray) -> None:
        """Args: digests [n, 2] uint64, rows [n] of less than 2^32."""
        if not len(digests):
            return
        block = self._sorted(digests[:, 0], digests[:, 1], rows.astype(np.uint32))
        while self.blocks and len(self.blocks[-1][2]) < 2 * len(block[2]):
            block = self._sorted(*(np.concatenate(parts) for parts in zip(self.blocks.pop(), block, strict=True)))
        self.blocks.append(block)

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Rows [n] int64 of digests [n, 2]; -1 where unknown."""
        found = np.full(len(digests), -1, dtype=np.int64)
        for high, low, rows in self.blocks:
            todo = np.flatnonzero(found < 0)
            at = np.searchsorted(high, digests[todo, 0])
            while len(todo):  # once, and again only where two digests share their first half
                here = at < len(high)
                here[here] = high[at[here]] == digests[todo[here], 0]
                todo, at = todo[here], at[here]
                same = low[at] == digests[todo, 1]
                found[todo[same]] = rows[at[same]]
                todo, at = todo[~same], at[~same] + 1
        return found

    @staticmethod
    def _sorted(high: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
        order = np.argsort(high, kind="stable")  # stable: of equal digests the older comes first
        return high[order], *(other[order] for other in others)


# ---- segments ----


class Segment(NamedTuple):
    """Rows are read by offset, not through a memory map: the pages of a map count as the job's memory, and a mapped
    file that another machine removes kills the process on a network file system."""

    path: Path  # without suffix
    rows: int
    data: int  # byte of the .npy at which the rows begin
    dtype: np.dtype
    width: int  # d

    @property
    def size(self) -> int:
        """Bytes of the embeddings."""
        return self.rows * self.width * self.dtype.itemsize

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of `rows` (any order, repeats allowed). Raises: OSError when the file is gone or cut off."""
        distinct, back = np.unique(rows, return_inverse=True)
        found = np.empty((len(distinct), self.width), dtype=self.dtype)
        with open(f"{self.path}.npy", "rb") as file:
            done = 0
            for run in np.split(distinct, np.flatnonzero(np.diff(distinct) > 1) + 1):
                file.seek(self.data + int(run[0]) * self.width * self.dtype.itemsize)
                if file.readinto(found[done : done + len(run)].data.cast("B")) != found[: len(run)].nbytes:
                    raise OSError(f"{self.path}.npy: shorter than it was")
                done += len(run)
        return found[back]

    def tokens(self, rows: np.ndarray) -> list[list[int]]:
        """Token ids of the rationales of `rows`."""
        return pq.read_table(f"{self.path}.parquet", columns=["tokens"])["tokens"].take(rows).to_pylist()


@dataclass
class Pending:
    """What is embedded but not written yet."""

    digests: list[np.ndarray] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    notes: list[np.ndarray] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)
    rows: int = 0
    since: float = 0.0


def write_segment(folder: Path, pending: Pending) -> Segment:
    path = _new_path(folder)
    digests = np.concatenate(pending.digests)
    lengths, truncated, well_formed = unpack(np.concatenate(pending.notes))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    raw = pa.py_buffer(digests.astype(">u8").tobytes())
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(digests), [None, raw]),
        pa.array(lengths, pa.uint32()),
        pa.array(truncated),
        pa.array(well_formed),
        pa.ListArray.from_arrays(offsets, np.concatenate([*pending.tokens, np.zeros(0, dtype=np.uint32)])),
    ]
    with writing(f"{path}.npy") as temporary, open(temporary, "wb") as file:
        _write_header(file, len(digests), pending.vectors[0].dtype, pending.vectors[0].shape[1])
        for block in pending.vectors:
            file.write(np.ascontiguousarray(block).data)
    with writing(f"{path}.parquet") as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), temporary, **PARQUET)
    return _open_segment(path)


def read_segment(path: Path) -> tuple[Segment, np.ndarray, np.ndarray]:
    """A segment with its digests [n, 2] uint64 and notes [n]. Raises: ValueError or OSError when it is not whole."""
    segment = _open_segment(path)
    table = pq.read_table(f"{path}.parquet", columns=SCHEMA.names[:4])
    if not table.schema.equals(pa.schema(list(SCHEMA)[:4])) or table.num_rows != segment.rows:
        raise ValueError(f"{path}.parquet: does not belong to {path}.npy")
    digest, length, truncated, well_formed = (column.combine_chunks() for column in table.columns)
    raw = np.frombuffer(digest.buffers()[1] or b"", dtype=">u8")[2 * digest.offset :][: 2 * segment.rows]
    notes = pack(*(column.to_numpy(zero_copy_only=False) for column in (length, truncated, well_formed)))
    return segment, raw.astype(np.uint64).reshape(-1, 2), notes


def merge_segments(folder: Path, segments: list[Segment]) -> None:
    """Put segments into one, in their order, and remove them; memory is that of the largest's tokens."""
    path, first = _new_path(folder), segments[0]
    with writing(f"{path}.npy") as temporary, open(temporary, "wb") as file:
        _write_header(file, sum(segment.rows for segment in segments), first.dtype, first.width)
        for segment in segments:
            with open(f"{segment.path}.npy", "rb") as part:
                part.seek(segment.data)
                shutil.copyfileobj(part, file, 1 << 22)
    with writing(f"{path}.parquet") as temporary, pq.ParquetWriter(temporary, SCHEMA, **PARQUET) as writer:
        for segment in segments:
            writer.write_table(pq.read_table(f"{segment.path}.parquet"))
    read_segment(path)  # whole, before the parts are removed
    for segment in segments:
        for suffix in (".parquet", ".npy"):  # the one that makes a segment count first
            Path(f"{segment.path}{suffix}").unlink(missing_ok=True)


def pack(length: np.ndarray, truncated: np.ndarray, well_formed: np.ndarray) -> np.ndarray:
    """Notes [n] uint32: length in tokens << 2 | truncated << 1 | well formed; 4 bytes a text, in memory for all."""
    return length.astype(np.uint32) << 2 | truncated.astype(np.uint32) << 1 | well_formed.astype(np.uint32)


def unpack(notes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Length [n] uint32, truncated [n] bool, well formed [n] bool."""
    return notes >> 2, (notes & 2) > 0, (notes & 1) > 0


def _open_segment(path: Path) -> Segment:
    with open(f"{path}.npy", "rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path}.npy: of another format")
        (rows, width), _, dtype = np.lib.format.read_array_header_1_0(file)
        segment = Segment(path, rows, file.tell(), dtype, width)
        if os.fstat(file.fileno()).st_size != segment.data + segment.size:
            raise ValueError(f"{path}.npy: cut off")
    return segment


def _write_header(file: Any, rows: int, dtype: np.dtype, width: int) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, header)


def _new_path(folder: Path) -> Path:
    """Names in the order of time, unlike those of any other process on any machine."""
    return folder / f"{time.time_ns():x}-{socket.gethostname()}-{os.getpid()}-{next(_counter)}"


# ---- the store ----


class Store:
    """Embeddings of one model under one setting.

    Args:
        root: folder of all stores.
        width: d, the length of an embedding.
        seconds: embeddings stay in memory no longer than this before they are written; SECONDS unless given.
        model: what an error calls the model.

    Raises:
        UserError: when the folder of these settings holds something else.
    """

    def __init__(
        self,
        root: Path | str,
        settings: dict[str, Any],
        width: int,
        seconds: float | None = None,
        model: Path | str = "the model",
    ) -> None:
        self.folder, self.settings, self.width, self.model = folder_under(root, settings), settings, width, model
        self.seconds = SECONDS if seconds is None else seconds
        self.dtype = np.dtype(settings["precision"])
        self._small: list[Segment] = []  # written by this job
        self._pending = Pending()
        self._looked = -math.inf
        self._check_settings()
        self._remove_abandoned()
        self._open()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self.flush()
        if kind is None:
            self._merge()

    def __len__(self) -> int:
        return len(self.index)

    def known(self, digests: np.ndarray) -> np.ndarray:
        """[n] bool for digests [n, 2] of `digests_of`."""
        return self.index.find(digests) >= 0

    def read(self, digests: np.ndarray) -> np.ndarray:
        """Embeddings [n, d] float32 of digests [n, 2].

        Raises:
            KeyError: for an unknown one.
            UserError: when one is not finite: the file was damaged.
        """

        def look() -> np.ndarray:
            out = np.empty((len(digests), self.width), dtype=np.float32)
            for number, at, rows in self._locate(digests):
                written = number < len(self.segments)
                out[at] = self.segments[number].read(rows) if written else np.concatenate(self._pending.vectors)[rows]
            return out

        found = self._retry_after_merge(look)
        if bad := _not_finite(found):
            raise UserError(f"{self.folder}: holds {bad} embeddings that are not finite; delete it and run again.")
        return found

    def notes(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the rationales of digests [n, 2]: lengths in tokens [n], truncated [n] bool, well formed [n] bool."""
        packed = np.empty(len(digests), dtype=np.uint32)
        for number, at, rows in self._locate(digests):
            written = number < len(self.segments)
            packed[at] = (self._notes[number] if written else np.concatenate(self._pending.notes))[rows]
        return unpack(packed)

    def rationales(self, digests: np.ndarray) -> list[list[int]]:
        """Token ids of the rationales of digests [n, 2], with the end token where it was reached."""

        def look() -> list[list[int]]:
            found: list[list[int]] = [[] for _ in digests]
            for number, at, rows in self._locate(digests):
                for i, ids in zip(at, self.segments[number].tokens(rows), strict=True):
                    found[i] = ids
            return found

        self.flush()
        return self._retry_after_merge(look)

    def refresh(self, older_than: float = 0.0) -> None:
        """Take in the segments that other jobs wrote, unless that was done less than `older_than` seconds ago."""
        if time.monotonic() - self._looked < older_than:
            return
        self.flush()
        self._looked = time.monotonic()
        names = {path.name.removesuffix(".parquet") for path in self.folder.glob("[!.]*.parquet")}
        first, found, gone = self._starts[-1], [], False
        for name in sorted(names - {segment.path.name for segment in self.segments} - self._broken):
            try:
                segment, digests, notes = read_segment(self.folder / name)
                if (segment.dtype, segment.width) != (self.dtype, self.width):
                    raise ValueError(f"{segment.path}.npy: {segment.width} numbers of {segment.dtype} per text")
            except FileNotFoundError:  # merged by another job just now, into one that was not there when we looked
                gone = gone or not (self.folder / f"{name}.parquet").exists()
                continue
            except (ValueError, OSError) as error:
                log.warning("%s.*: left out, since it is not whole (%s); delete it", self.folder / name, error)
                self._broken.add(name)
                continue
            self._append(segment, notes)
            found.append(digests)
        if found:
            self.index.add(np.concatenate(found), np.arange(first, self._starts[-1]))
        if gone:
            self.refresh()

    def add(self, digests: np.ndarray, embeddings: np.ndarray, rationales: Sequence[Any] | None = None) -> None:
        """Store embeddings [n, d] of digests [n, 2], with n `encoder.Rationale` or None; written within `seconds`.

        Raises:
            UserError: when an embedding is not finite in the store's precision.
            OSError: when the disk is full.
        """
        with np.errstate(over="ignore"):
            vectors = embeddings.astype(self.dtype)
        if bad := _not_finite(embeddings):
            raise UserError(
                f"{self.model}: its embeddings of {bad} of {len(embeddings)} texts of a batch are not finite, so its "
                "training has diverged or its files are damaged; train or fetch it again."
            )
        if bad := _not_finite(vectors):
            raise UserError(
                f"{self.model}: its embeddings of {bad} of {len(vectors)} texts of a batch are too large for "
                f"{self.dtype}; set evaluation.store: float32."
            )
        pending, made = self._pending, rationales if rationales is not None else ()
        notes = np.zeros(len(vectors), dtype=np.uint32)
        if len(made):
            flags = [(len(one.token_ids), one.truncated, one.well_formed) for one in made]
            notes = pack(*np.array(flags).T)
        if not pending.rows:
            pending.since = time.monotonic()
        first = self._starts[-1] + pending.rows
        self.index.add(digests, np.arange(first, first + len(vectors)))
        pending.digests.append(digests)
        pending.vectors.append(vectors)
        pending.notes.append(notes)
        pending.tokens += [np.asarray(one.token_ids, dtype=np.uint32) for one in made]
        pending.rows += len(vectors)
        if pending.rows * vectors[0].nbytes >= BYTES or time.monotonic() - pending.since >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory as a segment."""
        if not self._pending.rows:
            return
        segment = write_segment(self.folder, self._pending)
        self._append(segment, np.concatenate(self._pending.notes))
        self._pending = Pending()
        if segment.size < BYTES // 4:
            self._small.append(segment)
        if len(self._small) >= MERGE_AT:
            self._merge()
            self._open()

    def check_room(self, texts: int) -> None:
        """Raises: UserError when the disk has no room for `texts` more embeddings and rationales."""
        # A rationale's tokens take under 2 bytes each when compressed; the rest is digest and notes.
        each = self.width * self.dtype.itemsize + 32 + 2 * self.settings.get("max_new_tokens", 0)
        need, free = texts * each / 1e9, shutil.disk_usage(self.folder).free / 1e9
        if need > free:
            raise UserError(
                f"{self.folder}: {texts:,} embeddings need up to {need:,.1f} GB and {free:,.1f} GB are free; free "
                "space, or make results/ a link to a larger disk."
            )

    def _open(self) -> None:
        self.index, self.segments = Index(), list[Segment]()
        self._notes: list[np.ndarray] = []  # per segment, [n] of `pack`
        self._starts = [0]  # number of a segment's first row; the last is that of the rows in memory
        self._broken: set[str] = set()
        self._looked = -math.inf
        self.refresh()

    def _append(self, segment: Segment, notes: np.ndarray) -> None:
        self.segments.append(segment)
        self._notes.append(notes)
        self._starts.append(self._starts[-1] + segment.rows)

    def _locate(self, digests: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Number of a segment (the last: rows in memory), positions in `digests` and the segment's rows."""
        rows = self.index.find(digests)
        if (rows < 0).any():
            raise KeyError("a text that was not embedded")
        which = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(which, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(which[order])) + 1) if len(rows) else ():
            number = int(which[at[0]])
            yield number, at, rows[at] - self._starts[number]

    def _retry_after_merge(self, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except OSError:  # another job has merged its segments since: see where the rows are now
            self.flush()
            self._open()
            return look()

    def _merge(self) -> None:
        """Make one segment of this job's small ones: a day of embedding is thousands of them."""
        if len(self._small) > 1:
            try:
                merge_segments(self.folder, self._small)
            except (OSError, ValueError) as error:  # nothing is lost: the parts stay
                log.warning("the store's segments stay apart (%s)", error)
        self._small = []

    def _check_settings(self) -> None:
        path = self.folder / "settings.json"
        if not path.exists():
            write_json(path, self.settings)
            return
        found = read_json(path)
        if found != self.settings:
            differing = [name for name in {**self.settings, **found} if found.get(name) != self.settings.get(name)]
            raise UserError(
                f"{self.folder}: holds embeddings of other settings ({', '.join(differing)}); move it away."
            )

    def _remove_abandoned(self) -> None:
        """Remove what a killed job left: temporary files, and embeddings without their second file."""
        for path in [*self.folder.glob(".*.tmp"), *self.folder.glob("[!.]*.npy")]:
            try:
                old = time.time() - path.stat().st_mtime > ABANDONED
                if old and not path.with_name(path.name.removesuffix(".npy") + ".parquet").exists():
                    path.unlink()
            except FileNotFoundError:  # another job was faster
                continue


def _not_finite(vectors: np.ndarray) -> int:
    """How many rows of [n, d] have a number that is not finite."""
    return int((~np.isfinite(vectors).all(axis=1)).sum())
