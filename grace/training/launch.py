"""Start a training run in all its processes: `python -m grace.training.launch -m grace.training.train --spec ...`.

`accelerate launch` with the configuration that the run's settings ask for. Settings and machine are checked
once here, and what stops a process is reported once, in one sentence.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from grace.config.section import UserError
from grace.config.specs import TrainSpec
from grace.jobs import stage
from grace.training import hardware

PROFILES = Path(__file__).parents[2] / "profiles" / "accelerate"


def options(spec: TrainSpec) -> list[str]:
    """The options of `accelerate launch` for a run."""
    _, at = hardware.section(spec)
    profile = "single" if at.processes == 1 else "fsdp" if at.sharding == "fsdp" else "multi"
    given = {
        "config_file": str(PROFILES / f"{profile}.yaml"),
        "num_processes": str(at.processes),
        "mixed_precision": "bf16" if at.precision == "bf16" else "no",
        "main_process_port": "0",  # any free port: two runs may share a machine
    }
    return [word for name, value in given.items() for word in (f"--{name}", value)]


@stage.entry(TrainSpec, inputs=("backbone", "rows"), outputs=("out", "store?"))
def main(spec: TrainSpec, paths: SimpleNamespace) -> None:
    hardware.check(spec)
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the failure is reported below
    arguments = launch_command_parser().parse_args([*options(spec), "-m", "grace.training.train", *sys.argv[1:]])
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        reason = failure.message["message"] if isinstance(failure.message, dict) else failure.message
        if reason.startswith(f"{UserError.__name__}: "):
            raise UserError(reason.removeprefix(f"{UserError.__name__}: ")) from None
        raise UserError(
            f"training process {rank} ended with code {failure.exitcode}; its own words are above."
        ) from None


if __name__ == "__main__":
    if sys.argv[1:3] == ["-m", "grace.training.train"]:  # what the rule adds to `Plan.launcher`
        del sys.argv[1:3]
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    main()
