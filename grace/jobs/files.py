"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grace.config.section import UserError


@contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name `path` when the block ends without error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, which takes its name when the block ends without error.

    Where another process has made `folder` meanwhile, that one stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as temporary:
        whole = Path(temporary) / "whole"  # made here, since the temporary folder is for its owner's eyes only
        whole.mkdir()
        yield whole
        try:
            os.replace(whole, folder)
        except OSError:
            if not folder.is_dir():
                raise


def check_writable(folder: Path) -> None:
    """Raises: UserError when `folder` is missing or no file can be made in it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; make it first.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}).") from None


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN is refused."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path | str, kind: type = dict) -> Any:
    """Raises: UserError when the file is missing, cut off or holds no `kind`."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; snakemake makes it.") from None
    except (ValueError, RecursionError):  # of JSON, of UTF-8, of a number of thousands of digits
        raise UserError(f"{path}: not whole (broken JSON); make or fetch it again.") from None
    if not isinstance(value, kind):
        raise UserError(f"{path}: holds a {type(value).__name__} and no {kind.__name__}; make or fetch it again.")
    return value


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object per line, whole or not at all; returns the number of rows."""
    count = 0
    with writing(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


class JsonLines:
    """The rows of a whole JSON-lines file by their number, read when they are asked for.

    Args:
        path: a file that `grace.jobs.reader.read_jsonl` reads without complaint.
    """

    def __init__(self, path: Path | str) -> None:
        self._handle = open(path, "rb")  # noqa: SIM115  # it lives as long as the object
        self._starts, start = array("q"), 0
        for line in self._handle:
            if line.strip():
                self._starts.append(start)
            start += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> dict[str, Any]:
        self._handle.seek(self._starts[number])
        return json.loads(self._handle.readline())


def sha256(path: Path | str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
