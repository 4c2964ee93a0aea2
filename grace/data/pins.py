"""`sources.lock`: what each download was when it was first fetched, so that a study repeats on the same bytes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grace.config import Source
from grace.files import sha256, write_json
from grace.section import Section, UserError, build


class Pin(Section):
    """One entry of the file, under the name of its source."""

    kind: str
    id: str | None = None
    file: str | None = None
    revision: str | None = None  # as config.yaml has it
    commit: str | None = None  # hub: what the revision was
    size: int  # bytes
    sha256: str


def find(lock: Path, name: str, source: Source) -> Pin | None:
    """The entry of a source, None when it has none yet.

    Raises:
        UserError: when the file is broken, or its entry is of another file than the configuration names.
    """
    pin = _read(lock).get(name)
    if pin is None:
        return None
    for key in ("kind", "id", "file", "revision"):
        pinned, asked = getattr(pin, key), getattr(source, key)
        if pinned != asked:
            raise UserError(
                f"{lock}: the entry {name!r} pins a file of {key} {pinned!r}, but sources.{name}.{key} is {asked!r}; "
                "delete the entry if the configuration is right."
            )
    return pin


def check(lock: Path, name: str, source: Source, file: Path, commit: str | None = None) -> None:
    """Compare a whole download with its entry, or pin it when it has none.

    Raises:
        UserError: saying which file, what was expected and found, and what to do. The file stays where it is.
    """
    size, digest = file.stat().st_size, sha256(file)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _alone(lock):
        pin = find(lock, name, source)
        if pin is None:
            entries = {known: entry.model_dump(exclude_none=True) for known, entry in _read(lock).items()}
            of = source.model_dump(include={"kind", "id", "file", "revision"})
            entries[name] = Pin(**of, commit=commit, size=size, sha256=digest).model_dump(exclude_none=True)
            write_json(lock, dict(sorted(entries.items())))
            return
    if (pin.size, pin.sha256) != (size, digest):
        raise UserError(
            f"{file}: {size} bytes with sha256 {digest}, but {lock} pins {pin.size} bytes with sha256 {pin.sha256} for "
            f"the source {name!r}; delete the entry {name!r} from {lock} if the new file is meant (it is kept), or "
            "delete the file to fetch it again."
        )


def _read(lock: Path) -> dict[str, Pin]:
    try:
        text = lock.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        entries: Any = json.loads(text or "{}")  # empty: another job is about to write the first entry
        return {name: build(Pin, entry, name) for name, entry in entries.items()}
    except (ValueError, AttributeError, UserError) as error:
        raise UserError(f"{lock}: not a file of pinned sources ({error}); correct it or take it from git.") from None


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Keep other jobs out. The file is replaced when it is written, so the lock must be on the file of that name."""
    while True:
        with open(lock, "a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(handle.fileno()), lock.stat())
            except FileNotFoundError:
                same = False
            if same:
                yield
                return
