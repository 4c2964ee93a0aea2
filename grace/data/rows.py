"""Rows of user-supplied files: reading them from files, folders and archives, and what a row must hold."""

from __future__ import annotations

import logging
import random
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any

from grace.files import read_jsonl
from grace.section import UserError

ARCHIVES = tuple(ending for _, endings, _ in shutil.get_unpack_formats() for ending in endings)
NEEDED = {"pairs": ("query", "positive"), "triples": ("query", "positive", "negatives"), "texts": ("text",)}
SEED = 0  # of the sample that max_rows takes
# Other names under which a field is read.
ALIASES = {"query": ("anchor",), "negatives": ("negative",), "text": ("positive",)}


def field(row: dict[str, Any], name: str) -> Any:
    """A field under its own name or an alias; None when it is absent."""
    for known in (name, *ALIASES.get(name, ())):
        if known in row:
            return row[known]
    return None


def problem(row: dict[str, Any], form: str) -> str | None:
    """What is wrong with a row of this form, or None. `pairs` drops and counts such rows, as it does empty texts."""
    for name in ("query", "positive", "negatives") if form == "pairs" else NEEDED[form]:
        value = field(row, name)
        if value is None and name not in NEEDED[form]:
            continue
        if value is None:
            names = " or ".join(repr(known) for known in (name, *ALIASES.get(name, ())))
            return f"the field {names} is missing (the row has {', '.join(map(repr, row)) or 'no field'})"
        listed = name == "negatives" and isinstance(value, list) and all(isinstance(text, str) for text in value)
        if not isinstance(value, str) and not listed:
            return f"the field {name!r} is not text but {type(value).__name__}"
    return None


class Fields:
    """Counts the usable rows of each file, and stops where a file is plainly not of the form that was said."""

    EARLY = 1000  # rows without a usable one after which a file is given up

    def __init__(self, form: str) -> None:
        self.form = form
        self.rows: dict[Path, int] = {}
        self.first: dict[Path, str] = {}
        self.bad: dict[Path, int] = {}

    def count(self, path: Path, row: dict[str, Any]) -> None:
        """Note one more row of a file. Raises: UserError when not one of its first rows is usable."""
        self.rows[path] = rows = self.rows.get(path, 0) + 1
        if found := problem(row, self.form):
            self.bad[path] = bad = self.bad.get(path, 0) + 1
            if bad == 1:
                self.first[path] = f"{path}, row {_line_number(path, rows)}: {found}"
            if bad == rows == self.EARLY:
                self._stop(path)

    def judge(self) -> None:
        """Log what `pairs` will drop. Raises: UserError naming the first bad row of a file that is mostly bad rows."""
        for path, bad in self.bad.items():
            if 2 * bad > self.rows[path]:
                self._stop(path)
            logging.warning("%s; %d of %d rows of this file lack a field", self.first[path], bad, self.rows[path])

    def _stop(self, path: Path) -> None:
        many = "" if self.rows[path] == 1 else f", as it is in {self.bad[path]} of {self.rows[path]} rows"
        raise UserError(f"{self.first[path]}{many}; correct the file or sources.<name>.form.")


def read(path: Path | str, form: str, scratch: Path, max_rows: int | None = None) -> Iterator[dict[str, Any]]:
    """Stream the rows of a .jsonl or .txt file, of a folder of such files, or of an archive of them.

    With several files, `source` of a row that has none is its file's name. Rows that lack a field are among them:
    `pairs` drops and counts them.

    Args:
        form: pairs, triples or texts; a .txt file, one text a line, gives texts only.
        scratch: folder in which an archive is unpacked.
        max_rows: a random sample of so many rows, in their order; None: all.

    Raises:
        UserError: naming the file, and the row where one is broken; or the first row that lacks a field, when more
            than half of its file's rows do.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; correct sources.<name>.path.")
    with _unpacked(path, scratch) as place:

        def found(fields: Fields) -> Iterator[dict[str, Any]]:
            return _folder(place, fields, shown=path) if place.is_dir() else _file(place, fields)

        fields = Fields(form)
        if max_rows is None:
            yield from found(fields)
            fields.judge()
            return
        total = sum(1 for _ in found(fields))
        fields.judge()
        chosen = bytearray(total)
        for at in random.Random(SEED).sample(range(total), min(max_rows, total)):
            chosen[at] = True
        yield from compress(found(Fields(form)), chosen)


@contextmanager
def _unpacked(archive: Path, scratch: Path) -> Iterator[Path]:
    """The folder in which an archive is unpacked for the time being; anything else is itself."""
    if archive.is_dir() or not archive.name.endswith(ARCHIVES):
        yield archive
        return
    folder = scratch / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)  # of a job that was killed
    folder.mkdir(parents=True)
    try:
        try:
            _unpack(archive, folder)
        except (shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise UserError(f"{archive}: the archive cannot be unpacked ({error}); fetch it again.") from None
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> None:
    """Nothing is written outside the folder, whatever the archive says."""
    if archive.suffix == ".zip":
        shutil.unpack_archive(archive, folder)
    elif hasattr(tarfile, "data_filter"):
        shutil.unpack_archive(archive, folder, filter="data")
    else:
        raise UserError(f"{archive}: unpack it by hand, or take Python 3.11.4 or newer, which does so safely.")


def _folder(folder: Path, fields: Fields, shown: Path) -> Iterator[dict[str, Any]]:
    suffixes = (".jsonl", ".txt") if fields.form == "texts" else (".jsonl",)
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.suffix in suffixes and not file.name.startswith(".") and "__MACOSX" not in file.parts
    )
    if not files:
        raise UserError(f"{shown}: holds no {' or '.join(suffixes)} file.")
    for file in files:
        for row in _file(file, fields):
            yield {"source": file.stem, **row} if len(files) > 1 else row


def _file(path: Path, fields: Fields) -> Iterator[dict[str, Any]]:
    if path.suffix == ".txt":
        if fields.form != "texts":
            raise UserError(f"{path}: a .txt file gives texts, not {fields.form}; set sources.<name>.form to texts.")
        yield from _lines(path)
        return
    for row in read_jsonl(path):
        fields.count(path, row)
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
