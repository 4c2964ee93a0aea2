"""A folder's own settings: what is given before what is saved before what is usual; old folders; crashes."""

import json
import shutil
import sys

import pytest

from grace.encoder import saved
from grace.encoder.registering import MODULE
from grace.encoder.saved import DEFAULT_POOLING, DEFAULT_PROMPT, Encode, complete, encode_settings, filling
from grace.manifest import weights_hash
from grace.section import UserError

NEW = {"grace.json", "modules.json", "config_sentence_transformers.json"}


def write(folder, **content):
    (folder / "grace.json").write_text(json.dumps(content))


def test_given_before_saved_before_usual(tmp_path):
    write(tmp_path, encode={"rationales": False, "max_new_tokens": 9}, prompt=DEFAULT_PROMPT.model_dump())
    spec = saved.read_settings(tmp_path, {"max_new_tokens": 5, "seed": None})
    assert (spec.rationales, spec.max_new_tokens, spec.seed, spec.batch_size) == (False, 5, 0, 64)
    assert spec.prompt == DEFAULT_PROMPT and spec.pooling == DEFAULT_POOLING
    write(tmp_path)
    assert saved.read_settings(tmp_path, {}).max_new_tokens == 256


@pytest.mark.parametrize(
    ("context", "content", "given", "most", "new"),
    [
        (None, {}, {}, 1024, 256),
        (1280, {}, {}, 1024, 256),
        (512, {}, {}, 410, 102),  # both defaults, in proportion
        (512, {}, {"max_new_tokens": 200}, 312, 200),
        (512, {"prompt": {"instruction": "a", "max_prompt_tokens": 400}}, {}, 400, 112),
        (512, {"encode": {"max_new_tokens": 40}}, {}, 472, 40),
        # What was asked for stays, and is refused where the model is loaded.
        (512, {}, {"max_new_tokens": 600}, 1024, 600),
        (512, {"prompt": {"instruction": "a", "max_prompt_tokens": 400}}, {"max_new_tokens": 300}, 400, 300),
    ],
)
def test_defaults_are_cut_to_the_models_context(tmp_path, caplog, context, content, given, most, new):
    write(tmp_path, **content)
    spec = saved.read_settings(tmp_path, given, context)
    assert (spec.prompt.max_prompt_tokens, spec.max_new_tokens) == (most, new)
    said = f"{tmp_path} reads 512 tokens: at most {most} of a prompt and {new} of a rationale"
    assert caplog.messages == ([said] if context == 512 and new < 300 else [])


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [({"encode": {"max_tokens": 3}}, {}, "encode.max_tokens: unknown key"), ({}, {"max_new_tokens": 0}, "max_new_tok"),
     ({"pooling": {"method": "sum"}}, {}, "pooling.method"), ({}, {"direct_prompt": "none"}, "direct_prompt"),
     ({"prompt": {"instruction": "a"}}, {}, "prompt.max_prompt_tokens: this key is missing")],
)  # fmt: skip
def test_a_wrong_setting_is_named(tmp_path, content, given, message):
    write(tmp_path, **content)
    with pytest.raises(UserError, match=message):
        saved.read_settings(tmp_path, given)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "grace.json").write_text("{")
    with pytest.raises(UserError, match=r"grace\.json: not whole"):
        saved.read_settings(tmp_path, {})


def test_a_trained_model_embeds_as_it_was_trained():
    grace = {"method": "grace", "direct_prompt": None, "generation": {"max_new_tokens": 40}}
    assert encode_settings({"stage": "train", "settings": grace}) == Encode(rationales=True, max_new_tokens=40)
    cl = {"method": "cl", "direct_prompt": "plain", "generation": None}
    assert encode_settings({"stage": "train", "settings": cl}) == Encode(rationales=False, direct_prompt="plain")
    assert encode_settings({"stage": "backbone", "settings": {}}) == encode_settings({}) == Encode()


@pytest.mark.parametrize(
    ("method", "loss", "reasons"),
    [("adapter", "direct", False), ("adapter", "half", False), ("adapter", "rationale", True),
     ("kl_fence", "direct", False), ("kl_fence", "rationale", True), ("adapter+grace", "half", True),
     ("best-of", "direct", True)],
)  # fmt: skip
def test_a_model_reasons_unasked_where_that_is_what_it_has_learnt(method, loss, reasons):
    written = {"encode": {"max_new_tokens": 33}}
    settings = {"method": method, "direct_prompt": "chat", "contrastive": {"loss": loss}, "rationales": written}
    found = encode_settings({"stage": "train", "settings": settings})
    assert found == Encode(rationales=reasons, max_new_tokens=33)
    assert encode_settings({"stage": "train", "settings": settings | {"rationales": None}}).max_new_tokens == 256


def test_an_old_folder_gets_what_it_lacks_and_keeps_its_weights(tiny_folder, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(tiny_folder, tmp_path / "old")
    before, files = weights_hash(folder), {path.name for path in folder.iterdir()}
    prompt = {"instruction": "Say it again.", "max_prompt_tokens": 60}
    write(folder, prompt=prompt)
    manifest = {"stage": "train", "settings": {"method": "simcse", "direct_prompt": "plain"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(sys, "argv", ["saved", str(folder)])
    saved.main()
    saved.main()
    assert capsys.readouterr().out == f"{folder}\n" * 2
    assert {path.name for path in folder.iterdir()} == files | NEW | {"manifest.json"}
    assert weights_hash(folder) == before and json.loads((folder / "manifest.json").read_text()) == manifest
    spec = saved.read_settings(folder, {})
    assert (spec.rationales, spec.direct_prompt, spec.prompt.model_dump()) == (False, "plain", prompt)
    assert json.loads((folder / "modules.json").read_text())[0]["type"] == MODULE


def test_what_is_set_in_a_folder_stays(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "old")
    write(folder, encode={"seed": 7})
    complete(folder)
    assert saved.read_settings(folder, {}).seed == 7


def test_another_models_modules_are_left_alone(tiny_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_folder, tmp_path / "theirs")
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer"}]')
    monkeypatch.setattr(sys, "argv", ["saved", str(folder)])
    with pytest.raises(SystemExit, match="another Sentence Transformers model"):
        saved.main()
    with pytest.raises(UserError, match=r"no config\.json"):
        complete(tmp_path)
    assert not (folder / "grace.json").exists()


def test_a_crash_leaves_the_folder_as_it_was(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("manifest.json", "model.safetensors"):
        (folder / name).write_text("old")
    with pytest.raises(OSError, match="full"), filling(folder) as temporary:
        (temporary / "model.safetensors").write_text("new")
        raise OSError("full")
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(
        ["manifest.json", "model.safetensors"], "old"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_new_weights_replace_all_old_ones(tmp_path):
    for name in ("manifest.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "notes.txt"):
        (tmp_path / name).write_text("old")
    with filling(tmp_path) as temporary:
        (temporary / "model.safetensors").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "notes.txt"]


def test_an_adapters_folder_is_completed_and_stays_an_adapters(adapted_folder, tmp_path):
    folder = shutil.copytree(adapted_folder, tmp_path / "adapter")
    (folder / "modules.json").unlink()
    before = json.loads((folder / "grace.json").read_text())
    complete(folder)
    assert json.loads((folder / "grace.json").read_text()) == before
    assert json.loads((folder / "modules.json").read_text())[0]["type"] == MODULE
