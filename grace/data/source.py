"""Fetch or read one source of training text into JSON lines: docstrings, a local file, Google Drive, or the hub."""

from __future__ import annotations

import logging
import os
import random
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, compress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

from grace.config.section import UserError
from grace.config.specs import SourceSpec
from grace.data import docstrings
from grace.data.fetch import Download
from grace.data.pairs import problem
from grace.jobs import manifest, reader, stage
from grace.jobs.files import sha256, write_json, write_jsonl

PINS = Path(__file__).parents[2] / "requirements.lock"
LOCK = Path(__file__).parents[2] / "sources.lock"  # in the project, to be committed; size and sha256 of downloads
SEED = 0  # of the sample that max_rows takes
EARLY = 1000  # rows without a usable one after which a file is given up
ARCHIVES = tuple(ending for _, endings, _ in shutil.get_unpack_formats() for ending in endings)
# Of an archive. The last two: an encrypted member, an unknown compression.
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
)
SETTINGS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}

Row = dict[str, Any]


def rows(spec: SourceSpec, threads: int, folder: Path, lock: Path) -> Iterator[Row]:
    """Stream the rows of a source, or with max_rows a random sample over all packages or files.

    A local `path` goes before any download. `folder` holds a download or an unpacked archive until the rows are read.

    Raises:
        UserError: naming a broken row, a package that is missing, or what to fetch by hand.
    """
    source = spec.source
    if source.path is None and source.kind == "docstrings":
        # Four times as many as asked for, so that no file decides the sample.
        enough = None if spec.max_rows is None else 4 * spec.max_rows
        found = list(docstrings.corpus(source.packages, threads, enough))
        if spec.max_rows is not None and spec.max_rows < len(found):
            chosen = sorted(random.Random(SEED).sample(range(len(found)), spec.max_rows))
            found = [found[at] for at in chosen]
        yield from found
        return
    path = source.path or Download(spec.name, source, folder, lock).fetch()
    yield from read(path, source.form, folder, spec.max_rows)


def read(path: Path | str, form: str, scratch: Path, max_rows: int | None = None) -> Iterator[Row]:
    """Stream the rows of a file (`grace.jobs.reader`), of a folder of such files, or of an archive of them.

    With several files, `source` of a row that has none is its file's name. Rows that lack a field are among them:
    `pairs` drops and counts them.

    Args:
        scratch: folder in which an archive is unpacked.
        max_rows: a random sample of so many rows, in their order; None: all.

    Raises:
        UserError: naming the file and the broken row.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file or folder; correct sources.<name>.path.")
    with _unpacked(path, scratch) as place:
        files = _files_of_rows(place, form, path) if place.is_dir() else [place]

        def every(check: bool) -> Iterator[Row]:
            for file in files:
                for row in _file(file, form, check):
                    yield {"source": reader.stem(file), **row} if len(files) > 1 else row

        if max_rows is None:
            yield from every(check=True)
            return
        if place == path and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: a pipe, which a sample cannot read twice; give a file, or leave max_rows out.")
        total = sum(1 for _ in every(check=True))
        chosen = bytearray(total)
        for at in random.Random(SEED).sample(range(total), min(max_rows, total)):
            chosen[at] = True
        yield from compress(every(check=False), chosen)


@contextmanager
def _unpacked(archive: Path, scratch: Path) -> Iterator[Path]:
    """The folder in which an archive is unpacked for the time being; any other path is itself."""
    if archive.is_dir() or not archive.name.lower().endswith(ARCHIVES):
        yield archive
        return
    zipped = archive.suffix.lower() == ".zip"  # zipfile writes nothing outside the folder; tarfile with a filter
    if not zipped and not hasattr(tarfile, "data_filter"):
        raise UserError(f"{archive}: unpack it by hand, or take Python 3.11.4 or newer, which does so safely.")
    folder = scratch / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)  # of a job that was killed
    folder.mkdir(parents=True)
    try:
        try:
            if zipped:
                shutil.unpack_archive(archive, folder, "zip")
            else:
                shutil.unpack_archive(archive, folder, filter="data")
        except BROKEN as error:
            raise UserError(
                f"{archive}: the archive cannot be unpacked ({error}); fetch it again, or unpack it by hand and give "
                "the folder."
            ) from None
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _files_of_rows(folder: Path, form: str, shown: Path) -> list[Path]:
    """A README.txt, or settings in JSON, are no rows, so such files count only where there are no others."""
    endings = [ending for ending in reader.KINDS if ending != ".txt" or form == "texts"]
    known: dict[Path, str] = {}
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden and file.name not in SETTINGS and (kind := reader.kind(file)) in endings:
            known[file] = str(kind)
    if not known:
        raise UserError(f"{shown}: holds no {' or '.join(endings)} file.")
    tables = [file for file, kind in known.items() if kind not in (".json", ".txt")]
    return tables or [file for file, kind in known.items() if kind == ".json"] or [*known]


def _file(path: Path, form: str, check: bool) -> Iterator[Row]:
    """The rows of one file.

    `check` logs how many of them cannot be used, and stops, naming the first of these, when they are more than half of
    the rows or all of the first EARLY.
    """
    if reader.kind(path) == ".txt" and form != "texts":
        raise UserError(f"{path}: a .txt file gives texts, not {form}; set sources.<name>.form to texts.")
    count = bad = 0
    first = ""
    for number, row in reader.read(path, default=None if path.suffix else ".jsonl"):  # of a download without a name
        count += 1
        if check and (found := problem(row, form)):
            bad += 1
            first = first or f"{path}, row {number}: {found}"
            if found.whole_file:
                raise UserError(f"{path}, row {number}: {found}; correct the file.")
            if bad == count == EARLY:
                break
        yield row
    if 2 * bad > count:
        many = "" if count == 1 else f", as it is in {bad} of {count} rows"
        raise UserError(f"{first}{many}; correct the file or sources.<name>.form.")
    if bad:
        logging.warning("%s; %d of %d rows of this file cannot be used", first, bad, count)


def departure(spec: SourceSpec, digest: str) -> str | None:
    """A warning where `digest`, the sha256 of all rows of docstrings, is not the recorded one; else None."""
    source = spec.source
    if source.path or spec.max_rows is not None or source.sha256 in (None, digest):
        return None
    other = ", ".join(docstrings.unpinned(source.packages, PINS))
    why = f"installed (and pinned in {PINS.name}): {other}" if other else f"all versions are those of {PINS.name}"
    return f"{spec.name}: not the rows of sources.{spec.name}.sha256, so scores may differ from published ones; {why}"


@stage.entry(SourceSpec, outputs=("out", "card?", "lock?"))
def main(spec: SourceSpec, paths: SimpleNamespace) -> None:
    folder = paths.out.with_suffix(".download")
    try:
        found = rows(spec, paths.threads, folder, paths.lock or LOCK)
        first = next(found, None)
        if first is None:
            raise UserError(f"{spec.source.path or spec.source.kind}: the source holds no row.")
        count = write_jsonl(paths.out, tqdm(chain([first], found), "rows", mininterval=1))
        shutil.rmtree(folder, ignore_errors=True)
        digest = sha256(paths.out)
        if warning := departure(spec, digest):
            logging.warning("%s", warning)
        if paths.card:
            made = manifest.make("source", spec, [], paths.started, warning=warning)
            write_json(paths.card, {"rows": count, "sha256": digest, "manifest": made})
    finally:
        for empty in (*folder.glob("*/"), folder):
            with suppress(OSError):
                empty.rmdir()


if __name__ == "__main__":
    main()
