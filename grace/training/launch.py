"""Start a training run in all its processes: `python -m grace.training.launch -m grace.training.train --spec ...`.

`accelerate launch` with the configuration that the run's settings ask for. Settings and machine are checked
once here, and what stops a process is said once, in one sentence.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from grace import stage
from grace.section import UserError
from grace.specs import TrainSpec
from grace.training import hardware

PROFILES = Path(__file__).parents[2] / "profiles" / "accelerate"


def profile(spec: TrainSpec) -> Path:
    """The accelerate configuration of a run."""
    _, at = hardware.section(spec)
    name = "single" if at.processes == 1 else "fsdp" if at.sharding == "fsdp" else "multi"
    return PROFILES / f"{name}.yaml"


def options(spec: TrainSpec) -> list[str]:
    """The options of `accelerate launch` for a run."""
    _, at = hardware.section(spec)
    return [
        "--config_file", str(profile(spec)),
        "--num_processes", str(at.processes),
        "--mixed_precision", "bf16" if at.precision == "bf16" else "no",
        "--main_process_port", "0",  # any free port: two runs may share a machine
    ]  # fmt: skip


@stage.entry(TrainSpec, inputs=("backbone", "rows"), outputs=("out", "store?"))
def main(spec: TrainSpec, paths: SimpleNamespace) -> None:
    hardware.check(spec)
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the failure is told below
    arguments = launch_command_parser().parse_args([*options(spec), "-m", "grace.training.train", *sys.argv[1:]])
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        said = failure.message["message"] if isinstance(failure.message, dict) else failure.message
        if said.startswith(f"{UserError.__name__}: "):
            raise UserError(said.removeprefix(f"{UserError.__name__}: ")) from None
        raise UserError(
            f"training process {rank} ended with code {failure.exitcode}; its own words are above."
        ) from None


if __name__ == "__main__":
    if sys.argv[1:3] == ["-m", "grace.training.train"]:  # what the rule adds to `Plan.launcher`
        del sys.argv[1:3]
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    main()
