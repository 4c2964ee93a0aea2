"""adapter+grace: by turns the adapter that pools learns, and the adapter that writes is rewarded by its embeddings.

A round has two phases on one frozen backbone:

- adapter: the present generator writes about the round's rows, and EMBEDDING learns from what it wrote, by InfoNCE;
- policy: EMBEDDING pools and is frozen, and GRACE's policy gradient moves GENERATOR.

Each phase is a training of its own, with its own optimizer, schedule and checkpoints, that starts from the adapters as
the one before left them. A killed run goes on in the phase that it was in.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from transformers import set_seed

from grace.encoder.adapters import EMBEDDING, GENERATOR, writing
from grace.encoder.encoder import RationaleEncoder
from grace.encoder.sampling import text_key
from grace.encoder.store import Store, settings
from grace.files import writing as writing_file
from grace.settings import Contrastive
from grace.specs import EncodeSpec, RationalesSpec, TrainSpec
from grace.training import rationales, sharding
from grace.training.building import build_trainer, fit, history, load, tokens
from grace.training.checkpoints import last_checkpoint

log = logging.getLogger(__name__)
WRITTEN = "rationales"  # beside the checkpoints
Row = dict[str, Any]


class Trained(NamedTuple):
    model: tuple[Any, Any]  # with both adapters, and its tokenizer
    record: dict[str, Any]  # steps, tokens and so on, for its manifest


class Phase(NamedTuple):
    number: int  # of the round, from 0
    adapter: str  # that is trained
    spec: TrainSpec  # of the phase as a training of its own

    @property
    def name(self) -> str:
        return f"round{self.number}-{self.adapter}"


def phases(spec: TrainSpec) -> list[Phase]:
    """All phases of a run, in their order."""
    assert spec.rounds is not None
    return [
        Phase(number, adapter, part(spec, text_key(spec.seed, number, adapter) % (1 << 31)))
        for number in range(spec.rounds.rounds)
        for adapter, part in ((EMBEDDING, _contrastive), (GENERATOR, _policy))
        if adapter == GENERATOR or spec.rounds.adapter_steps
    ]


def _contrastive(spec: TrainSpec, seed: int) -> TrainSpec:
    assert spec.contrastive is not None and spec.grace is not None and spec.generation is not None
    shared = {"processes": spec.grace.processes, "lora": spec.contrastive.lora}
    encode = EncodeSpec(
        prompt=spec.prompt, pooling=spec.pooling, rationales=True, direct_prompt=spec.direct_prompt or "chat",
        max_new_tokens=spec.generation.max_new_tokens, sampling_temperature=spec.generation.sampling_temperature,
        batch_size=spec.generation.batch_size, compile=spec.generation.compile, seed=seed,
    )  # fmt: skip
    written = RationalesSpec(data=spec.data, rows=spec.contrastive.rows, store="float32", encode=encode)
    changes = {
        "method": "adapter", "seed": seed, "rationales": written if spec.contrastive.rationales else None,
        "contrastive": Contrastive(**{**spec.contrastive.model_dump(), **shared}),
        "grace": None, "generation": None, "reward": None, "rounds": None,
    }  # fmt: skip
    return spec.model_copy(update=changes)


def _policy(spec: TrainSpec, seed: int) -> TrainSpec:
    changes = {"method": "grace", "seed": seed, "contrastive": None, "rationales": None, "rounds": None}
    return spec.model_copy(update=changes)


def rows_of(phase: Phase, rows: list[Row]) -> list[Row]:
    """What a phase trains on: an adapter the next rows of the order of `rationales.sample`, from the start when they
    are used up; the policy all rows."""
    if phase.spec.contrastive is None or phase.spec.contrastive.rows is None:
        return rows
    return rationales.sample(rows, phase.spec.contrastive.rows, phase.number)


def train_in_rounds(spec: TrainSpec, rows: list[Row], backbone: Path, checkpoints: Path) -> Trained:
    """Train all phases, or those that a killed run has left; every process calls this."""
    order = phases(spec)
    done = [phase for phase in order if (checkpoints / f"{phase.name}.pt").exists()]
    left, last = order[len(done) :], done[-1] if done else None
    found = last_checkpoint(checkpoints / left[0].name) if left else None
    resumed = f"{left[0].name}/{Path(found).name}" if found else last and last.name
    if resumed is None and left and (checkpoints / WRITTEN).exists():
        resumed = f"{left[0].name}/{WRITTEN}"
    for phase in left:
        _train(phase, spec, rows, backbone, checkpoints, last)
        last = phase
    at = _state(checkpoints, last)
    model, tokenizer = _load(spec, backbone, at, EMBEDDING)
    record = {name: at[name] for name in ("steps", "tokens", "history", "preflight")}
    return Trained((model.eval(), tokenizer), {"resumed_from": resumed, **record})


def _train(
    phase: Phase, spec: TrainSpec, rows: list[Row], backbone: Path, checkpoints: Path, before: Phase | None
) -> None:
    log.info("round %d of %d: %s", phase.number + 1, spec.rounds and spec.rounds.rounds, phase.adapter)
    at, folder = _state(checkpoints, before), checkpoints / phase.name
    some = rows_of(phase, rows)
    found = _written(phase, spec, some, backbone, checkpoints, at) if phase.spec.rationales else None
    model, tokenizer = _load(spec, backbone, at, phase.adapter)
    set_seed(phase.spec.seed)
    trainer = build_trainer(model, tokenizer, phase.spec, some, folder, found)
    fit(trainer, last_checkpoint(folder))
    state = sharding.full_state(trainer, model)
    every = model.state_dict() if state is None else state
    weights = {name: value.cpu() for name, value in every.items() if "lora_" in name}
    counted = tokens(trainer, found)
    entries = [{"round": phase.number, "adapter": phase.adapter, **entry} for entry in history(trainer)]
    processes = PartialState()
    if processes.is_main_process:
        done = {
            "weights": weights, "steps": at["steps"] + trainer.state.global_step, "history": at["history"] + entries,
            "tokens": {name: at["tokens"][name] + counted[name] for name in counted},
            "preflight": {**at["preflight"], phase.name: trainer.preflight.record},
        }  # fmt: skip
        with writing_file(checkpoints / f"{phase.name}.pt") as temporary:
            torch.save(done, temporary)
        shutil.rmtree(folder, ignore_errors=True)
    processes.wait_for_everyone()


def _state(checkpoints: Path, phase: Phase | None) -> dict[str, Any]:
    """What a phase left: the adapters' weights by their names in the model, and counts up to its end."""
    if phase is None:
        return {"weights": {}, "steps": 0, "tokens": {"read": 0, "written": 0}, "history": [], "preflight": {}}
    return torch.load(checkpoints / f"{phase.name}.pt", map_location="cpu", weights_only=True)


def _load(spec: TrainSpec, backbone: Path, at: dict[str, Any], adapter: str) -> tuple[Any, Any]:
    """The model with both adapters as in `at`, or as the seed has them, of which `adapter` is on and trained."""
    set_seed(spec.seed)
    model, tokenizer = load(backbone, spec)
    if at["weights"]:
        unknown = model.load_state_dict(at["weights"], strict=False).unexpected_keys
        assert not unknown, unknown
    model.set_adapter(adapter)
    return model, tokenizer


def _written(
    phase: Phase, spec: TrainSpec, rows: list[Row], backbone: Path, checkpoints: Path, at: dict[str, Any]
) -> rationales.Rationales:
    """What the present generator writes about `rows`, by each process a share; it lies beside the checkpoints."""
    assert phase.spec.rationales is not None
    encode, texts = phase.spec.rationales.encode, rationales.texts_of(rows)
    model, tokenizer = _load(spec, backbone, at, GENERATOR)
    place = rationales.device()
    kind = torch.bfloat16 if place != "cpu" and spec.grace and spec.grace.precision == "bf16" else torch.float32
    encoder = RationaleEncoder(model.to(place, kind), tokenizer, encode)
    known = settings(encode, phase.name, encoder.dtype, "float32", encoder.template.digest)
    with Store(checkpoints / WRITTEN, known, encoder.width) as store, writing(model):
        # What is pooled on the way is the generator's, and nobody asks for it: no pass with EMBEDDING is needed.
        encoder.fused = True
        rationales.complete(lambda: encoder, texts, store)
        return rationales.Rationales(texts, store)
