"""A saved model: its files, the order in which they appear, and its model card."""

import json
import re

import numpy as np
import pytest

from grace import RationaleEncoder
from grace.config.schema import Pooling
from grace.encoder.registering import MODULE
from grace.jobs.manifest import weights_hash
from grace.training.model_folder import model_card, save_model
from tests.training.settings import contrastive_spec, grace_spec, offline_spec, rounds_spec

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


BACKBONE = {"kind": "hub", "id": "Qwen/Qwen2.5-0.5B-Instruct"}


def record_of(spec, backbone):
    return {
        "stage": "train", "settings": spec.model_dump(), "inputs": {"rows.jsonl": "0" * 64}, "versions": {"torch": "2"},
        "commit": "abc", "hardware": {"gpus": ["one"]}, "seconds": 12.5, "backbone": backbone, "steps": 3, "rows": 16,
        "preflight": {"seconds": 1.0, "peak_memory_gb": 2.0}, "history": [{"loss": 0.25}] * 1000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "backbone"), [(grace_spec(seed=7), BACKBONE), (contrastive_spec("cl"), {"kind": "trained", "id": None}),
                           (contrastive_spec("simcse"), None), (contrastive_spec("kl_fence", loss="rationale"), None),
                           (offline_spec(), None)],
)  # fmt: skip
def test_the_hub_reads_it(tmp_path, spec, backbone):
    from huggingface_hub import ModelCard, metadata_load

    path = tmp_path / "README.md"
    path.write_text(model_card(record_of(spec, backbone)), encoding="utf-8")
    read = ModelCard.load(path)
    rationales = spec.method in ("grace", "kl_fence", "best-of")
    assert read.data.library_name == "transformers" and read.data.license == "other"
    assert read.data.license_name and read.data.license_link and spec.method in read.data.tags
    assert read.data.base_model == (backbone or {}).get("id")
    assert metadata_load(path) == read.data.to_dict()
    assert f"rationales={rationales}" in read.text and ("rationales" in read.data.tags) == rationales
    assert "ordinary causal language model" in read.text and "RationaleEncoder.from_pretrained" in read.text


@pytest.mark.parametrize("spec", [contrastive_spec("adapter"), rounds_spec()], ids=lambda spec: spec.method)
def test_an_adapter_says_what_it_lacks(spec):
    from huggingface_hub import ModelCard

    read = ModelCard(model_card(record_of(spec, BACKBONE)))
    assert read.data.library_name == "peft" and read.data.base_model == BACKBONE["id"]
    assert "and not its backbone, which `grace.json` names" in read.text and "grace.encoder.merge" in read.text
    assert f"rationales={spec.method == 'adapter+grace'}" in read.text


def test_it_carries_the_manifest_without_the_curve():
    text = model_card(record_of(grace_spec(seed=7), BACKBONE))
    block = re.search(r"```json\n(.*?)\n```", text, re.DOTALL)
    assert block
    carried = json.loads(block[1])
    assert carried["settings"]["seed"] == 7 and carried["settings"]["reward"]["lambda2"] == 0.2
    assert carried["inputs"] and "history" not in carried
    assert "| seed | 7 |" in text and "| data | supervised, 16 rows |" in text


def test_its_example_runs(tiny_folder):
    """The lines shown, on a folder of the same form."""
    text = model_card(record_of(grace_spec(), BACKBONE))
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    names: dict = {}
    exec(code[1].replace("PATH", str(tiny_folder)), names)
    assert names["encoding"].embeddings.shape == (1, 32) and names["encoding"].rationales[0].text is not None
