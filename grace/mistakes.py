"""What ends a command in one sentence on standard error and exit code 1: a user's mistake, or a disk that is full."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from grace.section import UserError

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file got too large for this disk or limit",
}
KEPT = "nothing half-written was kept; free space and rerun."


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Around a command. Raises: SystemExit with the sentence, for what a user can mend; all else as it is."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno in FULL:
            where = f" at {error.filename}" if error.filename else ""
            sys.exit(f"error: {FULL[error.errno]}{where}: {KEPT}")
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            sys.exit(f"error: {error.filename}: cannot be written ({error.strerror}).")
        raise
    except Exception as error:
        # safetensors writes weights in Rust and gives the system's error in words only.
        number = re.search(r"os error (\d+)", str(error))
        if type(error).__name__ == "SafetensorError" and number and int(number[1]) in FULL:
            sys.exit(f"error: {FULL[int(number[1])]}: {KEPT}")
        raise
