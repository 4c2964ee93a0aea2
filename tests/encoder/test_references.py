"""Which backbone an adapter's folder belongs to: found where it is named, refused where it is another."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from grace import RationaleEncoder
from grace.encoder import adapters
from grace.encoder.inputs import check_model
from grace.encoder.loading import load_model
from grace.encoder.references import backbone_of, reference
from grace.encoder.saved import described
from grace.files import write_json
from grace.manifest import weights_hash
from grace.section import UserError
from tests.adapted import adapted, save_adapted


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
    _, adapter = study
    assert described(adapter).base == "../../backbone/seed0"
    moved = shutil.move(tmp_path / "models", tmp_path / "elsewhere")
    assert backbone_of(tmp_path / "elsewhere" / "adapter" / "seed0").samefile(moved / "backbone" / "seed0")
    load_model(moved / "adapter" / "seed0", "cpu")


def test_an_adapter_may_be_named_by_a_link(study, tmp_path):
    backbone, adapter = study
    (tmp_path / "link").symlink_to(adapter)
    assert backbone_of(tmp_path / "link").samefile(backbone)


def test_a_backbone_far_away_is_named_by_its_whole_path(tiny_folder, tmp_path):
    folder = tmp_path / "a" / "b" / "c" / "d"
    at = reference(folder, str(tiny_folder))
    assert at.base == str(tiny_folder.resolve()) and at.weights == weights_hash(tiny_folder)


def test_an_ordinary_model_names_no_backbone(tiny_folder):
    assert described(tiny_folder) is None


@pytest.mark.parametrize("look", [check_model, load_model, RationaleEncoder.from_pretrained])
def test_a_missing_backbone_is_one_sentence(study, look):
    backbone, adapter = study
    shutil.rmtree(backbone)
    with pytest.raises(
        UserError, match=f"{adapter}: an adapter whose backbone is not there; put it at {backbone}"
    ) as told:
        look(adapter)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("look", [check_model, load_model, RationaleEncoder.from_pretrained])
def test_another_backbone_than_it_was_trained_on_is_one_sentence(study, look):
    backbone, adapter = study
    look(adapter)
    weights = load_file(backbone / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1e-6
    save_file(weights, backbone / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"an adapter over another backbone than .*which it was not trained on") as told:
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


def test_missing_peft_is_one_sentence(study, monkeypatch):
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="is an adapter, which peft loads; install it: pip install peft"):
        load_model(study[1], "cpu")


def test_an_adapter_of_peft_alone_is_one_sentence(study):
    (study[1] / "grace.json").unlink()
    for look in (check_model, load_model):
        with pytest.raises(UserError, match=r"an adapter without a grace\.json that names its backbone"):
            look(study[1])


def test_an_adapter_whose_backbone_was_made_in_memory_cannot_be_saved(tiny_folder, tmp_path):
    model = adapted(tiny_folder)
    model.get_base_model().name_or_path = ""
    with pytest.raises(UserError, match="an adapter cannot be saved"):
        adapters.save(tmp_path, model)


def test_a_backbone_on_the_hub_is_fetched(study, tmp_path, monkeypatch):
    backbone, adapter = study
    moved = shutil.move(backbone, tmp_path / "fetched")
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(moved))
    point(adapter, base="owner/tiny")
    load_model(adapter, "cpu")
    assert {*asked} == {"owner/tiny"}
    assert reference(adapter, "owner/tiny").model_dump() == {"base": "owner/tiny", "weights": weights_hash(moved)}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"])
def test_a_broken_adapter_is_one_sentence(study, name):
    (study[1] / name).write_text("{")
    with pytest.raises(UserError, match=f"{study[1]}: no (adapter|tokenizer) can be loaded from here") as told:
        load_model(study[1], "cpu")
    assert "\n" not in str(told.value)
