"""Rows of training sources: from files, folders and archives, and in which layouts they may come (docs/data.md)."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

from grace import reader
from grace.section import UserError

ARCHIVES = tuple(ending for _, endings, _ in shutil.get_unpack_formats() for ending in endings)
SEED = 0  # of the sample that max_rows takes
# Under which names a field is read; the first that a row has.
NAMES = {
    "query": ("query", "anchor", "question", "sentence1"),
    "positive": ("positive", "positives", "pos", "answer", "sentence2"),
    "negatives": ("negatives", "negative", "neg"),
    "text": ("text", "sentence", "positive", "pos"),
}
NUMBERED = re.compile(r"negative_?(\d+)")  # sentence-transformers' columns of several negatives
SCORED = ("score", "label", "gold_label")  # of a pair of sentences
SETTINGS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
LISTED = re.compile(r"""\[\s*["'].*["']\s*\]""", re.DOTALL)  # a list that was written as text
ALIKE, UNLIKE = 0.5, "score under .5"  # from which score on a pair is of like texts


class Unusable(Exception):
    """A row that cannot be used. reason: as rows are counted by; the message says more. all: as its whole file."""

    def __init__(self, reason: str, message: str, all: bool = False) -> None:
        super().__init__(message)
        self.reason, self.all = reason, all


class Read(NamedTuple):
    """A row's texts as they are. Of form texts, `positives` are the texts. negatives: None where it has no such field.

    instructed: whether it came with instructions, which are left out: the study has its own.
    """

    query: str
    positives: list[str]
    negatives: list[str] | None
    instructed: bool


def layout(row: dict[str, Any], form: str) -> Read:
    """A row of any layout of docs/data.md.

    Args:
        form: texts, pairs, or triples, which need negatives.

    Raises:
        Unusable: when a field is missing or no text, or a scored pair is no pair of like texts.
    """
    if form == "texts":
        texts, instructed = _texts(row, "text")
        return Read("", texts, None, instructed)
    (query, *more), of_query = _texts(row, "query")
    if more:
        raise Unusable("field is not text", f"the field {_name(row, 'query')!r} is not one text but {len(more) + 1}")
    paired = isinstance(row[str(_name(row, "query"))], list)  # then a flat list of two is one too
    positives, of_positives = _texts(row, "positive", paired)
    if _name(row, "query") == "sentence1" and (name := next((name for name in SCORED if name in row), None)):
        _check_score(row, name)
    negatives, of_negatives = _negatives(row, paired)
    if negatives is None and form == "triples":
        _texts(row, "negatives")
    return Read(query, positives, negatives, of_query or of_positives or of_negatives)


def problem(row: dict[str, Any], form: str) -> Unusable | None:
    """Why a row is not of this form, or None. `pairs` drops and counts such rows, as it does empty texts."""
    try:
        layout(row, form)
    except Unusable as error:
        return error if error.reason != UNLIKE else None
    return None


def _name(row: dict[str, Any], field: str) -> str | None:
    """The name under which a row has a field; None where it has none."""
    return next((name for name in NAMES[field] if row.get(name) is not None), None)


def _texts(row: dict[str, Any], field: str, paired: bool = False) -> tuple[list[str], bool]:
    """The texts of a field, one or more, and whether instructions stand before them. Raises: Unusable."""
    if (name := _name(row, field)) is None:
        names = " or ".join(map(repr, NAMES[field]))
        has = ", ".join(map(repr, row)) or "no field"
        raise Unusable("missing field", f"the field {names} is missing (the row has {has})")
    values = row[name] if isinstance(row[name], list) else [row[name]]
    if (field == "query" or paired) and len(values) == 2 and isinstance(values[0], str):  # [instruction, text]
        values = [values]
    instructed = [value for value in values if isinstance(value, list) and len(value) == 2]
    texts = [value[1] if isinstance(value, list) and len(value) == 2 else value for value in values]
    if not texts:
        raise Unusable("missing field", f"the field {name!r} is an empty list")
    for text in texts:
        if not isinstance(text, str):
            raise Unusable("field is not text", f"the field {name!r} is not text but {type(text).__name__}")
        if LISTED.fullmatch(text.strip()):
            raise Unusable("field is not text", f"the field {name!r} is a list that was written as text")
    return texts, any(value[0] for value in instructed)


def _negatives(row: dict[str, Any], paired: bool) -> tuple[list[str] | None, bool]:
    if (name := _name(row, "negatives")) is not None:
        return ([], False) if row[name] == [] else _texts(row, "negatives", paired)
    numbered = sorted((int(found[1]), name) for name in row if (found := NUMBERED.fullmatch(name)))
    there = [row[name] for _, name in numbered if row[name] is not None]
    return _texts({"negatives": there}, "negatives") if there else (None, False)


def _check_score(row: dict[str, Any], name: str) -> None:
    try:
        score = float(row[name]) if isinstance(row[name], bool) else reader.number(row, name, "")
    except UserError:
        raise Unusable("field is no score", f"the field {name!r} is {row[name]!r} and no score") from None
    if not 0 <= score <= 1:
        said = f"the field {name!r} is {score:g}, and a score lies between 0 and 1"
        raise Unusable("field is no score", said, all=True)
    if score < ALIKE:
        raise Unusable(UNLIKE, f"the field {name!r} is {score:g}")


class Fields:
    """Counts the usable rows of each file, and stops where a file is plainly not of the form that was said."""

    EARLY = 1000  # rows without a usable one after which a file is given up

    def __init__(self, form: str) -> None:
        self.form = form
        self.rows: dict[Path, int] = {}
        self.first: dict[Path, str] = {}
        self.bad: dict[Path, int] = {}

    def count(self, path: Path, number: int, row: dict[str, Any]) -> None:
        """Note one more row of a file. Raises: UserError when not one of its first rows is usable."""
        self.rows[path] = rows = self.rows.get(path, 0) + 1
        if found := problem(row, self.form):
            self.bad[path] = bad = self.bad.get(path, 0) + 1
            if bad == 1:
                self.first[path] = f"{path}, row {number}: {found}"
            if found.all:  # what the others mean is not known either
                raise UserError(f"{path}, row {number}: {found}; correct the file.")
            if bad == rows == self.EARLY:
                self._stop(path)

    def judge(self) -> None:
        """Log what `pairs` will drop. Raises: UserError naming the first bad row of a file that is mostly bad rows."""
        for path, bad in self.bad.items():
            if 2 * bad > self.rows[path]:
                self._stop(path)
            logging.warning("%s; %d of %d rows of this file cannot be used", self.first[path], bad, self.rows[path])

    def _stop(self, path: Path) -> None:
        many = "" if self.rows[path] == 1 else f", as it is in {self.bad[path]} of {self.rows[path]} rows"
        raise UserError(f"{self.first[path]}{many}; correct the file or sources.<name>.form.")


def read(path: Path | str, form: str, scratch: Path, max_rows: int | None = None) -> Iterator[dict[str, Any]]:
    """Stream the rows of a file (`grace.reader`), of a folder of such files, or of an archive of them.

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
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file or folder; correct sources.<name>.path.")
    with _unpacked(path, scratch) as place:

        def found(fields: Fields) -> Iterator[dict[str, Any]]:
            return _folder(place, fields, shown=path) if place.is_dir() else _file(place, fields)

        fields = Fields(form)
        if max_rows is None:
            yield from found(fields)
            fields.judge()
            return
        if place == path and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: a pipe, which a sample cannot read twice; give a file, or leave max_rows out.")
        total = sum(1 for _ in found(fields))
        fields.judge()
        chosen = bytearray(total)
        for at in random.Random(SEED).sample(range(total), min(max_rows, total)):
            chosen[at] = True
        yield from compress(found(Fields(form)), chosen)


@contextmanager
def _unpacked(archive: Path, scratch: Path) -> Iterator[Path]:
    """The folder in which an archive is unpacked for the time being; anything else is itself."""
    if archive.is_dir() or not archive.name.lower().endswith(ARCHIVES):
        yield archive
        return
    folder = scratch / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)  # of a job that was killed
    folder.mkdir(parents=True)
    try:
        try:
            _unpack(archive, folder)
        except (
            OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError,
            RuntimeError, NotImplementedError,  # zipfile's of an encrypted member, and of an unknown compression
        ) as error:  # fmt: skip
            raise UserError(
                f"{archive}: the archive cannot be unpacked ({error}); fetch it again, or unpack it by hand and give "
                "the folder."
            ) from None
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> None:
    """Nothing is written outside the folder, whatever the archive says."""
    if archive.suffix.lower() == ".zip":
        shutil.unpack_archive(archive, folder, "zip")
    elif hasattr(tarfile, "data_filter"):
        shutil.unpack_archive(archive, folder, filter="data")
    else:
        raise UserError(f"{archive}: unpack it by hand, or take Python 3.11.4 or newer, which does so safely.")


def _folder(folder: Path, fields: Fields, shown: Path) -> Iterator[dict[str, Any]]:
    """A README.txt, or settings in JSON, are no rows, so such kinds count where no other is."""
    every = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and reader.kind(file)
        and file.name not in SETTINGS
        and not any(part.startswith(".") or part == "__MACOSX" for part in file.relative_to(folder).parts)
    )
    endings = [ending for ending in reader.KINDS if ending != ".txt" or fields.form == "texts"]
    known = [file for file in every if reader.kind(file) in endings]
    files = [file for file in known if reader.kind(file) not in (".json", ".txt")]
    files = files or [file for file in known if reader.kind(file) == ".json"] or known
    if not files:
        raise UserError(f"{shown}: holds no {' or '.join(endings)} file.")
    for file in files:
        for row in _file(file, fields):
            yield {"source": reader.stem(file), **row} if len(files) > 1 else row


def _file(path: Path, fields: Fields) -> Iterator[dict[str, Any]]:
    if reader.kind(path) == ".txt" and fields.form != "texts":
        raise UserError(f"{path}: a .txt file gives texts, not {fields.form}; set sources.<name>.form to texts.")
    for number, row in reader.read(path, ending=None if path.suffix else ".jsonl"):  # of a download without a name
        fields.count(path, number, row)
        yield row
