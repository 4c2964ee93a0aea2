"""The choice of texts against its rule, and rationales against the encoder's own."""

import hashlib
import json

import pytest

from grace import RationaleEncoder
from grace.config import specs
from grace.config.section import UserError
from grace.evaluation import cases
from grace.evaluation.tasks import by_hash
from grace.jobs import manifest
from grace.jobs.files import write_jsonl
from tests.evaluation.fakes import make_rows

ENCODE = {
    "prompt": {"instruction": "Name the key words.", "max_prompt_tokens": 80},
    "pooling": {"method": "mean", "layer": "last", "normalize": True},
    "rationales": True, "direct_prompt": "chat", "max_new_tokens": 8, "sampling_temperature": 0.0, "batch_size": 2,
    "seed": 0,
}  # fmt: skip


def row(name: str, length: int, query: str | None = None) -> dict[str, str]:
    return {"id": name, "query": query or f"what is {name}", "positive": (name + " ").ljust(length, "x")}


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode()).hexdigest()


def chosen(tmp_path, rows, documents, queries):
    write_jsonl(tmp_path / "test.jsonl", rows)
    return cases.choose(by_hash(tmp_path / "test.jsonl"), documents, queries, "test.jsonl")


def test_the_texts_are_those_of_the_rule(tmp_path):
    # 101 lengths 20, 21, ... 120: the 40th to 60th percentile are the lengths 60 to 80.
    rows = [row(f"r{i}", 20 + i) for i in range(101)]
    found, rule = chosen(tmp_path, rows, 3, 2)
    medium = sorted((one for one in rows if 60 <= len(one["positive"]) <= 80), key=lambda one: digest(one["positive"]))
    expected = [(one["id"], "document", one["positive"]) for one in medium[:3]]
    assert found == expected + [(one["id"], "query", one["query"]) for one in medium[3:5]]
    assert "Of the 101 held-out rows" in rule and "the 21 whose document has 60 to 80 characters" in rule
    assert "first 3 documents" in rule and "first 2 queries" in rule
    assert chosen(tmp_path, rows[::-1], 3, 2) == (found, rule)


def test_no_text_is_shown_twice(tmp_path):
    rows = [row(f"r{i}", 30) for i in range(6)]
    order = sorted(rows, key=lambda one: digest(one["positive"]))
    order[2]["query"] = order[0]["positive"]  # a query that is a document
    order[4]["query"] = order[3]["query"]
    found, _ = chosen(tmp_path, rows + rows, 2, 2)
    shown = [*order[:2], order[3], order[5]]
    assert [one.id for one in found] == [one["id"] for one in shown]
    assert [one.kind for one in found] == ["document", "document", "query", "query"]


def test_too_few_rows_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"test\.jsonl: 1 rows of medium length give 1 distinct texts, but .* are 3; "):
        chosen(tmp_path, [row(f"r{i}", 20 + i) for i in range(3)], 2, 1)


@pytest.fixture
def job(tmp_path, tiny_folder):
    """Runs the stage; gives what it wrote."""

    def start(folders=None, temperature=0.0):
        write_jsonl(tmp_path / "test.jsonl", make_rows(40))
        models = [{"run": "grace", "step": 0}, {"run": "grace", "step": 20}, {"run": "grace-rollout", "step": None}]
        spec = {"models": models, "documents": 2, "queries": 1}
        spec["encode"] = {**ENCODE, "sampling_temperature": temperature}
        given = ["--models", *map(str, folders or [tiny_folder, other, tiny_folder])]
        given += ["--texts", str(tmp_path / "test.jsonl"), "--out", str(tmp_path / "out/cases.json")]
        cases.main(["--spec", json.dumps(spec), "--threads", "1", *given])
        return manifest.read_result(tmp_path / "out/cases.json")

    other = tmp_path / "other"
    encoder = RationaleEncoder.from_pretrained(tiny_folder)
    encoder.model.model.layers[0].mlp.down_proj.weight.data.mul_(-1)
    encoder.model.save_pretrained(other)
    encoder.tokenizer.save_pretrained(other)
    return start


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_stage_shows_what_each_model_writes(job, tiny_folder, tmp_path, temperature):
    out = job(temperature=temperature)
    assert not manifest.edited(out) and len(out["manifest"]["inputs"]) == 3
    assert [case["kind"] for case in out["cases"]] == ["document", "document", "query"]
    assert "40 held-out rows" in out["rule"]
    texts = [case["text"] for case in out["cases"]]
    spec = specs.EncodeSpec(**{**ENCODE, "sampling_temperature": temperature})
    ended, told = set(), set()
    for at, folder in enumerate([tiny_folder, tmp_path / "other", tiny_folder]):
        said = RationaleEncoder.from_spec(folder, spec).encode(texts).rationales
        for case, one in zip(out["cases"], said, strict=True):
            shown = case["rationales"][at]
            assert (shown["run"], shown["step"]) == [("grace", 0), ("grace", 20), ("grace-rollout", None)][at]
            assert shown["text"] == one.text and shown["tokens"] == len(one.token_ids)
            assert shown["truncated"] == one.truncated and shown["well_formed"] == one.well_formed
            assert shown["tokens"] == 8 or not shown["truncated"]
            ended.add(shown["truncated"])
    assert ended == ({True, False} if temperature else {True})  # greedy, the random model repeats itself
    for case in out["cases"]:
        first, second, third = ({**one, "run": None, "step": None} for one in case["rationales"])
        assert first == third
        told |= {first["text"] != second["text"]}
    assert True in told


def test_of_an_adapter_for_pooling_the_backbones_rationales_are_shown(tiny_folder, adapted_folder, generator_folder):
    spec = specs.EncodeSpec(**{**ENCODE, "sampling_temperature": 1.0})
    texts = ["Sort a list.", "Invert a matrix of floats."]
    bare, adapter, other = (cases.written(at, spec, texts) for at in (tiny_folder, adapted_folder, generator_folder))
    assert bare == adapter != other


def test_a_folder_for_each_model(job, tiny_folder):
    with pytest.raises(SystemExit, match="--models: 1 folders for 3 models; give one for each"):
        job([tiny_folder])
