"""One reader for the rows of a user's file: training sources, task folders, texts.

    .jsonl      an object a line (also .ndjson); blank lines are skipped
    .json       an array of objects, or as .jsonl
    .csv .tsv   a header and rows; every value is text
    .txt        a text a line, as {"text": line}; a blank line is the empty text
    .parquet

Each may be compressed (.gz, .bz2, .xz, .zst), which the first bytes tell. Text is UTF-8, with or without a byte-order
mark. No type is guessed: text that looks like a number, a date or "null" stays that text.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import IO, Any

from grace.config.section import UserError

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
LONGEST = 1 << 26  # bytes of a line; a file without line ends is no file of rows
BATCH = 1024  # rows of a Parquet file in memory
IDS = ("id", "_id")  # fields that name a row; the first one that it has
TRAINING = {"supervised": ("id", "query", "positive"), "unsupervised": ("id", "text")}  # fields of training rows

Row = dict[str, Any]
Numbered = Iterator[tuple[int, Row]]  # the row's number, or its line's where a row is a line; from 1


def kind(path: Path | str) -> str | None:
    """The ending of KINDS that a file's name has, whatever compression follows it; None of another file."""
    name = Path(path).name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return next((ending for ending in KINDS if name.endswith(ending)), None)


def check_kind(path: Path | str) -> str:
    """A file's `kind`. Raises: UserError for any other file."""
    if (ending := kind(path)) is None:
        raise UserError(
            f"{path}: cannot tell what kind of file it is; its name must end in {' or '.join(KINDS)}, compressed with "
            f"{' or '.join(COMPRESSED)} after it."
        )
    return ending


def stem(path: Path | str) -> str:
    """A file's name without the endings of its kind and compression."""
    name = Path(path).name
    lower = name.lower()
    for ending in (*COMPRESSED, *KINDS):
        lower = lower.removesuffix(ending)
    return name[: len(lower)]


def find(folder: Path, name: str) -> Path | None:
    """The file called `name` in `folder`, of any kind. Raises: UserError when there are several."""
    names = (name, f"{name}-00000-of-00001")  # the second as the hub has it
    found = sorted(path for path in folder.glob(f"{name}*") if path.is_file() and kind(path) and stem(path) in names)
    if len(found) > 1:
        raise UserError(f"{folder}: holds {found[0].name} and {found[1].name}; remove or rename one of them.")
    return found[0] if found else None


def read(path: Path | str, columns: tuple[str, ...] = (), default: str | None = None) -> Numbered:
    """The rows of a file, in bounded memory (but of a .json array).

    Args:
        columns: the only ones that are needed; of Parquet no others are read, if the first of them is there.
        default: the kind of a file whose name does not say it.

    Raises:
        UserError: naming file and row, for what cannot be read.
    """
    ending, name = kind(path) or default or check_kind(path), str(path)
    try:
        with open(path, "rb") as raw:
            file = _decompressed(raw)
            if ending == ".parquet":
                yield from _parquet(file, name, columns)
            elif ending in (".csv", ".tsv"):
                yield from _csv(file, name, "," if ending == ".csv" else "\t")
            elif ending == ".json":
                yield from _json(file, name)
            else:
                yield from plain(lines(file, name)) if ending == ".txt" else objects(lines(file, name), name)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: cut off or broken ({error}); fetch or make it again.") from None
    except OSError as error:  # pyarrow's of zstd are OSErrors with a message alone
        reason = error.strerror or str(error).split("\n")[0]
        raise UserError(f"{path}: cannot be read ({reason}).") from None


def read_jsonl(path: Path | str, need: tuple[str, ...] = ()) -> Iterator[Row]:
    """The rows of JSON lines, or of another kind of file if its name says so.

    Args:
        need: fields that hold a text with more than white space; of IDS an id.

    Raises:
        UserError: naming file and row.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file.")
    for at, row in read(path, default=".jsonl"):
        for field in need:
            if field in IDS:
                identifier(row, field, f"{path}, row {at}")
            elif not text(row, field, f"{path}, row {at}").strip():
                raise UserError(f"{path}, row {at}: the field {field!r} is empty; correct or remove the row.")
        yield row


def read_training(path: Path | str, need: tuple[str, ...]) -> list[Row]:
    """All rows of `read_jsonl`, at least one; their negatives, where they have any, are a list of texts.

    Args:
        need: of TRAINING, by the data.
    """
    rows = []
    for at, row in enumerate(read_jsonl(path, need), 1):
        if row.get("negatives"):
            where = f"{path}, row {at}"
            row["negatives"] = [text({"negatives": one}, "negatives", where) for one in listed(row, "negatives", where)]
        rows.append({**row, "id": same_id(row["id"])} if "id" in need else row)
    if not rows:
        raise UserError(f"{path}: no rows to train on.")
    return rows


# ---- fields of a row: each raises a UserError that begins with `where` when the field is missing or no such value ----


def text(row: Row, field: str, where: str) -> str:
    return str(_typed(row, field, where, "text", lambda value: isinstance(value, str)))


def identifier(row: Row, field: str, where: str) -> str:
    """An id as `same_id` gives it."""
    return str(same_id(_typed(row, field, where, "id", lambda value: same_id(value) is not None)))


def same_id(value: Any) -> str | None:
    """An id: a text as it is, or a whole number, which is the same id as its digits; None for what is no id."""
    return value if isinstance(value, str) else str(int(value)) if _is_whole(value) else None


def number(row: Row, field: str, where: str) -> float:
    """A finite number, or a text that writes one."""

    def finite(value: Any) -> bool:
        try:
            return not isinstance(value, bool) and math.isfinite(float(value))
        except (TypeError, ValueError, OverflowError):
            return False

    return float(_typed(row, field, where, "finite number", finite))


def whole(row: Row, field: str, where: str) -> int:
    """A whole number of at most nine digits, or a text that writes one."""
    value = number(row, field, where)
    if not _is_whole(value) or abs(value) >= 1e9:
        raise UserError(f"{where}: the field {field!r} is {row[field]!r} and no whole number; correct the row.")
    return int(value)


def listed(row: Row, field: str, where: str) -> list[Any]:
    """A list that is not empty."""
    return list(_typed(row, field, where, "list of values", lambda value: isinstance(value, list) and bool(value)))


def _is_whole(value: Any) -> bool:
    return value.is_integer() if isinstance(value, float) else isinstance(value, int) and not isinstance(value, bool)


def _typed(row: Row, field: str, where: str, wanted: str, fits: Callable[[Any], bool]) -> Any:
    if field not in row:
        raise UserError(f"{where}: the field {field!r} is missing (the row has: {', '.join(map(str, row))}).")
    value = row[field]
    if not fits(value):
        shown = repr(value) if len(repr(value)) < 40 else f"a {type(value).__name__}"
        said = "empty (null)" if value is None else f"{shown} and no {wanted}"
        raise UserError(f"{where}: the field {field!r} is {said}; correct or remove the row.")
    return value


# ---- lines and JSON ------------------------------------------------------------------------


def lines(file: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """Lines with their ends, and their numbers from 1. Raises: UserError naming `name` and line."""
    for at in count(1):
        line = file.readline(LONGEST + 1)
        if not line:
            return
        if at == 1 and line.startswith(b"version https://git-lfs"):
            raise UserError(f"{name}: only the pointer of a file that git-lfs keeps; fetch the file (git lfs pull).")
        if len(line) > LONGEST:
            raise UserError(f"{name}, row {at}: longer than {LONGEST >> 20} MB; is this a file of texts?")
        try:
            yield at, line.decode("utf-8-sig" if at == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise UserError(
                f"{name}, row {at}: not UTF-8 text (byte 0x{byte:02x}); convert the file, such as with iconv."
            ) from None


def plain(found: Iterable[tuple[int, str]]) -> Numbered:
    """Lines of text as rows."""
    return ((at, {"text": line.rstrip("\r\n")}) for at, line in found)


def objects(found: Iterable[tuple[int, str]], name: str) -> Numbered:
    """Lines of JSON as rows."""
    for at, line in found:
        if line.strip():
            where = f"{name}, row {at}"
            yield at, _object(_parsed(line.lstrip("\ufeff"), where), where)


def _json(file: IO[bytes], name: str) -> Numbered:
    """An array is parsed whole; a file that does not begin as one is read as lines."""
    found = lines(file, name)
    head = []
    for at, line in found:
        head.append((at, line))
        if line.strip():
            break
    if not head or not head[-1][1].lstrip().startswith("["):
        yield from objects(chain(head, found), name)
        return
    rows = _parsed("".join(line for _, line in chain(head, found)), name)
    for at, row in enumerate(rows, 1):
        yield at, _object(row, f"{name}, row {at}")


def _parsed(line: str, where: str) -> Any:
    """A JSON value without lone surrogates, which JSON can hold and UTF-8 cannot. Raises: UserError."""
    try:
        value = json.loads(line, object_pairs_hook=_fields)
    except (ValueError, RecursionError) as error:
        said = getattr(error, "msg", str(error).split(":")[0])
        reason = "nested too deep" if isinstance(error, RecursionError) else said
        raise UserError(f"{where}: not JSON ({reason}); correct or remove the row.") from None
    return _without_surrogates(value) if "\\u" in line else value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
    return value


def _fields(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return row


def _object(value: Any, where: str) -> Row:
    if isinstance(value, list):
        raise UserError(f"{where}: a JSON array and not an object; put each row on a line, or name the file .json.")
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a JSON object; correct or remove the row.")
    return value


# ---- other kinds, and compression ----------------------------------------------------------


def _decompressed(file: Any) -> Any:
    """The file, or what is compressed in it by its first bytes."""
    head = file.peek(10)  # of a pipe too
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        return bz2.BZ2File(file)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(file)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    return file


def _csv(file: IO[bytes], name: str, delimiter: str) -> Numbered:
    csv.field_size_limit(LONGEST)
    reader = csv.reader((line for _, line in lines(file, name)), strict=True, delimiter=delimiter)
    try:
        header = [column.strip() for column in next(filter(None, reader), [])]
        if twice := [column for column in header if header.count(column) > 1]:
            raise UserError(f"{name}: its header names the column {twice[0]!r} twice; rename one of them.")
        for at, cells in enumerate(filter(None, reader), 1):  # blank lines are skipped
            if len(cells) != len(header):
                raise UserError(
                    f"{name}, row {at}: has not the header's {len(header)} cells but {len(cells)}; quote a text "
                    f"that holds a {'comma' if delimiter == ',' else 'tab'}, or correct the row."
                )
            if delimiter == "\t" and any(end in cell for cell in cells for end in "\t\n"):
                # Most .tsv files quote nothing: two texts that begin with a quotation mark would become one.
                raise UserError(
                    f"{name}, row {at}: a cell in quotation marks holds a tab or a line end; take the marks away, "
                    "or write the file as .csv or .jsonl."
                )
            yield at, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}, line {max(1, reader.line_num)}: not CSV ({error}); correct the file.") from None


def _parquet(file: IO[bytes], name: str, columns: tuple[str, ...]) -> Numbered:
    import pyarrow as pa
    import pyarrow.parquet as pq

    at = 0
    with tempfile.TemporaryFile() as spooled:
        if not isinstance(getattr(file, "raw", None), io.FileIO) or not file.seekable():  # compressed, or a pipe
            shutil.copyfileobj(file, spooled)
            file = spooled
        try:
            table = pq.ParquetFile(file)
            names = table.schema_arrow.names
            if twice := [column for column in names if names.count(column) > 1]:
                raise UserError(f"{name}: has the column {twice[0]!r} twice; rename one of them.")
            some = [column for column in columns if column in names] if {*columns[:1]} & {*names} else None
            batches = table.iter_batches(batch_size=BATCH, columns=some)
            for at, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
                yield at, row
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise UserError(
                f"{name}, near row {at + 1}: not UTF-8 text (byte 0x{byte:02x}); correct the row."
            ) from None
        except (pa.ArrowException, OSError, LookupError) as error:  # the last of a time zone that nobody knows
            raise UserError(f"{name}: no whole Parquet file ({str(error).split(chr(10))[0]}).") from None
