"""What is no model is one sentence; a repository of the hub becomes a folder."""

from __future__ import annotations

import json
import shutil

import pytest

from grace.cli import model
from grace.cli.model import Options, load
from grace.config.section import UserError
from grace.encoder.merge import merge
from grace.jobs.manifest import weights_hash


@pytest.fixture
def altered(tiny_folder, tmp_path):
    """Makes the tiny model's folder with other entries in a file."""

    def make(name: str, **entries):
        folder = shutil.copytree(tiny_folder, tmp_path / "model")
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps({**content, **entries}))
        return folder

    return make


def sentence(path) -> str:
    with pytest.raises(UserError) as raised:
        load(Options(model=str(path)))
    said = str(raised.value)
    assert "\n" not in said and said.endswith(".")
    return said


def test_no_model_at_the_path(tmp_path, tiny_folder):
    assert sentence(tmp_path / "none").startswith(f"{tmp_path}/none: no such folder; give a model's folder")
    assert "no such folder" in sentence("results/demo/models/tiny/grace/seed9")
    assert "it has no config.json" in sentence(tmp_path)
    assert "a file; --model takes the folder" in sentence(tiny_folder / "config.json")


@pytest.mark.parametrize(
    ("kind", "name"), [("bert", "BertForMaskedLM"), ("t5", "T5ForConditionalGeneration"), ("bert", "BertModel")]
)
def test_a_model_of_another_architecture(altered, kind, name):
    assert f"holds {kind} ({name})" in sentence(altered("config.json", model_type=kind, architectures=[name]))


def test_weights_of_another_shape(altered):
    said = sentence(altered("config.json", intermediate_size=96))
    assert "no causal language model can be loaded" in said


def test_no_weights(altered):
    folder = altered("config.json")
    (folder / "model.safetensors").unlink()
    assert "holds no *.safetensors weights" in sentence(folder)


def test_what_is_given_goes_before_what_the_folder_says(altered):
    folder = altered("grace.json", encode={"max_new_tokens": 7, "seed": 3})
    encoder, settings = load(Options(model=str(folder), seed=5))
    assert (encoder.spec.max_new_tokens, encoder.spec.seed, encoder.spec.rationales) == (7, 5, True)
    assert settings["seed"] == 5 and settings["precision"] == "float32"


def test_a_repository_is_had_from_the_hub(tiny_folder, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: asked.append(a) or str(tiny_folder))
    assert model.find("owner/name") == tiny_folder and asked == [("owner/name",)]


def test_a_repository_that_cannot_be_had(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network\nwhatsoever")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    assert sentence("owner/name").endswith("no repository that can be had from the hub (no network).")


def test_an_adapters_folder_is_a_model_that_embeds_directly_unless_asked(adapted_folder, tiny_folder, texts):
    encoder, settings = load(Options(model=str(adapted_folder), max_new_tokens=6))
    assert encoder.encode(texts).rationales is None
    assert settings["weights"] == weights_hash(adapted_folder) != weights_hash(tiny_folder)
    asked, _ = load(Options(model=str(adapted_folder), max_new_tokens=6, rationales=True))
    bare, _ = load(Options(model=str(tiny_folder), max_new_tokens=6))
    assert asked.encode(texts).rationales == bare.encode(texts).rationales


def test_what_an_adapter_cannot_do_is_one_sentence(generator_folder, adapted_folder, tmp_path):
    with pytest.raises(UserError, match="written with an adapter, which is not done by vLLM; use engine transformers"):
        load(Options(model=str(generator_folder), engine="vllm", rationales=True))
    merge(adapted_folder, tmp_path / "merged")
    with pytest.raises(UserError, match="was merged into this model, so it writes no rationales"):
        load(Options(model=str(tmp_path / "merged"), rationales=True))
    shutil.copytree(adapted_folder, tmp_path / "moved")
    at = json.loads((tmp_path / "moved/grace.json").read_text())
    at["adapter"]["base"] = "nowhere/at/all"
    (tmp_path / "moved/grace.json").write_text(json.dumps(at))
    assert "an adapter whose backbone is not there" in sentence(tmp_path / "moved")
