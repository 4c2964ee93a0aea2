"""Which backbone the folder of an adapter belongs to, as its grace.json says it, and whether it is there unchanged."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from grace.encoder.folders import loading_from, may_be_repository
from grace.encoder.saved import SETTINGS_FILE, Adapter, described
from grace.manifest import weights_hash
from grace.section import UserError

FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # of a repository of the hub
NEAR = 3  # levels up to a backbone that is named relative to the adapter's folder


def folder_of(path: str | Path) -> Path:
    """The folder of an adapter, fetched if `path` is a repository of the hub."""
    return Path(path) if Path(path).exists() else _fetched(str(path))


def backbone_of(path: str | Path) -> Path:
    """The folder of the backbone that the adapter at `path` was trained on.

    Raises:
        UserError: when it is not there, or another model is.
    """
    at, folder = described(path), folder_of(path)
    assert at is not None
    # Where the adapter lies, or where a link to it leads.
    places = [Path(os.path.normpath(at_folder / at.base)) for at_folder in (folder, folder.resolve())]
    found = next((place for place in places if place.is_dir()), places[0])
    there = f"adapter.base in {folder / SETTINGS_FILE}"
    if not found.is_dir():
        if not may_be_repository(at.base):
            raise UserError(
                f"{path}: an adapter whose backbone is not there; put it at {found}, or give its folder as {there}."
            )
        found = _fetched(at.base)
    if _hash(found, _stamps(found)) != at.weights:
        raise UserError(
            f"{path}: an adapter over another backbone than {found}, which it was not trained on; give the folder of "
            f"the one that it was as {there}."
        )
    return found


def reference(folder: Path, source: str) -> Adapter:
    """What an adapter's `folder` says of the backbone that was loaded from `source`.

    Raises:
        UserError: when that is neither a folder nor a repository of the hub.
    """
    if not source or not Path(source).is_dir():
        if not may_be_repository(source):
            raise UserError("an adapter cannot be saved: its backbone was not loaded from a folder or the hub.")
        return Adapter(base=source, weights=weights_hash(_fetched(source)))
    near = os.path.relpath(source, folder)
    # A study's results may be moved as a whole; what lies farther away is not moved along.
    base = near if near.count("..") <= NEAR else str(Path(source).resolve())
    return Adapter(base=base, weights=weights_hash(source))


def _fetched(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    with loading_from(repository):
        return Path(snapshot_download(repository, allow_patterns=FILES))


@cache
def _hash(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """`weights_hash`, once for files of these sizes and times: large ones take a while."""
    return weights_hash(folder)


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    found = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return tuple((name, at.st_size, at.st_mtime_ns) for name, at in found)
