"""Fetch or read one source of training text into JSON lines: docstrings, a local file, Google Drive, or the hub."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

from grace import stage
from grace.config import Source
from grace.data import docstrings
from grace.data.rows import clean, read
from grace.files import write_jsonl
from grace.section import UserError
from grace.specs import SourceSpec

SEED = 0  # of the sample that max_rows takes from docstrings


def rows(source: Source, max_rows: int | None, threads: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Stream the rows of a source.

    Args:
        source: a local `path` goes before any download.
        max_rows: of docstrings a random sample over all packages, of files the first rows; None: all.
        folder: where a download is kept until it is read.

    Raises:
        UserError: naming a broken row, a package that is missing, or what to fetch by hand.
    """
    if source.path is None and source.kind == "docstrings":
        # Four times as many as asked for, so that no file decides the sample.
        found = list(docstrings.corpus(source.packages, threads, None if max_rows is None else 4 * max_rows))
        if max_rows is not None and max_rows < len(found):
            chosen = sorted(random.Random(SEED).sample(range(len(found)), max_rows))
            found = [found[at] for at in chosen]
        yield from found
        return
    path = source.path or {"gdrive": fetch_gdrive, "hub": fetch_hub}[source.kind](source, folder)
    yield from islice(read(path, source.form, folder), max_rows)


def fetch_gdrive(source: Source, folder: Path) -> Path:
    """Download a file from Google Drive. Raises: UserError saying what to fetch by hand."""
    address = f"https://drive.google.com/file/d/{source.id}"
    advice = f"fetch {address} by hand and set sources.<name>.path to the file"
    try:
        import gdown
    except ImportError:
        raise UserError(f"config: sources: a source of kind 'gdrive' needs the package gdown; or {advice}.") from None
    try:
        found = gdown.download(id=source.id, output=f"{folder}/", quiet=False)
    except Exception as error:  # its own classes differ between versions
        raise UserError(f"{address}: the download failed ({_first_line(error)}); {advice}.") from None
    if not found:
        raise UserError(f"{address}: the download failed; {advice}.")
    return Path(str(found))


def fetch_hub(source: Source, folder: Path) -> Path:
    """Download one file of a data set from the Hugging Face hub. Raises: UserError saying what to fetch by hand."""
    from huggingface_hub import hf_hub_download

    assert source.id and source.file
    advice = "without network, fetch the file by hand and set sources.<name>.path to it"
    try:
        return Path(hf_hub_download(source.id, source.file, repo_type="dataset"))
    except Exception as error:  # network, missing repository, gate, proxy: many classes, one advice
        reason = _first_line(error)
        raise UserError(
            f"{source.file} of the data set {source.id}: the download failed ({reason}); {advice}."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")[:200]


@stage.entry(SourceSpec, outputs=("out",))
def main(spec: SourceSpec, paths: SimpleNamespace) -> None:
    with tempfile.TemporaryDirectory(dir=paths.out.parent) as folder:
        found = rows(spec.source, spec.max_rows, paths.threads, Path(folder))
        first = next(found, None)
        if first is None:
            raise UserError(f"{spec.source.path or spec.source.kind}: the source holds no row.")
        write_jsonl(paths.out, map(clean, tqdm(chain([first], found), "rows", mininterval=1)))


if __name__ == "__main__":
    main()
