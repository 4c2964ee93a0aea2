"""Held-out rows in an order that nobody chose."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from grace.reader import read_jsonl
from grace.section import UserError


def by_hash(path: Path | str) -> list[dict[str, Any]]:
    """Rows {id, query, positive} with distinct documents, by the BLAKE2b digest of the document (`positive`).

    Of rows with equal documents the first in the file is taken, so the order depends on the rows alone.

    Raises:
        UserError: naming file and row, for a row that lacks a field; or when there is no row.
    """
    found: dict[bytes, dict[str, Any]] = {}
    for row in read_jsonl(path, need=("id", "query", "positive")):
        text: str = row["positive"]
        found.setdefault(hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest(), row)
    if not found:
        raise UserError(f"{path}: holds no rows; raise data.test, so that rows are held out.")
    return [found[digest] for digest in sorted(found)]
