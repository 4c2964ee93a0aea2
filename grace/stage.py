"""The frame of every stage: `python -m grace.<stage>.<module> --spec '{...}' --<input> a --<output> b`.

A user's mistake ends in one sentence on stderr and exit code 1, never in a traceback.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grace import spent
from grace.mistakes import in_one_sentence
from grace.section import Section, UserError, build, unpacked

log = logging.getLogger(__name__)
_ready = 0.0  # CPU seconds of this process when its own work began


def entry(
    spec_type: type[Section], *, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ()
) -> Callable[[Callable[[Any, SimpleNamespace], None]], Callable[..., None]]:
    """Make a module's `main(spec, paths)` a command.

    Each name in `inputs` and `outputs` becomes an option `--name PATH` and `paths.name`, a Path.
    A name that ends in `*` takes any number of paths, one that ends in `?` may be left out (None). Inputs must exist.
    `paths.threads` is the number of threads to use, `paths.started` the start time in seconds.
    The last line that a stage logs is what it used (`grace.spent`).
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
                    if path := getattr(arguments, name.rstrip("?")):
                        path.parent.mkdir(parents=True, exist_ok=True)
                _begin()
                function(build(spec_type, values, "spec"), arguments)
                log.info("%s", spent.now(_ready))

        return main

    return wrap


@contextmanager
def imports() -> Iterator[None]:
    """Around what a stage imports before its work: the seconds before its end are start-up (`grace.spent`).

    Python looks for cyclic garbage after so many new objects. Modules are a million of them that all stay, and looking
    through them is a fifth of an import and a pause afterwards: meanwhile it is not done, and they are set apart.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        _begin()


def _begin() -> None:
    global _ready
    gc.freeze()
    _ready = time.process_time()


def _keep_memory() -> None:
    """Let glibc keep freed blocks up to 1 GB instead of giving each back to the kernel.

    Training on a CPU frees and takes the same large tensors at every step, and the page faults
    are a quarter of a training step (docs/measurements.md). Elsewhere than on glibc nothing changes.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, 1 << 30)
    except (OSError, AttributeError):
        pass
