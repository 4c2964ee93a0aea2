"""Texts of a file or of standard input, row after row; a mistake names its file and row."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from grace import reader
from grace.section import UserError

STANDARD_INPUT = "-"
BLOCK = 4096  # texts that are in memory together, if their characters are not too many
BLOCK_CHARACTERS = 1 << 26


class Row(NamedTuple):
    """id: None where the input has none."""

    id: str | None
    text: str


def read(source: str | Path, field: str = "text") -> Iterator[Row]:
    """The rows of `source`, in bounded memory.

    Every line of a .txt is a text, so that row i stays line i. Standard input is JSON lines if its first line with text
    is a JSON object, else lines of text.

    Args:
        source: a file of `grace.reader`; "-" is standard input.
        field: that holds the text, except of lines of text.

    Raises:
        UserError: naming file and row, for what cannot be read, a row without the field, or when no row has any text.
    """
    name, some = title(source), False
    if str(source) == STANDARD_INPUT:
        rows, lines = _standard_input(name)
    else:
        rows, lines = reader.read(source, (field, *reader.IDS)), reader.kind(source) == ".txt"
    for number, row in rows:
        found = _row(row, "text" if lines else field, f"{name}, row {number}")
        some = some or bool(found.text.strip())
        yield found
    if not some:
        raise UserError(f"{name}: holds no text.")


def title(source: str | Path) -> str:
    """How messages call `source`."""
    return "standard input" if str(source) == STANDARD_INPUT else str(source)


def check(source: str | Path) -> None:
    """Raises: UserError for a file that is not there or whose kind is not known."""
    if str(source) == STANDARD_INPUT:
        return
    reader.check_kind(source)
    if not Path(source).exists() or Path(source).is_dir():
        what = "a folder; name a file in it" if Path(source).is_dir() else "no such file"
        raise UserError(f"{source}: {what}.")


def repeats(source: str | Path) -> bool:
    """Whether `source` gives the same rows when it is read again: not standard input nor a pipe."""
    return str(source) != STANDARD_INPUT and Path(source).is_file()


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


def _standard_input(name: str) -> tuple[reader.Numbered, bool]:
    """Rows, and whether they are lines of text."""
    lines = reader.lines(sys.stdin.buffer, name)
    head = list(_up_to_text(lines))
    if head and _holds(head[-1][1], list):
        raise UserError(f"{name}: a JSON array; give an object a line, or a file whose name ends in .json.")
    if head and _holds(head[-1][1], dict):
        return reader.objects(chain(head, lines), name), False
    return reader.plain(chain(head, lines)), True


def _up_to_text(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        yield number, line
        if line.strip():
            return


def _holds(line: str, kind: type) -> bool:
    """Whether a line is a JSON value of this kind, or its opening bracket alone."""
    bracket = "[" if kind is list else "{"
    try:
        return line.strip() == bracket == "[" or isinstance(json.loads(line), kind)
    except ValueError:
        return False
    except RecursionError:  # `reader.objects` says so
        return line.lstrip().startswith(bracket)


def _row(row: reader.Row, field: str, where: str) -> Row:
    if field not in row:
        raise UserError(f"{where}: has no field {field!r} (it has: {', '.join(row)}); name one with --field.")
    text = reader.text(row, field, where)
    name = next((name for name in reader.IDS if row.get(name) is not None), None)
    return Row(None if name is None else reader.identifier(row, name, where), text)


def check_argument(text: str) -> None:
    """Raises: UserError for an argument of the command line that is not UTF-8, whose bytes Python keeps in disguise."""
    if found := re.search("[\udc80-\udcff]", text):
        byte = ord(found[0]) - 0xDC00
        shown = text.encode("utf-8", "replace").decode()[:40]
        raise UserError(f"{shown!r}: not UTF-8 text (byte 0x{byte:02x}); convert it, such as with iconv.")
