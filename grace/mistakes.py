"""What ends a command in one sentence on standard error and exit code 1: a user's mistake, or a disk that is full."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import clear_frames

from grace.section import UserError

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file got too large for this disk or limit",
}
REFUSED = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR)
CACHES = ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE")  # variables that say where Hugging Face's libraries write
KEPT = "nothing half-written was kept; free space and rerun."


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Around a command. Raises: SystemExit with the sentence, for what a user can mend; all else as it is."""
    try:
        yield
    except Exception as error:
        if (said := _said(error)) is None:
            raise
        clear_frames(error.__traceback__)  # ends what they hold, such as the line of a progress bar
        sys.exit(f"error: {said}")


def refused(error: Exception) -> bool:
    """Whether something could not be written, which no other network or file would mend."""
    return isinstance(error, OSError) and error.errno in REFUSED


def _said(error: Exception) -> str | None:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        where = f" at {error.filename}" if error.filename else ""
        return f"{FULL[error.errno]}{where}: {KEPT}"
    if isinstance(error, OSError) and refused(error):
        return f"{error.filename}: cannot be written ({error.strerror}){_advice(error.filename)}."
    # safetensors writes weights in Rust and gives the system's error in words only.
    number = re.search(r"os error (\d+)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return f"{FULL[int(number[1])]}: {KEPT}" if number and int(number[1]) in FULL else None


def _advice(path: str | None) -> str:
    """Which variable to set where `path` lies in a cache, or on the way to one."""
    usual = {"HF_HOME": f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/huggingface"}
    for name, at in (usual | {name: at for name, at in os.environ.items() if name in CACHES}).items():
        cache = Path(at).expanduser()
        if path and (Path(path).is_relative_to(cache) or cache.is_relative_to(path)):
            return f"; set {name} to a folder that can be"
    return ""
