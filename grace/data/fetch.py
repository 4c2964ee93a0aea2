"""Download a source's file: from Google Drive or any address by gdown, from the hub by huggingface_hub.

A download resumes where it was cut off, in this run or the next: its partial file stays in a folder of its own until
the rows have been read. The whole file is compared with its entry in `sources.lock`, which says what each download was
when it was first fetched, so that a study repeats on the same bytes; without an entry it is added.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from grace.config.schema import Source
from grace.config.section import Section, UserError, build
from grace.jobs.files import sha256, write_json

HTML = (b"<!doctype html", b"<html")
RETRIES, TIMEOUT = 5, 60  # after a cut, in one run; seconds of silence
PINNED = ("kind", "id", "file", "revision")  # which file an entry of sources.lock is of


class Pin(Section):
    """One entry of `sources.lock`, under the name of its source."""

    kind: str
    id: str | None = None
    file: str | None = None
    revision: str | None = None  # as in config.yaml
    commit: str | None = None  # hub: what the revision was
    size: int  # bytes
    sha256: str


class Download:
    """The download of one source into a subfolder of `folder`. `lock` is sources.lock, which need not exist.

    Raises:
        UserError: when sources.lock is broken or pins another file.
    """

    def __init__(self, name: str, source: Source, folder: Path, lock: Path) -> None:
        self.name, self.source, self.lock = name, source, lock
        address = source.model_dump(include={"kind", "id", "file", "revision", "mirror"})
        self.folder = folder / hashlib.sha256(repr(sorted(address.items())).encode()).hexdigest()[:8]
        self.pin = find_pin(lock, name, source)
        self.commit: str | None = None

    def fetch(self) -> Path:
        """The whole file, as pinned. Raises: UserError, which says what to fetch by hand and where to put it."""
        whole = [path for path in self.folder.glob("*") if path.is_file() and path.suffix != ".part"]
        if self.pin and len(whole) == 1:  # of a run that stopped later on
            file = whole[0]
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.pin:
                self._check_space(self.pin.size, sum(path.stat().st_size for path in self.folder.glob("*.part")))
            try:
                from_hub = self.source.kind == "hub" and not self.source.mirror
                file = self._from_hub() if from_hub else self._by_gdown()
            except UserError:
                raise
            except Exception as error:  # network, quota, missing file, gate, proxy: many classes, one advice
                reason = " ".join(str(error).split())[:300].rstrip(".:") or type(error).__name__
                raise self._failed(f"the download failed ({reason})") from None
        with open(file, "rb") as handle:
            if handle.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(HTML):
                file.unlink()
                raise self._failed("what came is a web page and not the file")
        check_pin(self.lock, self.name, self.source, file, self.commit)
        return file

    def _by_gdown(self) -> Path:
        if mirror := self.source.mirror:
            parts = urlsplit(mirror)
            if parts.scheme not in ("http", "https"):
                raise UserError(
                    f"config: sources.{self.name}.mirror: {mirror!r} is no http or https address; a local file goes "
                    "into path."
                )
            output = str(self.folder / (PurePosixPath(unquote(parts.path)).name or "download"))
            options: dict[str, Any] = {"url": mirror, "use_cookies": False, "output": output}
        else:
            options = {"id": self.source.id, "output": f"{self.folder}/"}
        try:
            import gdown
        except ImportError:
            raise self._failed("the package gdown is not installed") from None

        started = False

        def progress(done: int, size: int | None) -> None:
            nonlocal started
            if size is not None and not started:
                self._check_space(size, done)
            started = True

        options |= {"resume": True, "retries": RETRIES, "timeout": TIMEOUT, "progress": progress}
        partial = list(self.folder.glob("*.part"))
        try:
            return Path(str(gdown.download(**options)))
        except gdown.exceptions.DownloadError as error:
            if not partial or "byte range" not in str(error):
                raise
            for path in partial:  # the server cannot start in the middle, or has another file now
                path.unlink()
            return Path(str(gdown.download(**options)))

    def _from_hub(self) -> Path:
        """`hf_hub_download` starts anew after a kill (huggingface_hub 2.4), so its parts are used."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        repository, name = str(self.source.id), str(self.source.file)
        revision = (self.pin.commit if self.pin else None) or self.source.revision
        cached = try_to_load_from_cache(repository, name, revision=revision, repo_type="dataset")
        if isinstance(cached, str):  # for machines without network
            self.commit = Path(cached).parts[-1 - len(PurePosixPath(name).parts)]
            return Path(cached)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        url = hf_hub_url(repository, name, revision=revision, repo_type="dataset")
        about = get_hf_file_metadata(url, headers=headers)
        self.commit = about.commit_hash
        url = hf_hub_url(repository, name, revision=self.commit or revision, repo_type="dataset")
        file = self.folder / f"{str(self.commit)[:12]}-{PurePosixPath(name).name}"
        partial = file.with_name(f"{file.name}.part")
        if not file.exists():
            with open(partial, "ab") as handle:
                if about.size is not None:
                    self._check_space(about.size, handle.tell())
                http_get(url, handle, resume_size=handle.tell(), headers=headers, expected_size=about.size)
            partial.replace(file)
        return file

    def _check_space(self, size: int, done: int) -> None:
        need, free = 2 * size - done, shutil.disk_usage(self.folder).free
        if need > free:
            raise UserError(
                f"sources.{self.name}: {need / 1e9:.2f} GB are needed for the download and for its rows, but "
                f"{free / 1e9:.2f} GB are free at {self.folder.parent}; free space, or set sources.{self.name}.path to "
                "a file elsewhere."
            )

    def _failed(self, what: str) -> UserError:
        if self.source.mirror:
            where = f"mirror {self.source.mirror}"
        elif self.source.kind == "gdrive":
            where = f"https://drive.google.com/file/d/{self.source.id}"
        else:
            where = f"{self.source.file} of the data set {self.source.id}"
        return UserError(
            f"{where}: {what}; run again to go on with it, or fetch the file by hand and set sources.{self.name}.path "
            "to it."
        )


def find_pin(lock: Path, name: str, source: Source) -> Pin | None:
    """A source's entry, if it has one. Raises: UserError when `lock` is broken or the entry is of another file."""
    pin = _read_lock(lock).get(name)
    for key in PINNED if pin else ():
        pinned, asked = getattr(pin, key), getattr(source, key)
        if pinned != asked:
            raise UserError(
                f"{lock}: the entry {name!r} pins a file of {key} {pinned!r}, but sources.{name}.{key} is {asked!r}; "
                "delete the entry if the configuration is right."
            )
    return pin


def check_pin(lock: Path, name: str, source: Source, file: Path, commit: str | None = None) -> None:
    """Compare a whole download with its entry, or add one. Raises: UserError; the file stays where it is."""
    size, digest = file.stat().st_size, sha256(file)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _locked(lock):
        pin = find_pin(lock, name, source)
        if pin is None:
            entries = _read_lock(lock)
            address = source.model_dump(include={*PINNED})
            entries[name] = Pin(**address, commit=commit, size=size, sha256=digest)
            write_json(lock, {known: entry.model_dump(exclude_none=True) for known, entry in sorted(entries.items())})
            return
    if (pin.size, pin.sha256) != (size, digest):
        raise UserError(
            f"{file}: {size} bytes with sha256 {digest}, but {lock} pins {pin.size} bytes with sha256 {pin.sha256} for "
            f"the source {name!r}; delete the entry {name!r} from {lock} if the new file is meant (it is kept), or "
            "delete the file to fetch it again."
        )


def _read_lock(lock: Path) -> dict[str, Pin]:
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
def _locked(lock: Path) -> Iterator[None]:
    """Lock out other jobs. Writing replaces the file, so the lock must be on the file that has the name now."""
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
