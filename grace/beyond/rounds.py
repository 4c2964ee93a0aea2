"""adapter+grace: in turn, the adapter that pools is trained, and the one that writes is rewarded by its embeddings.

A round has two phases on one frozen backbone:

- adapter: the present generator writes about the round's rows, and EMBEDDING learns from these rationales, by InfoNCE;
- policy: EMBEDDING pools and is frozen, and GRACE's policy gradient trains GENERATOR.

Each phase is a training of its own, with its own optimizer, schedule and checkpoints, that starts from the adapters as
the one before left them. A killed run resumes in its phase.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from transformers import set_seed

from grace.beyond.adapter import AdapterTrainer
from grace.config.schema import Contrastive
from grace.config.specs import EncodeSpec, RationalesSpec, TrainSpec
from grace.encoder.adapters import EMBEDDING, GENERATOR, writing
from grace.encoder.encoder import RationaleEncoder
from grace.encoder.sampling import text_key
from grace.encoder.store import Store, settings
from grace.jobs.files import writing as writing_file
from grace.training import hardware, rationales
from grace.training.run import build_trainer, fit, history, last_checkpoint, load, save, tokens
from grace.training.trainer import grace_trainer

log = logging.getLogger(__name__)
WRITTEN = "rationales"  # beside the checkpoints
Row = dict[str, Any]


class Phase(NamedTuple):
    number: int  # of the round, from 0
    adapter: str  # that is trained
    spec: TrainSpec  # of the phase as a training of its own

    @property
    def name(self) -> str:
        return f"round{self.number}-{self.adapter}"

    def rows(self, rows: list[Row]) -> list[Row]:
        """What it trains on: an adapter the next rows of the order of `rationales.sample`, from the start when they are
        used up; the policy all rows."""
        if self.spec.contrastive is None or self.spec.contrastive.rows is None:
            return rows
        return rationales.sample(rows, self.spec.contrastive.rows, self.number)


def phases(spec: TrainSpec) -> list[Phase]:
    """All phases of a run, in their order."""
    assert spec.rounds is not None
    return [
        Phase(number, adapter, part(spec, text_key(spec.seed, number, adapter) % (1 << 31)))
        for number in range(spec.rounds.rounds)
        for adapter, part in ((EMBEDDING, _adapter_spec), (GENERATOR, _policy_spec))
        if adapter == GENERATOR or spec.rounds.adapter_steps
    ]


def _adapter_spec(spec: TrainSpec, seed: int) -> TrainSpec:
    assert spec.contrastive is not None and spec.grace is not None and spec.generation is not None
    shared = {"processes": spec.grace.processes, "lora": spec.contrastive.lora}
    encode = EncodeSpec(
        prompt=spec.prompt,
        pooling=spec.pooling,
        rationales=True,
        direct_prompt=spec.direct_prompt or "chat",
        max_new_tokens=spec.generation.max_new_tokens,
        sampling_temperature=spec.generation.sampling_temperature,
        batch_size=spec.generation.batch_size,
        compile=spec.generation.compile,
        seed=seed,
    )
    written = RationalesSpec(data=spec.data, rows=spec.contrastive.rows, store="float32", encode=encode)
    changes = {
        "method": "adapter",
        "seed": seed,
        "rationales": written if spec.contrastive.rationales else None,
        "contrastive": Contrastive(**{**spec.contrastive.model_dump(), **shared}),
        **dict.fromkeys(("grace", "generation", "reward", "rounds")),
    }
    return spec.model_copy(update=changes)


def _policy_spec(spec: TrainSpec, seed: int) -> TrainSpec:
    changes = {"method": "grace", "seed": seed, "contrastive": None, "rationales": None, "rounds": None}
    return spec.model_copy(update=changes)


def train(spec: TrainSpec, rows: list[Row], paths: SimpleNamespace, checkpoints: Path) -> None:
    """Train all phases, or those that a killed run has left, and save; every process calls this."""
    order = phases(spec)
    done = [phase for phase in order if (checkpoints / f"{phase.name}.pt").exists()]
    left, last = order[len(done) :], done[-1] if done else None
    found = last_checkpoint(checkpoints / left[0].name) if left else None
    resumed = f"{left[0].name}/{Path(found).name}" if found else last and last.name
    if resumed is None and left and (checkpoints / WRITTEN).exists():
        resumed = f"{left[0].name}/{WRITTEN}"
    for phase in left:
        _train(phase, spec, rows, paths.backbone, checkpoints, last)
        last = phase
    state = _state(checkpoints, last)
    model, tokenizer = _load(spec, paths.backbone, state, EMBEDDING)
    if PartialState().is_main_process:
        record = {name: state[name] for name in ("steps", "tokens", "history", "preflight")}
        record = {"training": checkpoints.name, "rows": len(rows), "resumed_from": resumed, **record}
        save(paths.out.parent, model.eval(), tokenizer, spec, paths, **record)
        shutil.rmtree(checkpoints, ignore_errors=True)


def _train(
    phase: Phase, spec: TrainSpec, rows: list[Row], backbone: Path, checkpoints: Path, before: Phase | None
) -> None:
    log.info("round %d of %d: %s", phase.number + 1, spec.rounds and spec.rounds.rounds, phase.adapter)
    state, folder, some = _state(checkpoints, before), checkpoints / phase.name, phase.rows(rows)
    found = _write_rationales(phase, spec, some, backbone, checkpoints, state) if phase.spec.rationales else None
    model, tokenizer = _load(spec, backbone, state, phase.adapter)
    set_seed(phase.spec.seed)
    make = grace_trainer if phase.adapter == GENERATOR else AdapterTrainer
    more = {"rationales": found} if found else {}
    trainer = build_trainer(make, model, tokenizer, phase.spec, some, folder, **more)
    fit(trainer, last_checkpoint(folder))
    whole = hardware.full_state(trainer, model)
    whole = model.state_dict() if whole is None else whole
    counted = tokens(trainer, found)
    entries = [{"round": phase.number, "adapter": phase.adapter, **entry} for entry in history(trainer)]
    processes = PartialState()
    if processes.is_main_process:
        done = {
            "weights": {name: value.cpu() for name, value in whole.items() if "lora_" in name},
            "steps": state["steps"] + trainer.state.global_step,
            "history": state["history"] + entries,
            "tokens": {name: state["tokens"][name] + counted[name] for name in counted},
            "preflight": {**state["preflight"], phase.name: trainer.preflight.record},
        }
        with writing_file(checkpoints / f"{phase.name}.pt") as temporary:
            torch.save(done, temporary)
        shutil.rmtree(folder, ignore_errors=True)
    processes.wait_for_everyone()


def _state(checkpoints: Path, phase: Phase | None) -> dict[str, Any]:
    """What a phase left: the adapters' weights by their names in the model, and counts up to its end."""
    if phase is None:
        return {"weights": {}, "steps": 0, "tokens": {"read": 0, "written": 0}, "history": [], "preflight": {}}
    return torch.load(checkpoints / f"{phase.name}.pt", map_location="cpu", weights_only=True)


def _load(spec: TrainSpec, backbone: Path, state: dict[str, Any], adapter: str) -> tuple[Any, Any]:
    """The model with both adapters as in `state`, or as the seed has them; `adapter` is on and trained."""
    set_seed(spec.seed)
    model, tokenizer = load(backbone, spec)
    if state["weights"]:
        unknown = model.load_state_dict(state["weights"], strict=False).unexpected_keys
        assert not unknown, unknown
    model.set_adapter(adapter)
    return model, tokenizer


def _write_rationales(
    phase: Phase, spec: TrainSpec, rows: list[Row], backbone: Path, checkpoints: Path, state: dict[str, Any]
) -> rationales.Rationales:
    """What the present generator writes about `rows`, by each process a share; stored beside the checkpoints."""
    assert phase.spec.rationales is not None
    encode, texts = phase.spec.rationales.encode, rationales.texts_of(rows)
    model, tokenizer = _load(spec, backbone, state, GENERATOR)
    device = hardware.device()
    dtype = torch.bfloat16 if device != "cpu" and spec.grace and spec.grace.precision == "bf16" else torch.float32
    encoder = RationaleEncoder(model.to(device, dtype), tokenizer, encode)
    known = settings(encode, phase.name, encoder.dtype, "float32", encoder.template.digest)
    with Store(checkpoints / WRITTEN, known, encoder.width) as store, writing(model):
        # Embeddings pooled while writing are the generator's, and unused: no pass with EMBEDDING is needed.
        encoder.fused = True
        rationales.complete(lambda: encoder, texts, store)
        return rationales.Rationales(texts, store)
