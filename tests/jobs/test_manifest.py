"""The record of a result."""

import json
import shutil
import time

import pytest

from grace.config.section import UserError
from grace.config.specs import TasksSpec
from grace.jobs import manifest
from grace.jobs.files import sha256, write_json


def test_record(tmp_path, tiny_folder):
    write_json(tmp_path / "in.json", [1])
    record = manifest.make("tasks", TasksSpec(seed=3), [tmp_path / "in.json", tiny_folder], time.time() - 5, rows=7)
    assert record["stage"] == "tasks" and record["settings"] == {"version": 1, "seed": 3} and record["rows"] == 7
    assert record["inputs"][str(tmp_path / "in.json")] == sha256(tmp_path / "in.json")
    assert record["inputs"][str(tiny_folder)] == manifest.weights_hash(tiny_folder)
    assert 5 <= record["seconds"] < 60 and record["versions"]["torch"] and record["hardware"]["cpus"]


def test_weights_hash_sees_a_changed_byte(tmp_path, tiny_folder):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    assert manifest.weights_hash(copy) == manifest.weights_hash(tiny_folder)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert manifest.weights_hash(copy) != manifest.weights_hash(tiny_folder)


def test_no_weights(tmp_path):
    with pytest.raises(UserError, match="holds no"):
        manifest.weights_hash(tmp_path)


def test_a_result_without_manifest(tmp_path):
    write_json(tmp_path / "a.json", {"tasks": {}})
    with pytest.raises(UserError, match="has no manifest"):
        manifest.read_result(tmp_path / "a.json")


def test_the_hash_of_an_adapter_is_of_its_files_and_of_its_backbone(tmp_path, tiny_folder, adapted_folder):
    copy = shutil.copytree(adapted_folder, tmp_path / "copy")
    first = manifest.weights_hash(adapted_folder)
    config, settings = (json.loads((copy / name).read_text()) for name in ("adapter_config.json", "grace.json"))
    write_json(copy / "adapter_config.json", {**config, "base_model_name_or_path": "elsewhere"})
    write_json(copy / "grace.json", {**settings, "adapter": {**settings["adapter"], "base": "elsewhere"}})
    assert manifest.weights_hash(copy) == first != manifest.weights_hash(tiny_folder)
    found = {first}
    write_json(copy / "adapter_config.json", {**config, "lora_alpha": 9})
    found.add(manifest.weights_hash(copy))
    write_json(copy / "grace.json", {**settings, "adapter": {**settings["adapter"], "weights": "0" * 64}})
    found.add(manifest.weights_hash(copy))
    (copy / "adapter_model.safetensors").write_bytes(b"others")
    found.add(manifest.weights_hash(copy))
    (copy / "generator").mkdir()
    (copy / "generator/adapter_model.safetensors").write_bytes(b"of the generator")
    found.add(manifest.weights_hash(copy))
    assert len(found) == 5


def test_the_backbone_writes_for_an_adapter_unless_another_adapter_does(tiny_folder, adapted_folder, generator_folder):
    assert (
        manifest.writer_hash(adapted_folder) == manifest.writer_hash(tiny_folder) == manifest.weights_hash(tiny_folder)
    )
    assert manifest.writer_hash(generator_folder) == manifest.weights_hash(generator_folder)
