"""The folder as a SentenceTransformer: our embeddings, in all ways in which others ask for them."""

import importlib
import json
import shutil
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from grace import RationaleEncoder
from grace.config.section import UserError
from grace.encoder import registering
from grace.encoder.registering import MODULE, Classes, Finder, register
from grace.encoder.saved import complete
from grace.jobs.files import write_jsonl

TEXTS = ["Compute the inverse of a matrix.", "", "Sort a list of strings. " * 9, "Draw samples", "\ud800 socket", "sum"]


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """As a trained model's: a short budget, so that rationales are cut and some end."""
    made = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("sentence") / "model")
    (made / "grace.json").write_text(json.dumps({"encode": {"max_new_tokens": 12, "seed": 3}}))
    complete(made)
    return made


@pytest.fixture(scope="module")
def ours(folder):
    return RationaleEncoder.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    return SentenceTransformer(str(folder), device="cpu")


def near(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)


def test_embeddings_are_ours_whatever_the_batch(model, ours):
    expected = ours.encode(TEXTS).embeddings
    assert np.abs(ours.encode(TEXTS, rationales=False).embeddings - expected).max() > 0.01
    for batch_size in (1, 2, 32):
        near(model.encode(TEXTS, batch_size=batch_size), expected)
    near(model.encode(TEXTS[::-1]), expected[::-1])
    near(model.encode(TEXTS[3]), expected[3])
    near(model.encode_query(TEXTS), expected)
    near(model.encode_document(TEXTS, convert_to_tensor=True), expected)
    near(model.encode(TEXTS, rationales=False), ours.encode(TEXTS, rationales=False).embeddings)
    near(model.encode(TEXTS, prompt="a "), ours.encode(["a " + text for text in TEXTS]).embeddings)
    near(model.similarity(expected, expected[:2]), ours.similarity(expected, expected[:2]))
    assert model.similarity_fn_name == "cosine" and len(model.encode([])) == 0


def test_what_integrations_ask_for(model, ours):
    assert model.get_embedding_dimension() == ours.width == 32 and model.max_seq_length == 1024
    near(model.encode(TEXTS, truncate_dim=8), ours.encode(TEXTS).embeddings[:, :8])
    assert model.tokenizer is model[0].tokenizer and model.transformers_model is model[0].model
    with pytest.raises(TypeError, match="text 0 is a int"):
        model.encode([1, 2])


def test_mteb_evaluates_it(model, ours, tmp_path):
    import mteb

    from grace.evaluation.mteb_tasks import get_tasks

    pairs = enumerate(pairwise([*TEXTS, "sum of a list", "a matrix"]))
    rows = [{"sentence1": a, "sentence2": b, "score": float(i)} for i, (a, b) in pairs if "\ud800" not in a + b]
    write_jsonl(tmp_path / "test.jsonl", rows)
    tasks = get_tasks(["STSBenchmark"], local={"STSBenchmark": str(tmp_path)})
    result = mteb.evaluate(model, tasks, cache=None, show_progress_bar=False, co2_tracker=False)
    ((scores,),) = result.task_results[0].scores.values()
    a, b = (ours.encode([row[side] for row in rows]).embeddings for side in ("sentence1", "sentence2"))
    cosines = [ours.similarity(x, y)[0, 0] for x, y in zip(a, b, strict=True)]
    assert scores["main_score"] == pytest.approx(spearmanr(cosines, [row["score"] for row in rows])[0], abs=1e-5)


def test_saved_and_loaded_again(model, ours, tmp_path):
    model.save(str(tmp_path / "again"))
    expected = ours.encode(TEXTS).embeddings
    near(SentenceTransformer(str(tmp_path / "again"), device="cpu").encode(TEXTS), expected)
    near(RationaleEncoder.from_pretrained(tmp_path / "again", device="cpu").encode(TEXTS).embeddings, expected)
    ours.save(tmp_path / "ours")
    near(SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(TEXTS), expected)
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("again", "ours")]
    assert names[0] - names[1] <= {"README.md"} and not names[1] - names[0]


def test_settings_are_handed_over(folder):
    given = {"max_new_tokens": 5, "sampling_temperature": 0.0, "dtype": "float64"}
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs=given)
    spec = model[0].encoder.spec
    assert (spec.max_new_tokens, spec.sampling_temperature, spec.seed, model.dtype) == (5, 0.0, 3, torch.float64)
    near(model.encode(TEXTS), RationaleEncoder.from_pretrained(folder, max_new_tokens=5, sampling_temperature=0.0)
         .encode(TEXTS).embeddings)  # fmt: skip
    model.max_seq_length = 200
    assert model[0].encoder.template.max_prompt_tokens == model.max_seq_length == 200
    with pytest.raises(UserError, match="leave no room"):
        model.max_seq_length = 10


@pytest.mark.parametrize(
    ("given", "message"),
    [({"model_kwargs": {"max_newtokens": 3}}, "did you mean 'max_new_tokens'"),
     ({"model_kwargs": {"max_new_tokens": 0}}, "greater than or equal to 1"), ({"backend": "onnx"}, "runs on torch"),
     ({"model_kwargs": {"dtype": "number"}}, "dtype: 'number'"), ({"config_kwargs": {"a": 1}}, "model_kwargs alone")],
)  # fmt: skip
def test_a_wrong_setting_is_one_sentence(folder, given, message):
    with pytest.raises(UserError, match=message):
        SentenceTransformer(str(folder), device="cpu", **given)


def test_on_another_device_it_computes_as_ours_does_there(folder):
    model = SentenceTransformer(str(folder), device="meta")
    assert model.dtype == torch.bfloat16 and model.device.type == "meta"
    kept = SentenceTransformer(str(folder), device="meta", model_kwargs={"dtype": torch.float32})
    assert kept.dtype == torch.float32


def test_it_does_not_train(model):
    model.train()
    with pytest.raises(UserError, match="trained by this project"):
        model({"texts": ["a"]})
    model.eval()


def test_other_classes_still_need_trust(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "modules.json").write_text((other / "modules.json").read_text().replace("RationaleModule", "Path"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(other), device="cpu")


@pytest.mark.parametrize("kind", ["adapted_folder", "generator_folder"])
def test_the_folder_of_an_adapter_is_a_model_too(request, tmp_path, kind):
    folder = request.getfixturevalue(kind)
    model, own = SentenceTransformer(str(folder), device="cpu"), RationaleEncoder.from_pretrained(folder)
    model.save(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    for rationales in (True, False):
        expected = own.encode(TEXTS, rationales).embeddings
        for one in (model, again):
            near(one.encode(TEXTS, rationales=rationales), expected)
    near(model.encode(TEXTS), own.encode(TEXTS, rationales=False).embeddings)
    assert not (tmp_path / "again" / "config.json").exists()
    model[0].max_seq_length = 200
    near(model.encode(["sort " * 999]), model.encode(["sort " * 800]))


def test_langchain(folder, ours):
    integration = pytest.importorskip("langchain_huggingface", reason="pip install langchain-huggingface to run this")
    stores = pytest.importorskip("langchain_core.vectorstores")
    embeddings = integration.HuggingFaceEmbeddings(model_name=str(folder))
    texts = [TEXTS[i] for i in (0, 3, 5)]
    near(embeddings.embed_documents(texts), ours.encode(texts).embeddings)
    near(embeddings.embed_query(texts[1]), ours.encode(texts[1:2]).embeddings[0])
    [hit] = stores.InMemoryVectorStore.from_texts(texts, embeddings).similarity_search(texts[2], k=1)
    assert hit.page_content == texts[2]


def test_llama_index(folder, ours):
    integration = pytest.importorskip(
        "llama_index.embeddings.huggingface", reason="pip install llama-index-embeddings-huggingface to run this"
    )
    core = pytest.importorskip("llama_index.core")
    model = integration.HuggingFaceEmbedding(model_name=str(folder))
    texts = [TEXTS[i] for i in (0, 3, 5)]
    near(model.get_text_embedding_batch(texts), ours.encode(texts).embeddings)
    near(model.get_query_embedding(texts[0]), ours.encode(texts[:1]).embeddings[0])
    index = core.VectorStoreIndex.from_documents([core.Document(text=text) for text in texts], embed_model=model)
    [hit] = index.as_retriever(similarity_top_k=1).retrieve(texts[2])
    assert hit.text == texts[2]


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A module in the place of Sentence Transformers' own."""
    (tmp_path / "stands_in.py").write_text("class BaseModel:\n    _module_classes = {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registering, "BASE", "stands_in")
    monkeypatch.setattr(sys, "meta_path", [found for found in sys.meta_path if not isinstance(found, Finder)])
    yield "stands_in"
    sys.modules.pop("stands_in", None)


@pytest.mark.parametrize("before", [True, False])
def test_either_may_be_imported_first(base, before):
    if before:
        importlib.import_module(base)
    register()
    register()
    module = importlib.import_module(base)
    assert list(module.BaseModel._module_classes) == [MODULE]
    assert not any(isinstance(found, Finder) for found in sys.meta_path)


def test_another_import_changes_nothing(base):
    register()
    importlib.reload(importlib.import_module("colorsys"))
    assert sum(isinstance(found, Finder) for found in sys.meta_path) == 1


def test_one_class_and_no_other():
    classes = Classes({"their.Module": int})
    assert classes[MODULE].__name__ == "RationaleModule" and classes["their.Module"] is int
    assert classes.get("grace.encoder.sentence.Other") is None and len(classes) == len([*classes]) == 2


def test_a_sentence_transformers_without_the_attribute_is_left_alone(base):
    module = importlib.import_module(base)
    del module.BaseModel._module_classes
    register()
    assert not hasattr(module.BaseModel, "_module_classes")
