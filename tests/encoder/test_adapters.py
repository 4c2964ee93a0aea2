"""Adapters for pooling and for writing: in the engine, in the encoder, in a folder, merged."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM

from grace import RationaleEncoder
from grace.config.schema import Pooling
from grace.config.section import UserError
from grace.encoder import adapters, merge
from grace.encoder.adapters import EMBEDDING, GENERATOR, embedding, separate, writing
from grace.encoder.engines import forward, vllm
from grace.encoder.loading import load_model
from grace.encoder.saved import MERGED, complete
from tests.adapted import adapted
from tests.pooled import by_hand as pooled_by_hand

POOLING = Pooling(method="mean", layer="last", normalize=True)
IDS = torch.tensor([[5, 9, 60, 7, 33]])


@torch.no_grad()
def states(model):
    return model.get_decoder()(input_ids=IDS).last_hidden_state


def uses(model):
    """States of the model that pools and of the one that writes."""
    with embedding(model) as pools:
        pooled = states(pools)
    with writing(model) as writes:
        return pooled, states(writes)


def test_each_use_has_its_own_adapter_alone(tiny, tiny_folder):
    bare, _ = tiny
    model = adapted(tiny_folder, generator=True)
    expected = {}
    for name in (EMBEDDING, GENERATOR):
        model.set_adapter(name)
        expected[name] = states(model)
    assert (expected[EMBEDDING] - expected[GENERATOR]).abs().max() > 0.01
    for on in (EMBEDDING, GENERATOR):
        model.set_adapter(on)
        assert all(map(torch.equal, uses(model), expected.values()))
        assert torch.equal(states(model), expected[on])
    with model.disable_adapter():
        assert torch.equal(states(model), states(bare))
        with embedding(model) as pools:
            assert torch.equal(states(pools), expected[EMBEDDING])
        assert torch.equal(states(model), states(bare))


@pytest.mark.parametrize("generator", [False, True])
def test_nested_use_and_exceptions_restore_what_was_on(tiny_folder, generator):
    model = adapted(tiny_folder, generator)
    model.set_adapter(GENERATOR if generator else EMBEDDING)
    modules = dict(model.named_modules())
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = states(model)
    pooled, wrote = uses(model)
    assert (pooled - wrote).abs().max() > 0.01
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), writing(model) as outer:
            with embedding(model) as inner:
                assert torch.equal(states(inner), pooled)
                with writing(model) as deepest, writing(model):
                    assert torch.equal(states(deepest), wrote)
                assert torch.equal(states(inner), pooled)
            with pytest.raises(KeyError), embedding(model):
                raise KeyError
            assert torch.equal(states(outer), wrote)
            raise ZeroDivisionError
    assert torch.equal(states(model), before)
    assert dict(model.named_modules()) == modules
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained


def test_gradients_reach_the_adapter_that_pools_and_no_other(tiny_folder):
    model = adapted(tiny_folder, generator=True).train()
    model.base_model.set_adapter([EMBEDDING, GENERATOR])
    with writing(model):
        pass
    with embedding(model) as pools:
        pools.get_decoder()(input_ids=IDS).last_hidden_state.sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in model.named_parameters() if EMBEDDING in name}


def test_an_ordinary_model_is_used_as_it_is(tiny):
    model, _ = tiny
    assert not separate(model)
    with writing(model) as writes, embedding(model) as pools:
        assert writes is model and pools is model


def test_what_is_saved_is_loaded_by_the_project_and_by_peft_itself(tiny_folder, generator_folder):
    expected = uses(adapted(tiny_folder, generator=True))
    loaded, _ = load_model(generator_folder, "cpu")
    assert all(map(torch.equal, uses(loaded), expected))
    assert not any(parameter.requires_grad for name, parameter in loaded.named_parameters() if "lora_" in name)
    plain = PeftModel.from_pretrained(load_model(tiny_folder, "cpu")[0], str(generator_folder))
    assert torch.equal(states(plain), expected[0])


def test_a_saved_folder_has_no_weights_of_the_backbone_and_the_same_bytes_wherever_it_is_made(
    tiny_folder, tiny, tmp_path
):
    found = []
    for folder in (tmp_path / name / "adapter" / "seed0" for name in ("a", "b")):
        folder.mkdir(parents=True)
        base = adapters.write_model(folder, adapted(tiny_folder, generator=True), tiny[1])["adapter"].base
        found.append({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("adapter_*")})
    names = ("adapter_config.json", "adapter_model.safetensors")
    assert not (folder / "model.safetensors").exists() and not (folder / "README.md").exists()
    assert found[0] == found[1] and {*found[0]} == {f"{part}{name}" for part in ("", "generator/") for name in names}
    assert json.loads(found[0]["adapter_config.json"])["base_model_name_or_path"] == base
    for part in ("", "generator/"):
        assert all("lora_" in key for key in load(found[0][f"{part}adapter_model.safetensors"]))


def encoder(folder, **more):
    return RationaleEncoder.from_pretrained(folder, **{"max_new_tokens": 24, **more})


def by_hand(one, texts, rationales):
    """The whole sequences by peft's own model, without the engines."""
    read = one.sequences(texts, [r.token_ids for r in rationales] if rationales else None)
    one.model.set_adapter(adapters.EMBEDDING)
    return pooled_by_hand(one.model, read, one.spec.pooling).numpy()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("generator", [False, True])
def test_the_backbone_or_a_second_adapter_writes_and_the_first_pools(
    tiny_folder, adapted_folder, generator_folder, texts, generator, temperature, monkeypatch
):
    bare = encoder(tiny_folder, sampling_temperature=temperature).encode(texts)
    one = encoder(generator_folder if generator else adapted_folder, sampling_temperature=temperature)
    made = one.encode(texts, rationales=True)
    assert (made.rationales == bare.rationales) is not generator
    np.testing.assert_allclose(made.embeddings, by_hand(one, texts, made.rationales), atol=1e-5)
    assert np.abs(made.embeddings - bare.embeddings).max() > 0.01
    found = one.explain(*texts[:2], rationales=True).similarity
    assert found == pytest.approx(one.similarity(*made.embeddings[:2]).item(), abs=1e-5)
    monkeypatch.setattr(one, "write", None)  # unasked, it embeds directly and generates nothing
    made = one.encode(texts)
    assert made.rationales is None
    np.testing.assert_allclose(made.embeddings, by_hand(one, texts, None), atol=1e-5)


def test_the_model_is_free_between_two_batches(adapted_folder, texts):
    one = encoder(adapted_folder, batch_size=1)
    direct = one.encode(texts, rationales=False).embeddings
    whole = one.encode(texts, rationales=True)
    for rows, made in one.encode_batches(texts, rationales=True):
        assert one.model.active_adapters == [adapters.EMBEDDING]
        np.testing.assert_allclose(one.encode(texts, rationales=False).embeddings, direct, atol=1e-5)
        np.testing.assert_allclose(made.embeddings, whole.embeddings[rows], atol=1e-5)
        assert made.rationales == [whole.rationales[i] for i in rows]


def test_an_error_while_it_writes_leaves_nothing_switched(adapted_folder, texts, monkeypatch):
    one = encoder(adapted_folder)
    before = one.encode(texts).embeddings
    with monkeypatch.context() as patched:
        patched.setattr(forward, "embed", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.encode(texts, rationales=True)
        patched.setattr("grace.encoder.engines.transformers._Writer.step", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.encode(texts, rationales=True)
    np.testing.assert_array_equal(one.encode(texts).embeddings, before)


@pytest.mark.parametrize("generator", [False, True])
def test_saved_and_loaded_it_is_the_same(adapted_folder, generator_folder, texts, tmp_path, generator):
    one = encoder(generator_folder if generator else adapted_folder, seed=3)
    one.save(tmp_path / "saved")
    again = RationaleEncoder.from_pretrained(tmp_path / "saved")
    assert again.spec == one.spec and not (tmp_path / "saved" / "config.json").exists()
    for rationales in (True, False):
        ours, theirs = (each.encode(texts, rationales) for each in (one, again))
        np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)
        assert ours.rationales == theirs.rationales


def test_a_whole_model_and_an_adapter_may_be_saved_over_one_another(tiny_folder, generator_folder, texts, tmp_path):
    whole, adapter = encoder(tiny_folder), encoder(generator_folder)
    for one in (whole, adapter, adapter, whole):
        one.save(tmp_path)
        again = RationaleEncoder.from_pretrained(tmp_path)
        np.testing.assert_array_equal(again.encode(texts, False).embeddings, one.encode(texts, False).embeddings)
        assert (tmp_path / "config.json").exists() is (one is whole)
        assert {path.name for path in tmp_path.glob("*adapter*")} == set() or one is adapter


def test_vllm_serves_the_backbone_and_what_it_writes_is_embedded_with_the_adapter(
    tiny_folder, adapted_folder, texts, monkeypatch
):
    served = []
    stand_in = SimpleNamespace(LLM=lambda **given: served.append(given["model"]))
    platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: True))
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setattr(vllm, "require_vllm", lambda key: "0")
    one = encoder(adapted_folder)
    spec = one.spec.model_copy(update={"engine": "vllm", "rationales": True})
    by_vllm = RationaleEncoder.from_spec(adapted_folder, spec, "cpu")
    assert Path(served[0]).samefile(tiny_folder)
    made = one.encode(texts, rationales=True)
    done = [(i, rationale.token_ids) for i, rationale in enumerate(made.rationales)]
    monkeypatch.setattr(by_vllm.vllm, "generate_batches", lambda *_, **__: [vllm._written(done)])
    again = by_vllm.encode(texts)
    assert again.rationales == made.rationales
    np.testing.assert_allclose(again.embeddings, made.embeddings, atol=1e-5)


def test_vllm_does_not_write_with_an_adapter(tiny_folder, generator_folder):
    assert vllm.writer_of(tiny_folder) == tiny_folder
    spec = encoder(generator_folder).spec.model_copy(update={"engine": "vllm", "rationales": True})
    with pytest.raises(UserError, match="written with an adapter, which is not done by vLLM; use engine transformers"):
        RationaleEncoder.from_spec(generator_folder, spec)


@pytest.fixture(scope="module")
def merged(adapted_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "model"
    merge.merge(adapted_folder, out)
    return out


@pytest.mark.parametrize("folder", ["adapted_folder", "generator_folder"])
def test_it_embeds_as_the_adapter_does(request, folder, texts, tmp_path, monkeypatch, capsys):
    folder = request.getfixturevalue(folder)
    monkeypatch.setattr(sys, "argv", ["merge", str(folder), "-o", str(tmp_path)])
    merge.main()
    assert capsys.readouterr().out == f"{tmp_path}\n"
    ours = RationaleEncoder.from_pretrained(folder).encode(texts, rationales=False).embeddings
    theirs = RationaleEncoder.from_pretrained(tmp_path)
    np.testing.assert_allclose(theirs.encode(texts).embeddings, ours, atol=1e-5)
    assert not list(tmp_path.glob("*adapter*")) and (tmp_path / "config.json").exists()


def test_the_head_stays_the_backbones_where_the_table_was_adapted(tiny_folder, merged):
    bare, model = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_folder, merged))
    assert torch.equal(model.lm_head.weight, bare.lm_head.weight)
    assert not torch.allclose(model.model.embed_tokens.weight, bare.model.embed_tokens.weight, atol=0.01)


def test_asked_for_rationales_it_says_one_sentence(merged, texts, tmp_path):
    one = RationaleEncoder.from_pretrained(merged)
    one.save(tmp_path)  # it stays what it is
    complete(tmp_path)
    for ask in (
        lambda: one.encode(texts, rationales=True),
        lambda: one.explain(*texts[:2], rationales=True),
        lambda: next(one.encode_batches(texts, rationales=True)),
        lambda: RationaleEncoder.from_pretrained(merged, rationales=True),
        lambda: RationaleEncoder.from_pretrained(tmp_path, rationales=True),
        lambda: SentenceTransformer(str(merged), device="cpu").encode(texts, rationales=True),
    ):
        with pytest.raises(UserError) as told:
            ask()
        assert str(told.value) == MERGED


def test_into_the_present_folder(adapted_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merge.merge(adapted_folder, Path())
    assert (tmp_path / "model.safetensors").exists() and not [p for p in tmp_path.parent.glob(f".{tmp_path.name}*")]


def test_what_is_no_adapter_and_a_folder_that_is_there_are_refused(tiny_folder, adapted_folder, merged, tmp_path):
    for folder in (tiny_folder, merged, tmp_path / "none"):
        with pytest.raises(UserError, match="not the folder of an adapter for pooling"):
            merge.merge(folder, tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        merge.merge(adapted_folder, merged)
    assert not (tmp_path / "out").exists()
