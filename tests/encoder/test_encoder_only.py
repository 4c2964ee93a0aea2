"""An encoder-only model embeds as its own folder says, and is taken for no decoder."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from grace import RationaleEncoder, manifest
from grace.encoder import encoder_only
from grace.encoder.encoder_only import EncoderOnly
from grace.files import read_json, write_json
from grace.section import UserError
from grace.use import cli


def test_embeddings_are_those_of_transformers_pooled_by_hand(encoder_folder, texts, monkeypatch):
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(encoder_folder).eval(), AutoTokenizer.from_pretrained(encoder_folder)
    expected = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            expected.append(model(**ids).last_hidden_state[0].max(0).values.numpy())
    assert len(tokenizer(texts[4])["input_ids"]) > 16
    monkeypatch.setattr(encoder_only, "BLOCK", 4)
    one = EncoderOnly(encoder_folder, "cpu")
    found = np.zeros((len(texts), one.width), np.float32)
    for rows, made in one.encode_batches(texts):
        assert made.rationales is None and len(rows) <= 4
        found[rows] = made.embeddings
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (one.width, one.dtype) == (32, "float32") and np.linalg.norm(found, axis=1).min() > 1.5  # none is normalised


def test_what_composes_the_model_is_part_of_its_hash(encoder_folder, tmp_path):
    copy = shutil.copytree(encoder_folder, tmp_path / "copy")
    write_json(copy / "manifest.json", {})
    assert manifest.weights_hash(copy) == manifest.weights_hash(encoder_folder)
    for path in ("1_Pooling/config.json", "sentence_bert_config.json", "modules.json"):
        write_json(copy / path, {**dict.fromkeys(["x"]), "was": read_json(copy / path, object)})
        assert manifest.weights_hash(copy) != manifest.weights_hash(encoder_folder)
        shutil.copy(encoder_folder / path, copy / path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "modules.json").unlink(), r"has no modules\.json; give the folder of a Sentence"),
        (lambda folder: (folder / "grace.json").write_text("{}"), "a decoder of this workflow"),
        (lambda folder: (folder / "config.json").write_text("{"), "no model of Sentence Transformers can be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "no model of Sentence Transformers can be"),
    ],
)
def test_what_is_no_such_model_is_one_sentence(encoder_folder, tmp_path, damage, said):
    folder = shutil.copytree(encoder_folder, tmp_path / "copy")
    damage(folder)
    with pytest.raises(UserError, match=f"^{folder}: {said}"):
        EncoderOnly(folder)


def test_an_encoder_only_model_is_asked_for_no_rationales(encoder_folder, tmp_path):
    said = rf"{encoder_folder}: holds bert \(BertModel\), but a decoder that writes text is needed"
    with pytest.raises(UserError, match=f"^{said}"):
        RationaleEncoder.from_pretrained(encoder_folder)
    (tmp_path / "texts.txt").write_text("a text\n")
    out = tmp_path / "out.parquet"
    with pytest.raises(SystemExit, match=f"^error: {said}"):
        cli.main(["embed", str(tmp_path / "texts.txt"), "--model", str(encoder_folder), "-o", str(out)])
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


def test_an_embedding_that_is_not_finite_is_not_hidden(encoder_folder, tmp_path, texts):
    folder = shutil.copytree(encoder_folder, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.LayerNorm.bias"][3] = np.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert np.isnan(EncoderOnly(folder).encode(texts)).any()
