"""What is no text and what is no decoder: one sentence each, before any weights are read."""

import json

import pytest
from transformers import AutoConfig

from grace import RationaleEncoder
from grace.encoder.inputs import check_model, checked_texts
from grace.section import UserError


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


def test_texts():
    assert checked_texts(("a", "b")) == ["a", "b"] and checked_texts([]) == []
    with pytest.raises(TypeError, match="list of texts"):
        checked_texts("one text")
    with pytest.raises(TypeError, match="text 1 is a bytes"):
        checked_texts(["a", b"b"])
