"""A saved model: what it holds, in which order it appears, and that its new files are no part of its hash."""

import json

import numpy as np
import pytest

from grace import RationaleEncoder
from grace.encoder.registering import MODULE
from grace.manifest import weights_hash
from grace.settings import Pooling
from grace.training.model_folder import save_model
from tests.training.settings import contrastive_spec, grace_spec

FILES = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
         "chat_template.jinja", "grace.json", "modules.json", "config_sentence_transformers.json",
         "manifest.json"}  # fmt: skip


def manifest(spec):
    return {
        "stage": "train", "settings": spec.model_dump(), "inputs": {}, "versions": {}, "commit": None, "hardware": {},
        "seconds": 1.0, "backbone": None, "steps": 3, "rows": 16, "history": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    "spec", [grace_spec(), contrastive_spec("cl"), contrastive_spec("simcse")], ids=lambda s: s.method
)
def test_a_trained_model_is_used_as_it_was_trained(tiny, tmp_path, texts, spec):
    pooling = Pooling(method="max", layer="last", normalize=True)
    save_model(tmp_path / "model", *tiny, manifest(spec), prompt=spec.prompt, pooling=pooling)
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES | {"README.md"}
    one = RationaleEncoder.from_pretrained(tmp_path / "model")
    assert one.spec.prompt == spec.prompt and one.spec.pooling == pooling
    assert one.spec.rationales == (spec.method == "grace") == (one.encode(texts[:2]).rationales is not None)
    if spec.generation:
        assert one.spec.max_new_tokens == spec.generation.max_new_tokens
    if spec.direct_prompt:
        assert one.spec.direct_prompt == spec.direct_prompt
    own = RationaleEncoder(*tiny, one.spec).encode(texts[:3]).embeddings
    np.testing.assert_allclose(one.encode(texts[:3]).embeddings, own, atol=1e-6)


def test_the_hash_is_that_of_the_weights_alone(tiny, tmp_path):
    spec, folder = grace_spec(), tmp_path / "model"
    save_model(folder, *tiny, {"stage": "backbone"}, prompt=spec.prompt)
    assert {path.name for path in folder.iterdir()} == FILES
    assert json.loads((folder / "modules.json").read_text()) == [{"idx": 0, "name": "0", "path": "", "type": MODULE}]
    about = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert about["similarity_fn_name"] == "cosine" and about["model_type"] == "SentenceTransformer"
    before = weights_hash(folder)
    for name in ("modules.json", "config_sentence_transformers.json", "grace.json"):
        (folder / name).unlink()
    assert weights_hash(folder) == before
    with open(folder / "config.json", "a") as config:
        config.write(" ")
    assert weights_hash(folder) != before


def test_no_manifest_of_a_model_that_is_not_whole(tiny, tmp_path, monkeypatch):
    model, tokenizer = tiny
    folder = tmp_path / "model"
    save_model(folder, model, tokenizer, {"stage": "backbone", "of": "the first"})
    monkeypatch.setattr(tokenizer, "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(folder, model, tokenizer, {"stage": "backbone", "of": "the second"})
    assert json.loads((folder / "manifest.json").read_text())["of"] == "the first"  # all of the first is still there
    assert {path.name for path in folder.iterdir()} == FILES and [path.name for path in tmp_path.iterdir()] == ["model"]
    monkeypatch.undo()
    monkeypatch.setattr("grace.training.model_folder.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(folder, model, tokenizer, {"stage": "backbone", "of": "the second"})
    assert not (folder / "manifest.json").exists()
