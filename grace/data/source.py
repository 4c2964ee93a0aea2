"""Fetch or read one source of training text into JSON lines: docstrings, a local file, Google Drive, or the hub."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

from grace import manifest, stage
from grace.data import docstrings
from grace.data.fetch import Download
from grace.data.rows import read
from grace.files import sha256, write_json, write_jsonl
from grace.section import UserError
from grace.specs import SourceSpec

PINS = Path(__file__).parents[2] / "requirements.lock"
LOCK = Path(__file__).parents[2] / "sources.lock"  # in the project, to be committed; size and sha256 of downloads
SEED = 0  # of the sample that max_rows takes from docstrings


def rows(spec: SourceSpec, threads: int, folder: Path, lock: Path) -> Iterator[dict[str, Any]]:
    """Stream the rows of a source; a local `path` goes before any download.

    Args:
        spec: with max_rows, a random sample over all packages or files.
        folder: where a download is kept and an archive unpacked until the rows are read.
        lock: sources.lock, which pins what is downloaded.

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


def departure(spec: SourceSpec, digest: str) -> str | None:
    """What to say of all the rows of docstrings where `digest`, their sha256, is not the recorded one."""
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
