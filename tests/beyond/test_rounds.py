"""adapter+grace: which adapter a phase moves, what it learns from, what a control deals, where a kill goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from grace import RationaleEncoder
from grace.beyond import rounds
from grace.beyond.rounds import phases
from grace.config.section import UserError
from grace.encoder.adapters import EMBEDDING, GENERATOR, embedding, writing
from grace.encoder.engines import forward
from grace.encoder.engines import transformers as engine
from grace.encoder.reads import Read
from grace.encoder.sampling import text_key
from grace.training import hardware
from grace.training.rationales import sample
from grace.training.run import build_trainer
from grace.training.trainer import grace_trainer
from tests.training import settings
from tests.training.settings import POOLING, rounds_spec, rows

DATA = rows(32)


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    """A run that nobody kills, and of each of its phases (phase, rationales, weights before, weights after)."""
    out, seen, learnt = tmp_path_factory.mktemp("whole"), [], []
    train, build = rounds._train, rounds.build_trainer

    def watched(phase, spec, data, backbone, checkpoints, before):
        old, _ = rounds._load(spec, backbone, rounds._state(checkpoints, before), phase.adapter)
        train(phase, spec, data, backbone, checkpoints, before)
        state = {name: value.clone() for name, value in old.state_dict().items() if "lora_" in name}
        seen.append((phase, learnt[-1], state, rounds._state(checkpoints, phase)["weights"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "_train", watched)
        patch.setattr(
            rounds,
            "build_trainer",
            lambda *given, **more: (learnt.append(more.get("rationales")), build(*given, **more))[1],
        )
        return trained(tiny_folder, out, "model"), seen


def trained(backbone, folder, name, spec=None):
    return settings.trained(backbone, folder, name, spec or rounds_spec(), DATA)


def test_each_phase_moves_its_own_adapter_and_no_other(whole):
    moved = []
    for phase, _, before, after in whole[1]:
        assert before.keys() == after.keys()
        names = {name for name in after if not torch.equal(before[name], after[name])}
        moved.append((phase.name, {part for part in (EMBEDDING, GENERATOR) for name in names if f".{part}" in name}))
    assert moved == [
        ("round0-embedding", {EMBEDDING}), ("round0-generator", {GENERATOR}),
        ("round1-embedding", {EMBEDDING}), ("round1-generator", {GENERATOR}),
    ]  # fmt: skip
    record = json.loads((whole[0] / "manifest.json").read_text())
    assert record["steps"] == 8 and len(record["preflight"]) == 4
    assert {(entry["round"], entry["adapter"]) for entry in record["history"]} == {
        (number, adapter) for number in (0, 1) for adapter in (EMBEDDING, GENERATOR)
    }


def test_a_round_learns_from_what_the_present_generator_writes(tiny_folder, whole):
    """Its rationales are those of the model with GENERATOR as the round before left it."""
    for number in (0, 2):
        phase, found, before, _ = whole[1][number]
        texts = [row["positive"] for row in phase.rows(DATA)]
        model, tokenizer = rounds._load(rounds_spec(), tiny_folder, {"weights": before}, GENERATOR)
        encoder = RationaleEncoder(model, tokenizer, phase.spec.rationales.encode)
        assert found(texts) == [r.token_ids for r in encoder.encode(texts, True).rationales]
        if number == 0:  # it has not moved yet
            bare = RationaleEncoder.from_spec(tiny_folder, phase.spec.rationales.encode, "cpu")
            assert found(texts) == [r.token_ids for r in bare.encode(texts, True).rationales]


def test_rounds_go_through_the_rows_in_the_order_of_the_other_methods():
    spec = rounds_spec()
    first, _, second, _ = phases(spec)
    order = sample(DATA, None)
    assert first.rows(DATA) == order[:16] and second.rows(DATA) == order[16:]
    assert second.rows(DATA[:20]) == sample(DATA[:20], None)[16:] + sample(DATA[:20], None)[:12]
    assert phases(spec)[1].rows(DATA) == DATA
    assert len({phase.spec.seed for phase in phases(spec)}) == 4


def trainer_of(folder, tmp_path, **changes):
    spec = rounds_spec(**changes)
    model, tokenizer = rounds._load(spec, folder, rounds._state(tmp_path, None), GENERATOR)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    phase = phases(spec)[1]
    return build_trainer(grace_trainer, model, tokenizer, phase.spec, DATA, tmp_path / "run"), model


def test_the_policy_writes_and_another_adapter_pools(tiny_folder, tmp_path):
    trainer, model = trainer_of(tiny_folder, tmp_path)
    trainer.rows = [row for row in list(trainer.train_dataset)[:2] for _ in range(trainer.num_generations)]
    prompts, _, _ = trainer._tokenize_prompts([row["prompt"] for row in trainer.rows])
    written, _ = trainer._generate_single_turn(prompts, None, {}, trainer.num_generations)
    start = len(trainer.template.prefix)
    read = [Read(p + r[:-1], start, len(p + r) - 1) for p, r in zip(prompts, written, strict=True)]
    with embedding(model) as pools:
        expected = forward.embed(pools, read, pooling=POOLING)
    np.testing.assert_allclose(trainer.embeddings.positives.flatten(0, 1), expected, atol=1e-5)
    with writing(model) as writer:
        other = forward.embed(writer, read, pooling=POOLING)
        keys = [text_key(trainer.spec.seed, 0, "rollout", row["id"], i % 4) for i, row in enumerate(trainer.rows)]
        again = engine.generate(
            writer, prompts, pool_from=start, pooling=POOLING, keys=keys, temperatures=[1.0] * 8, max_new_tokens=12,
            ends=trainer.ends, batch_size=20,
        )  # fmt: skip
    assert (other - expected).abs().max() > 0.01 and again.token_ids == written
    assert [name for name, p in model.named_parameters() if p.requires_grad and f".{GENERATOR}" not in name] == []


def test_a_run_that_is_killed_twice_goes_on_in_its_round_and_phase(tiny_folder, tmp_path, monkeypatch, whole):
    """After the first step of the first policy, and before the first of the second round: no phase is trained twice."""
    build, names = rounds.build_trainer, [phase.name for phase in phases(rounds_spec())]
    calls: list[str] = []

    def dying(name, after):
        def built(*given, **more):
            calls.append(Path(given[5]).name)
            trainer = build(*given, **more)
            step = trainer.training_step

            def training_step(*arguments, **keywords):
                if calls[-1] == name and trainer.state.global_step == after:
                    raise KeyboardInterrupt
                return step(*arguments, **keywords)

            trainer.training_step = training_step
            return trainer

        return built

    for name, after, begun in ((names[1], 1, names[:2]), (names[2], 0, names[1:3]), (None, 0, names[2:])):
        calls.clear()
        monkeypatch.setattr(rounds, "build_trainer", dying(name, after))
        if name:
            with pytest.raises(KeyboardInterrupt):
                trained(tiny_folder, tmp_path, "killed")
            assert not (tmp_path / "killed/manifest.json").exists()
        else:
            out = trained(tiny_folder, tmp_path, "killed")
        assert calls == begun
    record, expected = (json.loads((folder / "manifest.json").read_text()) for folder in (out, whole[0]))
    assert record["resumed_from"] == names[1]
    assert record["tokens"] == expected["tokens"] and record["steps"] == expected["steps"]
    for file in ("adapter_model.safetensors", "generator/adapter_model.safetensors"):
        one, two = load_file(out / file), load_file(whole[0] / file)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one), file
    assert not list(tmp_path.glob("killed-checkpoints/*/*"))


def test_rationales_of_a_killed_run_are_told_of_since_their_time_is_not_known(tiny_folder, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(rounds, "build_trainer", killed)
        trained(tiny_folder, tmp_path, "killed")
    out = trained(tiny_folder, tmp_path, "killed")
    assert json.loads((out / "manifest.json").read_text())["resumed_from"] == "round0-embedding/rationales"


def test_without_steps_of_its_own_the_frozen_backbone_embeds(tiny_folder, tmp_path, texts):
    spec = rounds_spec()
    short = spec.rounds.model_copy(update={"adapter_steps": 0})
    free = spec.contrastive.model_copy(update={"max_steps": None})
    spec = spec.model_copy(
        update={
            "rounds": short,
            "contrastive": free,
        }
    )
    assert [phase.name for phase in phases(spec)] == ["round0-generator", "round1-generator"]
    folder = trained(tiny_folder, tmp_path, "apart", spec)
    assert json.loads((folder / "manifest.json").read_text())["steps"] == 4
    pools, writes = (load_file(folder / at / "adapter_model.safetensors") for at in ("", GENERATOR))
    assert not any(value.any() for name, value in pools.items() if "lora_B" in name)
    assert any(value.abs().max() > 1e-4 for name, value in writes.items() if "lora_B" in name)
    ours, bare = (
        RationaleEncoder.from_spec(at, phases(rounds_spec())[0].spec.rationales.encode, "cpu")
        for at in (folder, tiny_folder)
    )
    made = ours.encode(texts)
    expected = np.zeros_like(made.embeddings)
    for at, again in bare.encode_written(texts, [r.token_ids for r in made.rationales]):
        expected[at] = again.embeddings
    np.testing.assert_allclose(made.embeddings, expected, atol=1e-5)


def test_the_folder_holds_both_adapters_and_no_backbone(whole, texts):
    folder = whole[0]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"adapter_config.json", "adapter_model.safetensors", "generator/adapter_config.json"} <= files
    assert not files & {"config.json", "model.safetensors"}
    record = json.loads((folder / "manifest.json").read_text())
    assert record["tokens"]["read"] > record["tokens"]["written"] > 0
    made = RationaleEncoder.from_pretrained(folder, device="cpu").encode(texts)
    assert made.rationales and np.isfinite(made.embeddings).all()
    assert "Two low-rank adapters" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep_steps": [1]}, "config: ablations: adapter-grace trains in rounds"),
        ({"grace": {"lora": None}}, "config: grace.lora: adapter\\+grace trains an adapter here"),
        ({"contrastive": {"lora": None}}, "config: adapter.lora: adapter\\+grace trains an adapter here"),
    ],
)
def test_what_it_cannot_do_is_a_sentence(changes, said):
    spec = rounds_spec()
    for name, value in changes.items():
        at = getattr(spec, name)
        spec = spec.model_copy(update={name: at.model_copy(update=value) if isinstance(value, dict) else value})
    with pytest.raises(UserError, match=said):
        hardware.check(spec)
