"""The record of a result."""

import shutil
import time

import pytest

from grace import manifest
from grace.files import sha256, write_json
from grace.section import UserError
from grace.specs import TasksSpec


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
