"""A folder's own settings; old folders; crashes; the backbone of an adapter's folder."""

import json
import shutil
import sys

import pytest
from safetensors.torch import load_file, save_file

from grace import RationaleEncoder
from grace.config.section import UserError
from grace.encoder import adapters, saved
from grace.encoder.loading import check_model, load_model
from grace.encoder.registering import MODULE
from grace.encoder.saved import (
    DEFAULT_POOLING,
    DEFAULT_PROMPT,
    Encode,
    adapter_of,
    backbone_of,
    backbone_reference,
    complete,
    encode_settings,
    filling,
)
from grace.jobs.files import write_json
from grace.jobs.manifest import weights_hash
from tests.adapted import adapted, save_adapted

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
    write(folder, encode={"seed": 7})
    complete(folder)
    assert saved.read_settings(folder, {}).seed == 7  # what is set in a folder stays


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
    folder, before = tmp_path / "model", {"manifest.json": "old", "model.safetensors": "old"}
    folder.mkdir()
    for name, content in before.items():
        (folder / name).write_text(content)
    with pytest.raises(OSError, match="full"), filling(folder) as temporary:
        (temporary / "model.safetensors").write_text("new")
        raise OSError("full")
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
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


@pytest.fixture
def study(tiny_folder, tmp_path):
    """(backbone, adapter) as a study's folders lie."""
    backbone = shutil.copytree(tiny_folder, tmp_path / "models" / "backbone" / "seed0")
    adapter = tmp_path / "models" / "adapter" / "seed0"
    adapter.mkdir(parents=True)
    return backbone, save_adapted(backbone, adapter, generator=False)


def point(folder, **at):
    settings = json.loads((folder / "grace.json").read_text())
    settings["adapter"] |= at
    write_json(folder / "grace.json", settings)


def test_the_backbone_of_a_study_is_named_relative_to_the_adapter_so_that_both_can_be_moved(study, tmp_path):
    backbone, adapter = study
    assert adapter_of(adapter).base == "../../backbone/seed0"
    (tmp_path / "link").symlink_to(adapter)
    assert backbone_of(tmp_path / "link").samefile(backbone)
    moved = shutil.move(tmp_path / "models", tmp_path / "elsewhere")
    assert backbone_of(tmp_path / "elsewhere" / "adapter" / "seed0").samefile(moved / "backbone" / "seed0")
    load_model(moved / "adapter" / "seed0", "cpu")


def test_a_backbone_far_away_is_named_by_its_whole_path(tiny_folder, tmp_path):
    folder = tmp_path / "a" / "b" / "c" / "d"
    at = backbone_reference(folder, str(tiny_folder))
    assert at.base == str(tiny_folder.resolve()) and at.weights == weights_hash(tiny_folder)


@pytest.mark.parametrize("look", [check_model, load_model, RationaleEncoder.from_pretrained])
def test_another_backbone_and_a_missing_one_are_one_sentence(study, look):
    backbone, adapter = study
    look(adapter)
    weights = load_file(backbone / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1e-6
    save_file(weights, backbone / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"an adapter over another backbone than .*which it was not trained on") as told:
        look(adapter)
    assert "\n" not in str(told.value)
    shutil.rmtree(backbone)
    said = f"{adapter}: an adapter whose backbone is not there; put it at {backbone}"
    with pytest.raises(UserError, match=said) as told:
        look(adapter)
    assert "\n" not in str(told.value)


def test_a_backbone_may_be_named_by_its_whole_path_or_by_hand(study, tmp_path):
    backbone, adapter = study
    moved = shutil.move(backbone, tmp_path / "else")
    point(adapter, base=str(moved))
    load_model(adapter, "cpu")
    point(adapter, weights="0" * 64)
    with pytest.raises(UserError, match="another backbone"):
        load_model(adapter, "cpu")
    point(adapter, basis="x")
    with pytest.raises(UserError, match=r"grace\.json: adapter\.basis: unknown key"):
        load_model(adapter, "cpu")


def test_missing_peft_and_an_adapter_of_peft_alone_are_one_sentence(study, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(adapters.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match="is an adapter, which peft loads; install it: pip install peft"):
            load_model(study[1], "cpu")
    (study[1] / "grace.json").unlink()
    for look in (check_model, load_model):
        with pytest.raises(UserError, match=r"an adapter without a grace\.json that names its backbone"):
            look(study[1])


def test_an_adapter_whose_backbone_was_made_in_memory_cannot_be_saved(tiny_folder, tiny, tmp_path):
    model = adapted(tiny_folder)
    model.get_base_model().name_or_path = ""
    with pytest.raises(UserError, match="an adapter cannot be saved"):
        adapters.write_model(tmp_path, model, tiny[1])


def test_a_backbone_on_the_hub_is_fetched(study, tmp_path, monkeypatch):
    backbone, adapter = study
    moved = shutil.move(backbone, tmp_path / "fetched")
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(moved))
    point(adapter, base="owner/tiny")
    load_model(adapter, "cpu")
    assert {*asked} == {"owner/tiny"}
    expected = {"base": "owner/tiny", "weights": weights_hash(moved)}
    assert backbone_reference(adapter, "owner/tiny").model_dump() == expected


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"])
def test_a_broken_adapter_is_one_sentence(study, name):
    (study[1] / name).write_text("{")
    with pytest.raises(UserError, match=f"{study[1]}: no (adapter|tokenizer) can be loaded from here") as told:
        load_model(study[1], "cpu")
    assert "\n" not in str(told.value)
