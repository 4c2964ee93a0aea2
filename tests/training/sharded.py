"""Started by torchrun on CPUs: FSDP2 for real, over gloo. accelerate engages FSDP for GPUs only, so the two
processes pass for GPU processes here; all that follows is its own code and torch's.

sharded.py MODEL OUT JOBS: trains each job of the file JOBS, {name: {spec, rows, folder, stop}}, and process 0
saves its whole weights to OUT/<name>.pt. A job with `stop` ends before that step, by an error, and saves nothing.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import state
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

from grace.config.specs import TrainSpec
from grace.training import hardware, lora
from grace.training.run import last_checkpoint, load
from tests.training.settings import model_of, trainer_of

torch.set_num_threads(1)
os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
state.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)  # type: ignore
torch.distributed.init_process_group("gloo")
folder, out = Path(sys.argv[1]), Path(sys.argv[2])


class Stopped(Exception):
    pass


def train(name: str, spec: TrainSpec, rows: list, checkpoints: Path, stop: int | None) -> None:
    state.AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if "bf16" in spec.model_dump_json() else "no"
    trainer = trainer_of(folder, checkpoints, spec, rows)
    model = model_of(trainer)
    original = trainer.training_step

    def step(*arguments, **keywords):
        if trainer.state.global_step == stop:
            raise Stopped
        return original(*arguments, **keywords)

    trainer.training_step = step
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    except Stopped:
        return
    assert trainer.is_fsdp_enabled and trainer.accelerator.num_processes == 2
    assert sum(isinstance(module, FSDPModule) for module in trainer.model.modules()) >= 3  # two blocks and the root
    held = sum(p.to_local().numel() for p in trainer.model.parameters())
    assert held < 0.6 * sum(p.numel() for p in trainer.model.parameters())
    weights = hardware.full_state(trainer, model)
    assert weights is not None
    if trainer.is_world_process_zero():
        whole, _ = load(folder, spec)
        whole.load_state_dict(weights)
        torch.save(lora.merged(whole).state_dict(), out / f"{name}.pt")


for name, job in json.loads(Path(sys.argv[3]).read_text()).items():
    train(name, TrainSpec.model_validate(job["spec"]), job["rows"], out / job["folder"], job["stop"])
torch.distributed.barrier()
