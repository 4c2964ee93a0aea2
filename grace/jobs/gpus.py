"""Claim GPUs of this machine for a command: `python -m grace.jobs.gpus 4 -- command ...`.

Snakemake counts GPUs but does not say which: without this, all jobs that run at once on a node would take the first.
A claim is a file lock that lives as long as the command, however it ends. Jobs queue in order, so that one that needs
all GPUs is not overtaken for ever. A SLURM job that was given as many as it asks for claims nothing; in a larger
allocation, such as salloc's, commands share what it has. A command that claims none sees none, so that a study without
GPUs gives the same numbers on any machine.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(tempfile.gettempdir()) / "grace-gpus"


def present() -> list[str]:
    """The GPUs this process may use: those of CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def claim(count: int, poll: float = 2.0) -> list[str]:
    """Wait until `count` GPUs are free and claim them for this process and what it starts.

    Args:
        poll: seconds between looks.

    Raises:
        UserError: when the machine has fewer.
    """
    names = present()
    if len(names) < count:
        from grace.config.section import (
            UserError,  # imported late: it takes longer than all else of a job that asks for none
        )

        raise UserError(
            f"this job asks for {count} GPU{'s' * (count != 1)}, but {len(names)} can be used here; run it where there "
            "are enough, lower processes and resources in config.yaml, or take --config study=demo, which needs none."
        )
    job = os.environ.get("SLURM_JOB_ID")
    if job and len(names) == count:
        return names
    # Numbers of GPUs are those of the SLURM job, so only what runs inside it competes for them.
    folder = FOLDER.with_name(f"{FOLDER.name}-{job}") if job else FOLDER
    folder.mkdir(exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o1777)  # other users of the machine queue too, whatever the umask
    queue = _open(folder, "queue")
    fcntl.flock(queue, fcntl.LOCK_EX)
    held: dict[str, int] = {}
    waited = False
    while True:
        for name in names:
            if name not in held and len(held) < count and (handle := _try(folder, name)) is not None:
                held[name] = handle
        if len(held) == count:
            break
        if not waited:
            print(f"waiting for {count} GPU(s); {len(held)} free", file=sys.stderr, flush=True)
            waited = True
        time.sleep(poll)
    os.close(queue)
    for handle in held.values():
        os.set_inheritable(handle, True)  # the lock ends with the last process of the command
    return list(held)


def _open(folder: Path, name: str) -> int:
    flags = os.O_CREAT | os.O_RDWR
    path = folder / f"{name}.lock"
    handle = os.open(path, flags, 0o666)
    if os.fstat(handle).st_uid == os.getuid():
        os.fchmod(handle, 0o666)
    return handle


def _try(folder: Path, name: str) -> int | None:
    handle = _open(folder, name)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def main(argv: list[str]) -> None:
    if len(argv) < 3 or argv[1] != "--" or not argv[0].isdigit():
        sys.exit("usage: python -m grace.jobs.gpus COUNT -- command ...")
    names = []
    if count := int(argv[0]):
        from grace.jobs.stage import in_one_sentence

        with in_one_sentence():
            names = claim(count)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    os.execvp(argv[2], argv[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
