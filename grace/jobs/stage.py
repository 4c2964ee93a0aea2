"""The frame of every stage: `python -m grace.<stage>.<module> --spec '{...}' --<input> a --<output> b`.

A user's mistake, or a full disk, ends in one sentence on standard error and exit code 1, never in a traceback.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import gc
import json
import logging
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from traceback import clear_frames
from types import SimpleNamespace
from typing import Any

from grace.config.section import Section, UserError, build, unpacked


def entry(
    spec_type: type[Section], *, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ()
) -> Callable[[Callable[[Any, SimpleNamespace], None]], Callable[..., None]]:
    """Make a module's `main(spec, paths)` a command.

    Each name in `inputs` and `outputs` becomes an option `--name PATH` and `paths.name`, a Path.
    A name that ends in `*` takes any number of paths, one that ends in `?` may be left out (None). Inputs must exist.
    `paths.threads` is the number of threads to use, `paths.started` the start time in seconds.
    """

    def wrap(function: Callable[[Any, SimpleNamespace], None]) -> Callable[..., None]:
        @wraps(function)
        def main(argv: list[str] | None = None) -> None:
            module = sys.modules[function.__module__]
            parser = argparse.ArgumentParser(description=(module.__doc__ or "").strip().split("\n")[0])
            parser.add_argument("--spec", required=True, help="the stage's settings as JSON")
            parser.add_argument("--threads", type=int, default=os.cpu_count())
            for name in inputs + outputs:
                parser.add_argument(
                    f"--{name.rstrip('*?')}",
                    type=Path,
                    required=name[-1] not in "*?",
                    nargs="*" if name.endswith("*") else None,
                    default=[] if name.endswith("*") else None,
                )
            arguments = parser.parse_args(argv, SimpleNamespace(started=time.time()))
            if arguments.threads < 1:
                sys.exit(f"error: --threads: {arguments.threads} is less than 1.")
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
            for noisy in ("httpx", "httpx2", "datasets", "mteb", "absl"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            gc.set_threshold(100_000)  # a fifth of an import is looking for garbage among objects that all stay
            _keep_memory()
            os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read when torch is imported
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            if torch := sys.modules.get("torch"):
                torch.set_num_threads(arguments.threads)
            with in_one_sentence():
                try:
                    values = json.loads(unpacked(arguments.spec))
                except (ValueError, RecursionError, zlib.error) as error:  # binascii's is a ValueError too
                    raise UserError(f"--spec is not JSON: {error}.") from None
                for name in inputs:
                    given = getattr(arguments, name.rstrip("*"))
                    for path in given if isinstance(given, list) else [given]:
                        if not path.exists():
                            raise UserError(
                                f"{path}: no such file; snakemake makes it, or correct --{name.rstrip('*')}."
                            )
                for name in outputs:
                    given = getattr(arguments, name.rstrip("*?"))
                    for path in given if isinstance(given, list) else [given]:
                        if path:
                            path.parent.mkdir(parents=True, exist_ok=True)
                function(build(spec_type, values, "spec"), arguments)

        return main

    return wrap


def _keep_memory() -> None:
    """Let glibc keep freed blocks up to 1 GB instead of giving each back to the kernel.

    Training on a CPU frees and takes the same large tensors at every step, and the page faults
    are a quarter of a training step (docs/measurements.md). Elsewhere than on glibc nothing changes.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, 1 << 30)
    except (OSError, AttributeError):
        pass


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
