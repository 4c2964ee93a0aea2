"""What a study's folder holds: its texts, models, stores and cases."""

import json
import shutil

import numpy as np
import pytest

from grace.cli.page import analysis, study_data
from grace.config.section import UserError
from grace.encoder import store
from grace.encoder.encoder import Rationale
from grace.encoder.loading import load_tokenizer
from grace.encoder.store import digests_of
from grace.jobs.files import write_json
from tests.cli.made_study import Study

ROWS = [
    {"id": "a", "query": "q1", "positive": "d1", "label": "x"},
    {"id": "b", "query": "q2", "positive": "d1", "label": "y"},
    {"id": "c", "query": "q1", "positive": "d2"},
    {"text": "d3"},
]


@pytest.fixture
def study(tmp_path, tiny_folder):
    made = Study(tmp_path, 6, tiny_folder / "tokenizer.json")
    made.add("grace", np.arange(1.0, 97).reshape(12, 8), [[20 + i, 30, 2] for i in range(12)])
    made.add("reasoning", np.ones((5, 8)), [[20, 2]] * 5, folder="backbone")
    made.add("grace.step-20", np.ones((5, 8)))
    return made


def read(root, run="grace"):
    return study_data.read_model(root, "tiny", run)


def test_equal_texts_are_one_and_keep_all_their_pairs():
    made = study_data.texts_of(ROWS)
    assert [one.text for one in made.texts] == ["q1", "q2", "d1", "d2", "d3"]
    assert made.true == [[2, 3], [2], [0, 1], [0], []]
    assert made.kinds.tolist() == [0, 0, 1, 1, 1]
    assert made.texts[2] == ("d1", study_data.DOCUMENT, "a", "x")
    left = made.where(np.array([True, True, False, True, True]))
    assert [one.text for one in left.texts] == ["q1", "q2", "d2", "d3"] and left.true == [[2], [], [0], []]


def test_a_subset_is_whole_pairs_whatever_the_order_of_rows():
    rows = [{"query": f"q{i}", "positive": f"d{i}"} for i in range(30)]

    def chosen(made):
        return {text.text for text, at in zip(made.texts, study_data.subset(made, 11), strict=True) if at}

    texts = chosen(study_data.texts_of(rows))
    assert len(texts) == 10 and all({f"q{name[1:]}", f"d{name[1:]}"} <= texts for name in texts)
    assert texts == chosen(study_data.texts_of(rows[::-1]))
    assert study_data.subset(study_data.texts_of(rows), 60).all()


def test_texts_come_from_each_split_or_from_the_task_data(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        study_data.read_texts(tmp_path / "none")
    with pytest.raises(UserError, match="no held-out texts"):
        study_data.read_texts(tmp_path)
    write_json(tmp_path / "data/tasks.json", {"test": ROWS[:1]})
    assert len(study_data.read_texts(tmp_path).texts) == 2
    for name in ("one", "two"):
        write_json(tmp_path / f"data/split/{name}/test.jsonl", None)
        (tmp_path / f"data/split/{name}/test.jsonl").write_text(json.dumps({"query": f"q {name}", "positive": name}))
    found = {(text.text, text.label) for text in study_data.read_texts(tmp_path).texts}
    assert found == {("q one", "one"), ("one", "one"), ("q two", "two"), ("two", "two")}


def test_the_embeddings_of_a_run_are_found_by_its_settings(study):
    model = read(study.root)
    known, found = study_data.read_embeddings(model.store, [*study.texts, "never embedded"])
    assert known.tolist() == [True] * 12 + [False]
    wanted = np.arange(1.0, 97).reshape(12, 8)
    assert np.allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)
    assert model.trained and model.folder == study.root / "models/tiny/grace/seed0"
    assert not read(study.root, "reasoning").trained
    for weights, precision in (("0" * 64, "float32"), (model.weights, "float16")):
        assert study_data.find_store(study.root / "store", model.encode, weights, precision) is None
    for path in model.store.folder.glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:50])
    assert read(study.root).store is None


def test_the_store_is_found_whatever_the_prompt_was_rendered_to(study):
    model = read(study.root)
    assert model.store.settings.get("template") is None
    shutil.rmtree(model.store.folder)
    settings = store.settings(model.encode, model.weights, "float32", "float32", "0123456789abcdef")
    with store.Store(study.root / "store", settings, 8) as held:
        held.add(digests_of(["a"]), np.ones((1, 8), np.float32), [Rationale("", [20, 2], False, True)])
    assert len(read(study.root).store) == 1


def test_an_encoder_only_model_is_shown_without_rationales_and_effects(tmp_path):
    made = Study(tmp_path / "study", 4)
    weights, settings = "e" * 64, {"encode": None, "store": "float32"}
    record = {"manifest": {"settings": settings, "inputs": {"results/study/encoders/minilm": weights}}, "tasks": {}}
    write_json(made.root / "mteb/tiny/encoder/seed0/group.json", record)
    with store.Store(made.root / "store", store.settings(None, weights, "float32", "float32"), 8) as held:
        held.add(digests_of(made.texts), np.ones((8, 8), np.float32))
    model = read(made.root, "encoder")
    assert len(model.store) == 8 and not model.trained and not model.writes
    with pytest.raises(UserError, match="of decoders alone"):
        analysis.compute_effects(model, made.texts, np.ones(8, bool), None, 4)


def test_rationales_are_decoded_as_the_encoder_decodes_them(study, tiny_folder):
    model = read(study.root)
    said, cut = study_data.read_rationales(model.store, study.texts[:3], model.folder / "tokenizer.json")
    tokenizer = load_tokenizer(tiny_folder)
    assert cut == [False] * 3
    assert said == [tokenizer.decode([20 + i, 30], clean_up_tokenization_spaces=False).strip() for i in range(3)]


def test_what_is_shown_by_default(study):
    assert study_data.choose_runs(study.root, "tiny", None) == (["reasoning", "grace"], ["grace.step-20"])
    assert study_data.choose_runs(study.root, "tiny", ["grace.step-20"])[0] == ["grace.step-20"]
    assert study_data.choose_backbone(study.root, None) == "tiny"
    (study.root / "mteb/large").mkdir()
    with pytest.raises(UserError, match=r"name one with --backbone \(large, tiny\)"):
        study_data.choose_backbone(study.root, None)


def test_a_result_of_another_version_is_one_sentence(study):
    write_json(study.root / "mteb/tiny/grace/seed0/group.json", {"manifest": {"settings": {}, "inputs": {}}})
    with pytest.raises(UserError, match="another version"):
        read(study.root)


def test_cases_are_in_the_order_of_training_and_other_runs_apart(tmp_path):
    Study(tmp_path, 3).add_cases()
    path = tmp_path / "cases/tiny.json"
    record = json.loads(path.read_text())
    record["cases"][0]["rationales"].reverse()
    path.write_text(json.dumps(record))
    found, why = study_data.read_cases(tmp_path, "tiny")
    assert why == "" and found["run"] == "grace"
    assert [step["step"] for step in found["cases"][0]["steps"]] == [0, 20, None]
    assert [other["run"] for other in found["cases"][0]["others"]] == ["other"]


def test_why_there_are_no_cases_is_said(tmp_path):
    assert study_data.read_cases(tmp_path, "tiny")[1].endswith("snakemake makes it (rule cases).")
    (tmp_path / "cases").mkdir()
    for text, said in (('{"manifest": {}}', "another version"), ("{", "not whole"), ('{"a": 1}', "no manifest")):
        (tmp_path / "cases/tiny.json").write_text(text)
        found, why = study_data.read_cases(tmp_path, "tiny")
        assert found is None and said in why
