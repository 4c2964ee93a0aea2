"""Texts of a file or of standard input, row by row. A mistake names its file and row."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from grace.config.section import UserError
from grace.jobs import reader

STANDARD_INPUT = "-"
BLOCK = 4096  # texts that are in memory together, if their characters are not too many
BLOCK_CHARACTERS = 1 << 26


class Row(NamedTuple):
    id: str | None  # None where the input has none
    text: str


def read(source: str | Path, field: str = "text") -> Iterator[Row]:
    """The rows of `source`, in bounded memory.

    Every line of a .txt is a text, so row i is line i. Standard input is JSON lines if its first line with text is a
    JSON object, else lines of text.

    Args:
        source: a file of `grace.jobs.reader`; "-" is standard input.
        field: holds the text, except in lines of text.

    Raises:
        UserError: naming file and row, for what cannot be read, a row without the field, or when no row has any text.
    """
    name, found_text = str(source), False
    if name == STANDARD_INPUT:
        name = "standard input"
        rows, plain = _standard_input(name)
    else:
        rows, plain = reader.read(source, (field, *reader.IDS)), reader.kind(source) == ".txt"
    field = "text" if plain else field
    for number, row in rows:
        where = f"{name}, row {number}"
        if field not in row:
            raise UserError(f"{where}: has no field {field!r} (it has: {', '.join(row)}); name one with --field.")
        text = reader.text(row, field, where)
        id_field = next((one for one in reader.IDS if row.get(one) is not None), None)
        found_text = found_text or bool(text.strip())
        yield Row(reader.identifier(row, id_field, where) if id_field else None, text)
    if not found_text:
        raise UserError(f"{name}: holds no text.")


def _standard_input(name: str) -> tuple[reader.Numbered, bool]:
    """Rows, and whether they are lines of text."""
    lines = reader.lines(sys.stdin.buffer, name)
    head = []
    for number, line in lines:
        head.append((number, line))
        if line.strip():
            break
    kind = _json_type(head[-1][1].strip()) if head else str
    if kind is list:
        raise UserError(f"{name}: a JSON array; give an object a line, or a file whose name ends in .json.")
    if kind is dict:
        return reader.objects(chain(head, lines), name), False
    return reader.plain(chain(head, lines)), True


def _json_type(line: str) -> type:
    """Of a line's JSON value; list of an opening bracket alone, str of what is no JSON."""
    try:
        return list if line == "[" else type(json.loads(line))
    except ValueError:
        return str
    except RecursionError:  # `reader.objects` reports it
        return list if line.startswith("[") else dict


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


def check(source: str | Path) -> None:
    """Raises: UserError for a file that is not there or whose kind is not known."""
    if str(source) == STANDARD_INPUT:
        return
    reader.check_kind(source)
    if Path(source).is_dir():
        raise UserError(f"{source}: a folder; name a file in it.")
    if not Path(source).exists():
        raise UserError(f"{source}: no such file.")


def check_argument(text: str) -> None:
    """Raises: UserError for an argument of the command line that is not UTF-8 (Python holds it as surrogates)."""
    if found := re.search("[\udc80-\udcff]", text):
        byte = ord(found[0]) - 0xDC00
        shown = text.encode("utf-8", "replace").decode()[:40]
        raise UserError(f"{shown!r}: not UTF-8 text (byte 0x{byte:02x}); convert it, such as with iconv.")


def rereadable(source: str | Path) -> bool:
    """Whether `source` can be read twice: not standard input nor a pipe."""
    return str(source) != STANDARD_INPUT and Path(source).is_file()
