"""The encoder of an adapter's folder: the backbone's rationales, the adapter's embeddings, in every way of asking."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from grace import RationaleEncoder
from grace.encoder import adapters
from grace.encoder.engines import packed, vllm
from grace.section import UserError
from tests.pooled import by_hand as pooled_by_hand


def encoder(folder, **more):
    return RationaleEncoder.from_pretrained(folder, **{"max_new_tokens": 24, **more})


def by_hand(one, texts, rationales):
    """The whole sequences by peft's own model, without the engines."""
    read = one.sequences(texts, [r.token_ids for r in rationales] if rationales else None)
    one.model.set_adapter(adapters.EMBEDDING)
    return pooled_by_hand(one.model, read, one.spec.pooling).numpy()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rationales_are_the_backbones_and_embeddings_the_adapters(tiny_folder, adapted_folder, texts, temperature):
    bare = encoder(tiny_folder, sampling_temperature=temperature).encode(texts)
    one = encoder(adapted_folder, sampling_temperature=temperature)
    made = one.encode(texts, rationales=True)
    assert made.rationales == bare.rationales
    np.testing.assert_allclose(made.embeddings, by_hand(one, texts, made.rationales), atol=1e-5)
    assert np.abs(made.embeddings - bare.embeddings).max() > 0.01


def test_a_second_adapter_writes_and_does_not_pool(tiny_folder, generator_folder, texts):
    one = encoder(generator_folder)
    made = one.encode(texts, rationales=True)
    assert made.rationales != encoder(tiny_folder).encode(texts).rationales
    np.testing.assert_allclose(made.embeddings, by_hand(one, texts, made.rationales), atol=1e-5)


def test_without_asking_it_embeds_directly_and_generates_nothing(adapted_folder, texts, monkeypatch):
    one = encoder(adapted_folder)
    monkeypatch.setattr(one, "write", None)
    made = one.encode(texts)
    assert made.rationales is None
    np.testing.assert_allclose(made.embeddings, by_hand(one, texts, None), atol=1e-5)


def test_written_rationales_are_embedded_as_if_they_were_written_now(adapted_folder, texts):
    one = encoder(adapted_folder)
    made = one.encode(texts, rationales=True)
    seen = []
    for rows, again in one.encode_written(texts, [r.token_ids for r in made.rationales]):
        np.testing.assert_allclose(again.embeddings, made.embeddings[rows], atol=1e-5)
        assert again.rationales == [made.rationales[i] for i in rows]
        seen += rows
    assert sorted(seen) == list(range(len(texts)))


@pytest.mark.parametrize("rationales", [True, False])
def test_explanations_are_of_the_cosine_that_it_gives(adapted_folder, texts, rationales):
    one = encoder(adapted_folder)
    made = one.encode(texts[:2], rationales=rationales).embeddings
    assert one.explain(*texts[:2], rationales).similarity == pytest.approx(one.similarity(*made).item(), abs=1e-5)


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
        patched.setattr(packed, "embed", lambda *_, **__: 1 / 0)
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
    monkeypatch.setattr(by_vllm.vllm, "generate_batches", lambda *_, ends, **__: [vllm._written(done, ends)])
    again = by_vllm.encode(texts)
    assert again.rationales == made.rationales
    np.testing.assert_allclose(again.embeddings, made.embeddings, atol=1e-5)


def test_vllm_does_not_write_with_an_adapter(tiny_folder, generator_folder):
    assert vllm.writer_of(tiny_folder) == tiny_folder
    spec = encoder(generator_folder).spec.model_copy(update={"engine": "vllm", "rationales": True})
    with pytest.raises(UserError, match="written with an adapter, which is not done by vLLM; use engine transformers"):
        RationaleEncoder.from_spec(generator_folder, spec)
