import shutil

import numpy as np
import pytest

from grace.encoder import store
from grace.encoder.digests import digests_of
from grace.encoder.loading import load_tokenizer
from grace.files import write_json
from grace.section import UserError
from grace.use.page import effects, models
from tests.use.made_study import Study


@pytest.fixture
def study(tmp_path, tiny_folder):
    made = Study(tmp_path, 6, tiny_folder / "tokenizer.json")
    made.add("grace", np.arange(1.0, 97).reshape(12, 8), [[20 + i, 30, 2] for i in range(12)])
    made.add("reasoning", np.ones((5, 8)), [[20, 2]] * 5, folder="backbone")
    made.add("grace.step-20", np.ones((5, 8)))
    return made


def test_what_the_store_holds_of_a_run_is_found_by_its_settings(study):
    model = models.read(study.root, "tiny", "grace")
    held = models.kept(study.root, model)
    known, found = models.embeddings(held, [*study.texts, "never embedded"])
    assert known.tolist() == [True] * 12 + [False]
    wanted = np.arange(1.0, 97).reshape(12, 8)
    assert np.allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)
    assert model.trained and model.folder == study.root / "models/tiny/grace/seed0"
    assert not models.read(study.root, "tiny", "reasoning").trained


def test_the_store_is_found_whatever_the_prompt_was_rendered_to(tmp_path):
    made = Study(tmp_path / "study", 4)
    made.add("grace", np.ones((4, 8)))
    model = models.read(made.root, "tiny", "grace")
    (found,) = (made.root / "store").iterdir()
    assert models.kept(made.root, model).settings.get("template") is None
    shutil.rmtree(found)
    settings = store.settings(model.encode, model.weights, "float32", "float32", "0123456789abcdef")
    with store.Store(made.root / "store", settings, 8) as held:
        held.add(digests_of(["a"]), np.ones((1, 8), np.float32))
    assert len(models.kept(made.root, model)) == 1


def test_an_encoder_only_model_is_shown_without_rationales_and_effects(tmp_path):
    made = Study(tmp_path / "study", 4)
    weights, settings = "e" * 64, {"encode": None, "store": "float32"}
    record = {"manifest": {"settings": settings, "inputs": {"results/study/encoders/minilm": weights}}, "tasks": {}}
    write_json(made.root / "mteb/tiny/encoder/seed0/group.json", record)
    with store.Store(made.root / "store", store.settings(None, weights, "float32", "float32"), 8) as held:
        held.add(digests_of(made.texts), np.ones((8, 8), np.float32))
    model = models.read(made.root, "tiny", "encoder")
    assert len(models.kept(made.root, model)) == 8 and not model.trained and not model.writes
    with pytest.raises(UserError, match="of decoders alone"):
        effects.explained(model, models.kept(made.root, model), made.texts, np.ones(8, bool), None, 4)


def test_a_model_with_other_weights_has_no_store(study):
    model = models.read(study.root, "tiny", "grace")
    assert models.kept(study.root, model._replace(weights="0" * 64)) is None
    assert models.kept(study.root, model._replace(precision="float16")) is None


def test_rationales_are_decoded_as_the_encoder_decodes_them(study, tiny_folder):
    model = models.read(study.root, "tiny", "grace")
    held = models.kept(study.root, model)
    ids, said, cut = models.rationales(held, study.texts[:3], model.folder / "tokenizer.json")
    tokenizer = load_tokenizer(tiny_folder)
    assert ids == [[20 + i, 30, 2] for i in range(3)] and cut == [False] * 3
    assert said == [tokenizer.decode(one[:-1], clean_up_tokenization_spaces=False).strip() for one in ids]


def test_unasked_the_studys_own_runs_are_shown_in_the_usual_order(study):
    assert models.choose_runs(study.root, "tiny", None) == (["reasoning", "grace"], ["grace.step-20"])
    assert models.choose_runs(study.root, "tiny", ["grace.step-20"])[0] == ["grace.step-20"]


def test_backbones_are_named_where_there_are_several(study):
    assert models.choose_backbone(study.root, None) == "tiny"
    (study.root / "mteb/large").mkdir()
    with pytest.raises(UserError, match=r"name one with --backbone \(large, tiny\)"):
        models.choose_backbone(study.root, None)


def test_a_result_of_another_version_is_one_sentence(study):
    write_json(study.root / "mteb/tiny/grace/seed0/group.json", {"manifest": {"settings": {}, "inputs": {}}})
    with pytest.raises(UserError, match="another version"):
        models.read(study.root, "tiny", "grace")


def test_half_a_segment_is_passed_over(study):
    model = models.read(study.root, "tiny", "grace")
    for path in models.kept(study.root, model).folder.glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:50])
    assert models.kept(study.root, model) is None
