"""Started by torchrun: one GRACE step over 64 instances; rank 0 saves rewards, advantages and weights.

replay.py MODEL OUT PROCESSES
"""

import os
import sys
from pathlib import Path

import torch

from grace.training.run import load
from grace.training.trainer import GraceTrainer, grpo_config
from tests.training.settings import grace_spec, rows

torch.set_num_threads(1)
folder, out, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
assert int(os.environ["WORLD_SIZE"]) == processes
spec = grace_spec(instances=64, processes=processes, rollouts_per_forward=64, max_steps=1)
model, tokenizer = load(folder, spec)
data = rows(64)
kept = []


class Recorder(GraceTrainer):
    def _log_terms(self, rewards):
        kept.append((rewards.total.clone(), self.failed.clone(), self.advantages.clone()))
        super()._log_terms(rewards)


trainer = Recorder(model, tokenizer, spec, data, grpo_config(spec, str(out / "checkpoints"), len(data)))
assert trainer.accelerator.num_processes == processes
trainer.train()
if trainer.is_world_process_zero():
    total, failed, advantages = kept[0]
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.save({"total": total, "failed": failed, "advantages": advantages, "weights": weights}, out / "kept.pt")
