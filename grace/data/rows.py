"""Rows of user-supplied files: reading them from files, folders and archives, and what a row must hold."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grace.files import read_jsonl
from grace.section import UserError

ARCHIVES = tuple(ending for _, endings, _ in shutil.get_unpack_formats() for ending in endings)
NEEDED = {"pairs": ("query", "positive"), "triples": ("query", "positive", "negatives"), "texts": ("text",)}
# Other names under which a field is read.
ALIASES = {"query": ("anchor",), "negatives": ("negative",), "text": ("positive",)}


def field(row: dict[str, Any], name: str) -> Any:
    """A field under its own name or an alias; None when it is absent."""
    for known in (name, *ALIASES.get(name, ())):
        if known in row:
            return row[known]
    return None


def problem(row: dict[str, Any], form: str) -> str | None:
    """What is wrong with a row of this form, or None; `pairs` drops and counts empty texts."""
    for name in NEEDED[form]:
        value = field(row, name)
        if value is None:
            names = " or ".join(repr(known) for known in (name, *ALIASES.get(name, ())))
            return f"the field {names} is missing (the row has {', '.join(map(repr, row)) or 'no field'})"
        listed = name == "negatives" and isinstance(value, list) and all(isinstance(text, str) for text in value)
        if not isinstance(value, str) and not listed:
            return f"the field {name!r} is not text but {type(value).__name__}"
    return None


def read(path: Path | str, form: str, scratch: Path | None = None) -> Iterator[dict[str, Any]]:
    """Stream the rows of a .jsonl or .txt file, of a folder of such files, or of an archive of them.

    With several files, `source` of a row that has none is its file's name.

    Args:
        form: pairs, triples or texts; a .txt file, one text a line, gives texts only.
        scratch: folder in which an archive is unpacked.

    Raises:
        UserError: naming the file, and the row where one is broken.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; correct sources.<name>.path.")
    if path.is_file() and path.name.endswith(ARCHIVES):
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            try:
                # Nothing may be written outside the folder, whatever the archive says.
                shutil.unpack_archive(path, folder, filter=None if path.suffix == ".zip" else "data")
            except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
                raise UserError(f"{path}: the archive cannot be unpacked ({error}); fetch it again.") from None
            yield from _folder(Path(folder), form, shown=path)
    elif path.is_dir():
        yield from _folder(path, form, shown=path)
    else:
        yield from _file(path, form)


def _folder(folder: Path, form: str, shown: Path) -> Iterator[dict[str, Any]]:
    suffixes = (".jsonl", ".txt") if form == "texts" else (".jsonl",)
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.suffix in suffixes and not file.name.startswith(".") and "__MACOSX" not in file.parts
    )
    if not files:
        raise UserError(f"{shown}: holds no {' or '.join(suffixes)} file.")
    for file in files:
        for row in _file(file, form):
            yield {"source": file.stem, **row} if len(files) > 1 else row


def _file(path: Path, form: str) -> Iterator[dict[str, Any]]:
    if path.suffix == ".txt":
        if form != "texts":
            raise UserError(f"{path}: a .txt file gives texts, not {form}; set sources.<name>.form to texts.")
        yield from _lines(path)
        return
    for count, row in enumerate(read_jsonl(path), 1):
        if found := problem(row, form):
            raise UserError(f"{path}, row {_line_number(path, count)}: {found}; correct or remove the row.")
        yield row


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                raise UserError(f"{path}, row {number}: not UTF-8 text; convert the file.") from None
            if text:
                yield {"text": text}


def _line_number(path: Path, count: int) -> int:
    """Line of the count-th row: blank lines are no rows."""
    with open(path, encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            count -= bool(line.strip())
            if not count:
                return number
    raise AssertionError("the file changed while it was read")


def clean(value: Any) -> Any:
    """The value with lone surrogates, which JSON can hold and UTF-8 cannot, replaced in all its texts."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(name): clean(item) for name, item in value.items()}
    return value
