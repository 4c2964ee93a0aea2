"""Rows written as files of every kind, by other means than those that read them."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    """`rows`, which have the same fields, as the kind of file that `path` says."""
    kind = next(kind for kind in path.suffixes[::-1] if kind in (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet"))
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind in (".csv", ".tsv"):
        with open(path, "w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == ".csv" else "\t")
            out.writeheader()
            out.writerows(rows)
    elif kind == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    elif kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text("".join(row["text"] + "\n" for row in rows), encoding="utf-8")
    if path.suffix != kind:
        path.write_bytes(compressed(path.read_bytes(), path.suffix))
    return path


def compressed(content: bytes, ending: str) -> bytes:
    if ending == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as out:
            out.write(content)
        return sink.getvalue().to_pybytes()
    if ending == ".gz":
        return gzip.compress(content, mtime=0)  # without the time, which would be in the names of parametrized tests
    return {".bz2": bz2, ".xz": lzma}[ending].compress(content)
