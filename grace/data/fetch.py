"""Download a source's file: from Google Drive or any address by gdown, from the hub by huggingface_hub.

A download goes on where it was cut off, in this run or the next: its partial file lies in a folder of its own until
the rows have been read. When it is whole it is compared with `sources.lock`, or pinned there.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from grace.config import Source
from grace.data import pins
from grace.section import UserError

PAGE = (b"<!doctype html", b"<html")
RETRIES, TIMEOUT = 5, 60  # after a cut, in one run; seconds of silence


class Download:
    """One source's file on its way.

    Args:
        name: of the source in the configuration.
        folder: where downloads lie, whole or in part; each address gets a subfolder.
        lock: sources.lock; it need not exist.

    Raises:
        UserError: when sources.lock is broken or pins another file.
    """

    def __init__(self, name: str, source: Source, folder: Path, lock: Path) -> None:
        self.name, self.source, self.lock = name, source, lock
        address = source.model_dump(include={"kind", "id", "file", "revision", "mirror"})
        self.folder = folder / hashlib.sha256(repr(sorted(address.items())).encode()).hexdigest()[:8]
        self.pin = pins.find(lock, name, source)
        self.commit: str | None = None
        if source.mirror:
            self.shown = source.mirror
        elif source.kind == "gdrive":
            self.shown = f"https://drive.google.com/file/d/{source.id}"
        else:
            self.shown = f"{source.file} of the data set {source.id}"

    def fetch(self) -> Path:
        """The file, whole and as pinned.

        Raises:
            UserError: one sentence; where the download fails it says what to fetch by hand and where to put it.
        """
        whole = [path for path in self.folder.glob("*") if path.is_file() and path.suffix != ".part"]
        if self.pin and len(whole) == 1:  # of a run that stopped later on
            (file,) = whole
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.pin:
                self._room(self.pin.size, sum(path.stat().st_size for path in self._parts()))
            try:
                file = self._mirror() if self.source.mirror else getattr(self, f"_{self.source.kind}")()
            except UserError:
                raise
            except Exception as error:  # network, quota, missing file, gate, proxy: many classes, one advice
                reason = " ".join(str(error).split())[:300].rstrip(".:") or type(error).__name__
                raise self._failed(f"the download failed ({reason})") from None
        with open(file, "rb") as handle:
            if handle.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGE):
                file.unlink()
                raise self._failed("what came is a web page and not the file")
        pins.check(self.lock, self.name, self.source, file, self.commit)
        return file

    def _gdrive(self) -> Path:
        return self._gdown(f"{self.folder}/", id=self.source.id)

    def _mirror(self) -> Path:
        assert self.source.mirror
        parts = urlsplit(self.source.mirror)
        if parts.scheme not in ("http", "https"):
            raise UserError(
                f"config: sources.{self.name}.mirror: {self.shown!r} is no http or https address; a local file goes "
                "into path."
            )
        file = self.folder / (PurePosixPath(unquote(parts.path)).name or "download")
        return self._gdown(str(file), url=self.source.mirror, use_cookies=False)

    def _gdown(self, output: str, **given: Any) -> Path:
        try:
            import gdown
        except ImportError:
            raise self._failed("the package gdown is not installed") from None

        started = False

        def progress(done: int, size: int | None) -> None:
            nonlocal started
            if size is not None and not started:
                self._room(size, done)
            started = True

        options: dict[str, Any] = {"resume": True, "retries": RETRIES, "timeout": TIMEOUT, "progress": progress}
        parts = self._parts()
        try:
            return Path(str(gdown.download(output=output, **options, **given)))
        except gdown.exceptions.DownloadError as error:
            if not parts or "byte range" not in str(error):
                raise
            for part in parts:  # the server cannot start in the middle, or it has another file by now
                part.unlink()
            return Path(str(gdown.download(output=output, **options, **given)))

    def _hub(self) -> Path:
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
        part = file.with_name(f"{file.name}.part")
        if not file.exists():
            with open(part, "ab") as handle:
                if about.size is not None:
                    self._room(about.size, handle.tell())
                http_get(url, handle, resume_size=handle.tell(), headers=headers, expected_size=about.size)
            part.replace(file)
        return file

    def _parts(self) -> list[Path]:
        return list(self.folder.glob("*.part"))

    def _room(self, size: int, done: int) -> None:
        need, free = 2 * size - done, shutil.disk_usage(self.folder).free
        if need > free:
            raise UserError(
                f"sources.{self.name}: {need / 1e9:.2f} GB are needed for the download and for its rows, but "
                f"{free / 1e9:.2f} GB are free at {self.folder.parent}; free space, or set sources.{self.name}.path to "
                "a file elsewhere."
            )

    def _failed(self, what: str) -> UserError:
        where = f"mirror {self.shown}" if self.source.mirror else self.shown
        return UserError(
            f"{where}: {what}; run again to go on with it, or fetch the file by hand and set sources.{self.name}.path "
            "to it."
        )
