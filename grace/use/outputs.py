"""Embeddings as a file that appears whole or not at all: .parquet, .npy or .jsonl."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from grace.files import check_writable, writing
from grace.section import UserError
from grace.use.kept import Embedded
from grace.use.texts import Row

SUFFIXES = (".parquet", ".npy", ".jsonl")
STANDARD_OUTPUT = "-"
Add = Callable[[list[Row], Embedded], None]


def check(out: str | Path, source: str | Path) -> None:
    """Look, before anything is embedded, whether `out` can be written.

    Raises:
        UserError: for an unknown suffix, the input itself, a missing folder, or one that cannot be written.
    """
    path = Path(out)
    if str(out) == STANDARD_OUTPUT:
        return
    if path.suffix not in SUFFIXES:
        raise UserError(f"{out}: cannot tell how to write it; its name must end in {' or '.join(SUFFIXES)}.")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise UserError(f"{out}: is the input; name another file.")
    if path.is_dir():
        raise UserError(f"{out}: is a folder; name a file in it.")
    check_writable(path.parent)


@contextmanager
def writer(out: str | Path, width: int, rationales: bool, text: bool, about: dict[str, Any]) -> Iterator[Add]:
    """Yields a function that takes rows with what was made of them; the file is there when the block ends.

    Args:
        out: checked; "-" is JSON lines on standard output.
        width: d, the length of an embedding.
        rationales: whether there are any; without them their columns are left out.
        text: write the texts, else their digests.
        about: how the embeddings were made; a .parquet holds it as JSON in its metadata, under "grace".
    """
    if str(out) == STANDARD_OUTPUT:
        yield _lines(sys.stdout, text)
        sys.stdout.flush()
        return
    with writing(out) as temporary:
        if Path(out).suffix == ".parquet":
            with _parquet(temporary, width, rationales, text, about) as add:
                yield add
        elif Path(out).suffix == ".npy":
            with array(temporary, width) as vectors:
                yield lambda rows, made: vectors(made.embeddings)
        else:
            with open(temporary, "w", encoding="utf-8") as file:
                yield _lines(file, text)


@contextmanager
def _parquet(path: Path, width: int, rationales: bool, text: bool, about: dict[str, Any]) -> Iterator[Add]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = {"id": pa.string(), "text" if text else "digest": pa.string(), "embedding": pa.list_(pa.float32(), width)}
    if rationales:
        fields |= {"rationale": pa.string(), "tokens": pa.uint32(), "truncated": pa.bool_(), "well_formed": pa.bool_()}
    schema = pa.schema(fields, metadata={"grace": json.dumps(about)})

    def add(rows: list[Row], made: Embedded) -> None:
        columns = _columns(rows, made, text)
        flat = pa.array(made.embeddings.reshape(-1))
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, width)
        file.write_table(pa.table(columns, schema=schema))

    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        yield add


@contextmanager
def array(path: Path, width: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that takes blocks [n, d] of what becomes a .npy of [N, d] float32."""
    count = 0

    def header() -> int:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, shape)
        return file.tell()

    def add(vectors: np.ndarray) -> None:
        nonlocal count
        file.write(np.ascontiguousarray(vectors, dtype="<f4").data)
        count += len(vectors)

    with open(path, "wb") as file:
        start = header()
        yield add
        if header() != start:  # numpy leaves room for a larger N
            raise RuntimeError(f"{path}: the header grew with the number of rows")


def _lines(file: IO[str], text: bool) -> Add:
    def add(rows: list[Row], made: Embedded) -> None:
        columns = _columns(rows, made, text)
        for i, vector in enumerate(made.embeddings):
            # Nine digits are enough to get each float32 back.
            numbers = [float(f"{value:.9g}") for value in vector.tolist()]
            row = {name: values[i] for name, values in columns.items()} | {"embedding": numbers}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    return add


def _columns(rows: list[Row], made: Embedded, text: bool) -> dict[str, Any]:
    """All columns but the embedding's, in the order of the file."""
    found: dict[str, Any] = {"id": [row.id for row in rows]}
    if text:
        found["text"] = [row.text for row in rows]
    else:
        found["digest"] = [digest_name(digest) for digest in made.digests]
    if made.rationales is not None:
        found["rationale"] = [rationale.text for rationale in made.rationales]
        found["tokens"] = [len(rationale.token_ids) for rationale in made.rationales]
        found["truncated"] = [rationale.truncated for rationale in made.rationales]
        found["well_formed"] = [rationale.well_formed for rationale in made.rationales]
    return found


def digest_name(digest: np.ndarray) -> str:
    """32 hexadecimal digits: the text's BLAKE2b of 16 bytes."""
    return f"{int(digest[0]):016x}{int(digest[1]):016x}"
