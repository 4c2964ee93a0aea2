"""`grace embed`: a file of texts to a file of embeddings, in bounded memory. A killed command resumes."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from grace.cli import texts
from grace.cli.model import Options, load
from grace.cli.texts import Row
from grace.config.section import UserError
from grace.encoder.loading import DEFAULT_MODEL
from grace.encoder.store import Store, digests_of
from grace.jobs.files import check_writable, writing

if TYPE_CHECKING:
    from grace.encoder.encoder import Rationale, RationaleEncoder

SUFFIXES = (".parquet", ".npy", ".jsonl")
STANDARD_OUTPUT = "-"


class Embedded(NamedTuple):
    digests: np.ndarray  # [n, 2] uint64
    embeddings: np.ndarray  # [n, d] float32
    rationales: list[Rationale] | None


Write = Callable[[list[Row], Embedded], None]


class CachedEncoder:
    """An encoder whose embeddings are kept in a store: a text is embedded once.

    Args:
        settings: what decides the embeddings (`grace.cli.model.load`).
        root: folder of stores, made when it is missing.

    Raises:
        UserError: when the folder cannot be written.
    """

    def __init__(self, encoder: RationaleEncoder, settings: dict[str, Any], root: Path) -> None:
        try:
            self.store = Store(root, settings, encoder.width)
        except OSError as error:
            raise UserError(
                f"{root}: embeddings cannot be kept here ({error.strerror}); name a folder that can be written."
            ) from None
        self.encoder = encoder
        self.fresh = self.cut = 0  # distinct texts that were embedded, and of them those longer than the prompt

    def __enter__(self) -> CachedEncoder:
        return self

    def __exit__(self, *error: Any) -> None:
        self.store.__exit__(*error)

    def fill(self, texts: list[str], done: Callable[[int], Any] = lambda count: None) -> np.ndarray:
        """Embed those of `texts` that the store lacks.

        Args:
            done: called with the number of `texts` that were there, then after each batch with the number it adds.

        Returns:
            The texts' digests, [n, 2] uint64.
        """
        digests = digests_of(texts)
        unknown = np.flatnonzero(~self.store.known(digests))
        _, first, copies = np.unique(digests[unknown], axis=0, return_index=True, return_counts=True)
        fresh = unknown[first]
        done(len(texts) - len(unknown))
        if len(fresh):
            self.store.check_room(len(fresh))
            missing = [texts[i] for i in fresh]
            for rows, made in self.encoder.encode_batches(missing):
                self.store.add(digests[fresh[rows]], made.embeddings, made.rationales)
                done(int(copies[rows].sum()))
            self.fresh += len(fresh)
            template = self.encoder.template
            self.cut += sum(len(ids) > template.text_room for ids in template.text_ids(missing, template.text_room + 1))
        return digests

    def get(self, texts: list[str], done: Callable[[int], Any] = lambda count: None) -> Embedded:
        """Embeddings and rationales of `texts`, in their order. Args: as `fill`."""
        digests = self.fill(texts, done)
        return Embedded(digests, self.store.read(digests), self.rationales(digests))

    def rationales(self, digests: np.ndarray) -> list[Rationale] | None:
        """Of texts that are in the store; None where the encoder embeds without."""
        if not self.encoder.spec.rationales:
            return None
        return self.encoder.rationales(self.store.rationales(digests))

    def report_cut(self) -> None:
        """Say how many texts were cut."""
        if self.cut:
            some = "1 text is" if self.cut == 1 else f"{self.cut:,} texts are"
            room = self.encoder.spec.prompt.max_prompt_tokens
            print(
                f"note: {some} longer than a prompt of {room} tokens, and embedded by the beginning.", file=sys.stderr
            )


def run(source: str, out: str, options: Options, field: str, text: bool, store: Path | None) -> None:
    """Embed the rows of `source` into `out`, in their order.

    Args:
        source, field: as `texts.read`.
        out, text: as `writer`.
        store: folder that keeps the embeddings; None: one beside `out`, removed when `out` is complete.

    Raises:
        UserError: for a mistake in any of them; a file is read to its end before anything is embedded.
    """
    started = time.monotonic()
    texts.check(source)
    check_out(out, source)
    total = count(source, field)
    encoder, settings = load(options)
    about = {"model": options.model or DEFAULT_MODEL, **settings}
    done = 0
    with _store_folder(out, store) as root:
        with (
            resumable(root),
            CachedEncoder(encoder, settings, root) as cached,
            progress(total) as bar,
            writer(out, encoder.width, encoder.spec.rationales, text, about) as write,
        ):
            for block in texts.blocks(texts.read(source, field)):
                write(block, cached.get([row.text for row in block], bar.update))
                done += len(block)
        if store is None:
            shutil.rmtree(cached.store.folder)
            with suppress(OSError):  # not empty
                cached.store.folder.parent.rmdir()
    seconds = time.monotonic() - started
    where = "standard output" if out == STANDARD_OUTPUT else out
    print(f"{where}: texts: {done:,}, embedded now: {cached.fresh:,}, seconds: {seconds:,.0f}", file=sys.stderr)
    cached.report_cut()


@contextmanager
def _store_folder(out: str, store: Path | None) -> Iterator[Path]:
    """Where embeddings are kept until `out` is complete."""
    if store is None and out == STANDARD_OUTPUT:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        yield store or Path(out).with_name(f"{Path(out).name}.partial")


@contextmanager
def resumable(root: Path) -> Iterator[None]:
    """On Ctrl-C, say how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped: what is embedded is kept in {root}; the same command goes on from there.", file=sys.stderr)
        raise


def count(source: str, field: str) -> int | None:
    """Rows of a file; None of what can be read only once. Raises: UserError as `texts.read`."""
    return sum(1 for _ in texts.read(source, field)) if texts.rereadable(source) else None


def progress(total: int | None) -> tqdm:
    """A bar on standard error, if that is a terminal."""
    return tqdm(total=total, disable=None, desc="embed", unit="text", dynamic_ncols=True)


# ---- the output ----------------------------------------------------------------------------


def check_out(out: str | Path, source: str | Path) -> None:
    """Check, before anything is embedded, that `out` can be written.

    Raises:
        UserError: for an unknown suffix, the input itself, a missing folder, or one that cannot be written.
    """
    path = Path(out)
    if str(out) == STANDARD_OUTPUT:
        return
    if path.suffix not in SUFFIXES:
        raise UserError(f"{out}: cannot tell how to write it; its name must end in {' or '.join(SUFFIXES)}.")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise UserError(f"{out}: is the input; name another file.")
    if path.is_dir():
        raise UserError(f"{out}: is a folder; name a file in it.")
    check_writable(path.parent)


@contextmanager
def writer(out: str | Path, width: int, rationales: bool, text: bool, about: dict[str, Any]) -> Iterator[Write]:
    """Yields a function that writes rows and their embeddings; the file appears, whole, when the block ends.

    Args:
        out: checked; "-" is JSON lines on standard output.
        width: d, the length of an embedding.
        rationales: whether there are any; without them their columns are left out.
        text: write the texts, else their digests.
        about: how the embeddings were made; a .parquet holds it as JSON in its metadata, under "grace".
    """
    if str(out) == STANDARD_OUTPUT:
        yield lambda rows, made: _write_lines(sys.stdout, _columns(rows, made, text), made)
        sys.stdout.flush()
        return
    with writing(out) as temporary:
        if Path(out).suffix == ".parquet":
            with _parquet(temporary, width, rationales, text, about) as write:
                yield write
        elif Path(out).suffix == ".npy":
            with npy(temporary, width) as add:
                yield lambda rows, made: add(made.embeddings)
        else:
            with open(temporary, "w", encoding="utf-8") as file:
                yield lambda rows, made: _write_lines(file, _columns(rows, made, text), made)


def _columns(rows: list[Row], made: Embedded, text: bool) -> dict[str, list[Any]]:
    """All columns but the embedding's, in the order of the file."""
    columns: dict[str, list[Any]] = {"id": [row.id for row in rows]}
    if text:
        columns["text"] = [row.text for row in rows]
    else:
        columns["digest"] = [f"{high:016x}{low:016x}" for high, low in made.digests.tolist()]
    if made.rationales is not None:
        columns["rationale"] = [rationale.text for rationale in made.rationales]
        columns["tokens"] = [len(rationale.token_ids) for rationale in made.rationales]
        columns["truncated"] = [rationale.truncated for rationale in made.rationales]
        columns["well_formed"] = [rationale.well_formed for rationale in made.rationales]
    return columns


def _write_lines(file: IO[str], columns: dict[str, list[Any]], made: Embedded) -> None:
    for i, vector in enumerate(made.embeddings):
        # Nine digits are enough to get each float32 back.
        numbers = [float(f"{value:.9g}") for value in vector.tolist()]
        row = {name: values[i] for name, values in columns.items()} | {"embedding": numbers}
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def _parquet(path: Path, width: int, rationales: bool, text: bool, about: dict[str, Any]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = {"id": pa.string(), "text" if text else "digest": pa.string(), "embedding": pa.list_(pa.float32(), width)}
    if rationales:
        fields |= {"rationale": pa.string(), "tokens": pa.uint32(), "truncated": pa.bool_(), "well_formed": pa.bool_()}
    schema = pa.schema(fields, metadata={"grace": json.dumps(about)})

    def write(rows: list[Row], made: Embedded) -> None:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(made.embeddings.reshape(-1)), width)
        file.write_table(pa.table({**_columns(rows, made, text), "embedding": vectors}, schema=schema))

    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        yield write


@contextmanager
def npy(path: Path, width: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends blocks [n, d] to a .npy of [N, d] float32; N need not be known."""
    rows = 0

    def write_header() -> int:
        file.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        return file.tell()

    def add(vectors: np.ndarray) -> None:
        nonlocal rows
        file.write(np.ascontiguousarray(vectors, dtype="<f4").data)
        rows += len(vectors)

    with open(path, "wb") as file:
        start = write_header()
        yield add
        if write_header() != start:  # numpy leaves room for a larger N
            raise RuntimeError(f"{path}: the header grew with the number of rows")
