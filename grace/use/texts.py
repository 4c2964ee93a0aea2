"""Texts of a file or of standard input, row after row; a mistake names its file and row."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import IO, Any, NamedTuple

from grace.section import UserError

SUFFIXES = (".jsonl", ".txt", ".csv", ".parquet")
STANDARD_INPUT = "-"
IDS = ("id", "_id")  # fields that name a row; the first one that a row has
LONGEST = 1 << 26  # bytes of a line: what has no line ends is no file of texts
BLOCK = 4096  # texts that are in memory together, if their characters are not too many
BLOCK_CHARACTERS = 1 << 26


class Row(NamedTuple):
    """id: None where the input has none."""

    id: str | None
    text: str


def read(source: str | Path, field: str = "text") -> Iterator[Row]:
    """The rows of `source`, in bounded memory.

    Blank lines of JSON lines are passed over. Every line of a .txt is a text, a blank one the empty text, so that
    row i stays line i. Standard input is JSON lines if its first line with text is a JSON object, else lines of text.

    Args:
        source: .jsonl, .txt, .csv or .parquet; "-" is standard input.
        field: that holds the text, except of lines of text.

    Raises:
        UserError: naming file and row, for what cannot be read, a row without the field, or when no row has any text.
    """
    name, some = title(source), False
    for row in _rows(source, name, field):
        some = some or bool(row.text.strip())
        yield row
    if not some:
        raise UserError(f"{name}: holds no text.")


def title(source: str | Path) -> str:
    """How messages call `source`."""
    return "standard input" if str(source) == STANDARD_INPUT else str(source)


def check_suffix(source: str | Path) -> None:
    """Raises: UserError for a file whose kind is not known."""
    if str(source) != STANDARD_INPUT and Path(source).suffix not in SUFFIXES:
        raise UserError(f"{source}: cannot tell what kind of file it is; its name must end in {' or '.join(SUFFIXES)}.")


def blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """The same rows in lists that fit into memory."""
    block: list[Row] = []
    characters = 0
    for row in rows:
        block.append(row)
        characters += len(row.text)
        if len(block) == BLOCK or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _rows(source: str | Path, name: str, field: str) -> Iterator[Row]:
    check_suffix(source)
    if str(source) == STANDARD_INPUT:
        lines = _lines(sys.stdin.buffer, name)
        head = list(_up_to_text(lines))
        kind = _json if head and _is_object(head[-1][1]) else _plain
        yield from kind(chain(head, lines), name, field)
        return
    with _opened(Path(source)) as file:
        if Path(source).suffix == ".parquet":
            yield from _parquet(file, name, field)
        else:
            kind = {".jsonl": _json, ".txt": _plain, ".csv": _csv}[Path(source).suffix]
            yield from kind(_lines(file, name), name, field)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = open(path, "rb")  # noqa: SIM115  # what is raised while it is open is none of this
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    with file:
        yield file


def _lines(file: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Lines with their ends, and their numbers from 1."""
    for number in count(1):
        line = file.readline(LONGEST + 1)
        if not line:
            return
        if len(line) > LONGEST:
            raise UserError(f"{name}, line {number}: longer than {LONGEST >> 20} MB; is this a file of texts?")
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise UserError(
                f"{name}, line {number}: not UTF-8 text (byte 0x{byte:02x}); convert the file, such as with iconv."
            ) from None


def _up_to_text(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        yield number, line
        if line.strip():
            return


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
    except RecursionError:  # `_json` says so
        return line.lstrip().startswith("{")


def _plain(lines: Iterable[tuple[int, str]], name: str, field: str) -> Iterator[Row]:
    for _, line in lines:
        yield Row(None, line.rstrip("\r\n"))


def _json(lines: Iterable[tuple[int, str]], name: str, field: str) -> Iterator[Row]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise UserError(f"{name}, row {number}: not JSON ({reason}); correct or remove the row.") from None
        if not isinstance(row, dict):
            raise UserError(f"{name}, row {number}: not a JSON object; correct or remove the row.")
        yield _row(row, field, f"{name}, row {number}")


def _csv(lines: Iterable[tuple[int, str]], name: str, field: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST)
    reader = csv.DictReader((line for _, line in lines), strict=True)
    try:
        _check_column(field, reader.fieldnames or [], name)
        for number, row in enumerate(reader, 1):
            yield _row(row, field, f"{name}, row {number}")
    except csv.Error as error:
        line = max(1, reader.reader.line_num)
        raise UserError(f"{name}, line {line}: not CSV ({error}); correct the file.") from None


def _parquet(file: IO[bytes], name: str, field: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        _check_column(field, table.schema_arrow.names, name)
        columns = [column for column in (field, *IDS) if column in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(batch_size=BLOCK // 4, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield _row(row, field, f"{name}, row {number}")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{name}, near row {number + 1}: not UTF-8 text (byte 0x{byte:02x}); correct the row."
        ) from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{name}: no whole Parquet file ({reason}).") from None


def _check_column(field: str, columns: Iterable[str], name: str) -> None:
    if field not in columns:
        raise UserError(f"{name}: has no column {field!r} (it has: {', '.join(columns)}); name one with --field.")


def _row(row: dict[str, Any], field: str, where: str) -> Row:
    text = row.get(field)
    if field not in row:
        raise UserError(f"{where}: has no field {field!r} (it has: {', '.join(row)}); name one with --field.")
    if not isinstance(text, str):
        kind = "empty" if text is None else f"a {type(text).__name__} and no text"
        raise UserError(f"{where}: the field {field!r} is {kind}; correct or remove the row.")
    given = next((row[name] for name in IDS if row.get(name) is not None), None)
    # Half of a surrogate pair, which JSON can hold, is no text: nothing could write it out again.
    return Row(None if given is None else _whole(str(given)), _whole(text))


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def check_argument(text: str) -> None:
    """Raises: UserError for an argument of the command line that is not UTF-8, whose bytes Python keeps in disguise."""
    if found := re.search("[\udc80-\udcff]", text):
        byte = ord(found[0]) - 0xDC00
        raise UserError(f"{_whole(text)[:40]!r}: not UTF-8 text (byte 0x{byte:02x}); convert it, such as with iconv.")
