"""The whole smoke study through SLURM, job by job, with its seconds: too long for the tests.

python -m tests.slurm.whole FOLDER
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from tests.slurm.cluster import Cluster, unavailable
from tests.slurm.conftest import finish, submit


def main(directory: Path) -> int:
    """Exit status of snakemake; its output is in `directory`/out.txt."""
    if reason := unavailable():
        sys.exit(f"no SLURM here: {reason}")
    directory.mkdir(parents=True)
    cluster = Cluster()
    try:
        cluster.start()
        started = time.time()
        arguments = ("--config", "study=smoke", "--jobs", "2", "--slurm-init-seconds-before-status-checks", "5")
        status = finish(submit(directory, *arguments), 3600)
        states = Counter(job["JobState"] for job in cluster.jobs())
    finally:
        cluster.stop()
    print(f"exit {status}, {sum(states.values())} jobs {dict(states)}, {time.time() - started:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
