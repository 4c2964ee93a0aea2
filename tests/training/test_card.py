"""The model card: the hub's format, the run's manifest."""

import json
import re

import pytest

from grace.encoder.encoder import SETTINGS_FILE
from grace.training.card import card
from tests.training.settings import contrastive_spec, grace_spec, offline_spec, rounds_spec

BACKBONE = {"kind": "hub", "id": "Qwen/Qwen2.5-0.5B-Instruct"}


def manifest(spec, backbone):
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
    path.write_text(card(manifest(spec, backbone), SETTINGS_FILE), encoding="utf-8")
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

    read = ModelCard(card(manifest(spec, BACKBONE), SETTINGS_FILE))
    assert read.data.library_name == "peft" and read.data.base_model == BACKBONE["id"]
    assert "and not its backbone, which `grace.json` names" in read.text and "grace.encoder.merge" in read.text
    assert f"rationales={spec.method == 'adapter+grace'}" in read.text


def test_it_carries_the_manifest_without_the_curve():
    text = card(manifest(grace_spec(seed=7), BACKBONE), SETTINGS_FILE)
    block = re.search(r"```json\n(.*?)\n```", text, re.DOTALL)
    assert block
    carried = json.loads(block[1])
    assert carried["settings"]["seed"] == 7 and carried["settings"]["reward"]["lambda2"] == 0.2
    assert carried["inputs"] and "history" not in carried
    assert "| seed | 7 |" in text and "| data | supervised, 16 rows |" in text


def test_its_example_runs(tiny_folder):
    """The lines shown, on a folder of the same form."""
    text = card(manifest(grace_spec(), BACKBONE), SETTINGS_FILE)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    names: dict = {}
    exec(code[1].replace("PATH", str(tiny_folder)), names)
    assert names["encoding"].embeddings.shape == (1, 32) and names["encoding"].rationales[0].text is not None
