"""An adapter merged into its backbone: the same direct embeddings, for tools that know no adapters; no rationales."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM

from grace import RationaleEncoder
from grace.encoder import merge
from grace.encoder.saved import MERGED, complete
from grace.section import UserError


@pytest.fixture(scope="module")
def merged(adapted_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "model"
    merge.merge(adapted_folder, out)
    return out


@pytest.mark.parametrize("folder", ["adapted_folder", "generator_folder"])
def test_it_embeds_as_the_adapter_does(request, folder, texts, tmp_path, monkeypatch, capsys):
    folder = request.getfixturevalue(folder)
    monkeypatch.setattr(sys, "argv", ["merge", str(folder), "-o", str(tmp_path)])
    merge.main()
    assert capsys.readouterr().out == f"{tmp_path}\n"
    ours = RationaleEncoder.from_pretrained(folder).encode(texts, rationales=False).embeddings
    theirs = RationaleEncoder.from_pretrained(tmp_path)
    np.testing.assert_allclose(theirs.encode(texts).embeddings, ours, atol=1e-5)
    assert not list(tmp_path.glob("*adapter*")) and (tmp_path / "config.json").exists()


def test_the_head_stays_the_backbones_where_the_table_was_adapted(tiny_folder, merged):
    bare, model = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_folder, merged))
    assert torch.equal(model.lm_head.weight, bare.lm_head.weight)
    assert not torch.allclose(model.model.embed_tokens.weight, bare.model.embed_tokens.weight, atol=0.01)


def test_asked_for_rationales_it_says_one_sentence(merged, texts, tmp_path):
    one = RationaleEncoder.from_pretrained(merged)
    one.save(tmp_path)  # it stays what it is
    complete(tmp_path)
    for ask in (
        lambda: one.encode(texts, rationales=True),
        lambda: one.explain(*texts[:2], rationales=True),
        lambda: next(one.encode_batches(texts, rationales=True)),
        lambda: RationaleEncoder.from_pretrained(merged, rationales=True),
        lambda: RationaleEncoder.from_pretrained(tmp_path, rationales=True),
        lambda: SentenceTransformer(str(merged), device="cpu").encode(texts, rationales=True),
    ):
        with pytest.raises(UserError) as told:
            ask()
        assert str(told.value) == MERGED


def test_into_the_present_folder(adapted_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merge.merge(adapted_folder, Path())
    assert (tmp_path / "model.safetensors").exists() and not [p for p in tmp_path.parent.glob(f".{tmp_path.name}*")]


def test_what_is_no_adapter_and_a_folder_that_is_there_are_refused(tiny_folder, adapted_folder, merged, tmp_path):
    for folder in (tiny_folder, merged, tmp_path / "none"):
        with pytest.raises(UserError, match="not the folder of an adapter for pooling"):
            merge.merge(folder, tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        merge.merge(adapted_folder, merged)
    assert not (tmp_path / "out").exists()
