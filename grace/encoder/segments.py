"""A store's files: embeddings as .npy beside a .parquet that says whose they are. Written whole, never changed.

Rows are read by offset and not through a memory map: pages that a map has touched count as the job's memory, and
a mapped file that another machine removes kills the process on a network file system.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grace.files import writing

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


class Segment(NamedTuple):
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


def write(
    folder: Path, digests: np.ndarray, vectors: list[np.ndarray], notes: np.ndarray, tokens: list[np.ndarray]
) -> Segment:
    """A new segment of n texts.

    Args:
        digests: [n, 2] uint64. vectors: blocks that make [n, d] together. notes: of `pack`.
        tokens: n arrays of uint32.
    """
    path = _new_path(folder)
    lengths, truncated, well_formed = unpack(notes)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    raw = pa.py_buffer(digests.astype(">u8").tobytes())
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(digests), [None, raw]),
        pa.array(lengths, pa.uint32()),
        pa.array(truncated),
        pa.array(well_formed),
        pa.ListArray.from_arrays(offsets, np.concatenate([*tokens, np.zeros(0, dtype=np.uint32)])),
    ]
    with writing(f"{path}.npy") as temporary, open(temporary, "wb") as file:
        _write_header(file, len(digests), vectors[0])
        for block in vectors:
            file.write(np.ascontiguousarray(block).data)
    with writing(f"{path}.parquet") as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), temporary, **PARQUET)
    return _look(path)


def read(path: Path) -> tuple[Segment, np.ndarray, np.ndarray]:
    """A segment with its digests [n, 2] uint64 and notes [n].

    Raises:
        ValueError or OSError: when a file is missing, cut off or none of ours.
    """
    segment = _look(path)
    table = pq.read_table(f"{path}.parquet", columns=SCHEMA.names[:4])
    if not table.schema.equals(pa.schema(list(SCHEMA)[:4])) or table.num_rows != segment.rows:
        raise ValueError(f"{path}.parquet: does not belong to {path}.npy")
    digest, length, truncated, well_formed = (column.combine_chunks() for column in table.columns)
    raw = np.frombuffer(digest.buffers()[1] or b"", dtype=">u8")[2 * digest.offset :][: 2 * segment.rows]
    notes = pack(*(column.to_numpy(zero_copy_only=False) for column in (length, truncated, well_formed)))
    return segment, raw.astype(np.uint64).reshape(-1, 2), notes


def merge(folder: Path, segments: list[Segment]) -> None:
    """Put segments into one, in their order, and remove them; memory is that of the largest's tokens."""
    path, head = _new_path(folder), segments[0]
    with writing(f"{path}.npy") as temporary, open(temporary, "wb") as file:
        _write_header(file, sum(s.rows for s in segments), np.empty((0, head.width), dtype=head.dtype))
        for segment in segments:
            with open(f"{segment.path}.npy", "rb") as part:
                part.seek(segment.data)
                shutil.copyfileobj(part, file, 1 << 22)
    with writing(f"{path}.parquet") as temporary, pq.ParquetWriter(temporary, SCHEMA, **PARQUET) as writer:
        for segment in segments:
            writer.write_table(pq.read_table(f"{segment.path}.parquet"))
    read(path)  # whole, before the parts go
    for segment in segments:
        remove(segment.path)


def remove(path: Path) -> None:
    for suffix in (".parquet", ".npy"):  # the one that makes a segment count goes first
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def pack(length: np.ndarray, truncated: np.ndarray, well_formed: np.ndarray) -> np.ndarray:
    """[n] uint32: length in tokens << 2 | truncated << 1 | well formed; 4 bytes a text, held for all texts."""
    return length.astype(np.uint32) << 2 | truncated.astype(np.uint32) << 1 | well_formed.astype(np.uint32)


def unpack(notes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Length [n] uint32, truncated [n] bool, well formed [n] bool."""
    return notes >> 2, (notes & 2) > 0, (notes & 1) > 0


def _look(path: Path) -> Segment:
    with open(f"{path}.npy", "rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path}.npy: of another format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        rows, width = shape
        segment = Segment(path, rows, file.tell(), dtype, width)
        if os.fstat(file.fileno()).st_size != segment.data + segment.size:
            raise ValueError(f"{path}.npy: cut off")
    return segment


def _write_header(file: Any, rows: int, like: np.ndarray) -> None:
    shape = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": False, "shape": (rows, like.shape[1])}
    np.lib.format.write_array_header_1_0(file, shape)


def _new_path(folder: Path) -> Path:
    """Names in the order of time, unlike those of any other process on any machine."""
    return folder / f"{time.time_ns():x}-{socket.gethostname()}-{os.getpid()}-{next(_counter)}"
