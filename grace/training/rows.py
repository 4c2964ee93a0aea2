"""The rows that a training reads, looked at before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grace.files import read_jsonl
from grace.section import UserError

FIELDS = {"supervised": ("id", "query", "positive"), "unsupervised": ("id", "text")}


def read_rows(path: Path, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows whose `fields` are texts, and their negatives, where they have any, a list of texts.

    Raises:
        UserError: naming file and row, for what is none, or when there are no rows.
    """
    rows = list(read_jsonl(path, need=fields))
    for number, row in enumerate(rows, 1):
        negatives = row.get("negatives") or []
        if not isinstance(negatives, list) or not all(map(_is_text, negatives)):
            raise UserError(f"{path}, row {number}: the field 'negatives' is no list of texts.")
        if wrong := [field for field in fields if not _is_text(row[field])]:
            raise UserError(f"{path}, row {number}: the field {wrong[0]!r} is no text.")
    if not rows:
        raise UserError(f"{path}: no rows to train on.")
    return rows


def _is_text(value: Any) -> bool:
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):  # the second of half a character that takes two
        return False
    return True
