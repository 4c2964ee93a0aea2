"""Bringing in a backbone: a local folder for real, the hub's refusals by its own exceptions."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from grace.config import Backbone
from grace.section import UserError
from grace.specs import BackboneSpec
from grace.training import download
from tests.training.settings import PROMPT

ROOT = Path(__file__).parents[2]


def run(out, backbone):
    spec = BackboneSpec(backbone=backbone, prompt=PROMPT).model_dump_json()
    command = [sys.executable, "-m", "grace.training.download", "--spec", spec, "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_local_folder(tiny_folder, tmp_path):
    done = run(tmp_path / "model/manifest.json", Backbone(kind="local", path=str(tiny_folder)))
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "model/manifest.json").read_text())
    assert record["stage"] == "download" and (tmp_path / "model/model.safetensors").exists()


def test_no_folder(tmp_path):
    done = run(tmp_path / "model/manifest.json", Backbone(kind="local", path=str(tmp_path / "nowhere")))
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_no_chat_template_is_refused_at_once(tiny_folder, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    done = run(tmp_path / "model/manifest.json", Backbone(kind="local", path=str(folder)))
    assert done.returncode == 1 and "no chat template" in done.stderr
    assert not (tmp_path / "model/manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GatedRepoError", "accept its licence"),
        ("RepositoryNotFoundError", "knows no such model"),
        ("OSError", "failed"),
    ],
)
def test_refusals_of_the_hub(tmp_path, monkeypatch, name, said):
    from huggingface_hub import errors

    answer = SimpleNamespace(headers={}, request=None)  # what the hub's errors read of a response
    error = OSError("no route") if name == "OSError" else getattr(errors, name)("no", response=answer)

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(UserError, match=said):
        download._from_hub("some/model", None, tmp_path)
