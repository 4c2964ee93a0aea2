import shutil

import numpy as np
import pytest

from grace import manifest
from grace.encoder import explain, store
from grace.encoder.digests import digests_of
from grace.encoder.encoder import RationaleEncoder
from grace.section import UserError
from grace.use.page import corpus, effects, models, neighbours
from tests.use.made_study import spec


@pytest.fixture(scope="module")
def model(tiny_folder):
    return models.Evaluated("grace", "0", spec(), manifest.weights_hash(tiny_folder), "float32", tiny_folder)


@pytest.fixture(scope="module")
def shown(model, tiny_folder, tmp_path_factory):
    """Seven pairs that a model has embedded, with its store and the hits."""
    rows = [{"query": f"Sort {i} lists 😀.", "positive": f"A 🜁 list {i}. It is sorted! Twice."} for i in range(7)]
    made = corpus.of(rows)
    texts = [one.text for one in made.texts]
    encoder = RationaleEncoder.from_spec(tiny_folder, model.encode, "cpu")
    encoded = encoder.encode(texts)
    held = store.Store(tmp_path_factory.mktemp("store"), store.settings(spec(), model.weights, "float32", "float32"),
                       encoder.width)  # fmt: skip
    held.add(digests_of(texts), encoded.embeddings, encoded.rationales)
    known = np.ones(len(texts), dtype=bool)
    return encoder, held, texts, encoded, known, neighbours.search(made, known, encoded.embeddings)


def test_effects_are_those_of_explain_for_each_pair(model, shown):
    encoder, held, texts, _, known, hits = shown
    made = effects.explained(model, held, texts, known, hits, 3)
    assert sorted(made.effects) == [0, 1, 2]
    for i, pairs in made.effects.items():
        assert [at for at, _, _ in pairs] == sorted({*range(effects.HITS), hits.rank[i] - 1})
        for at, own, other in pairs:
            wanted = explain.explain(encoder, texts[i], texts[hits.numbers[i][at]])
            assert own == pytest.approx([part.effect for part in wanted.a.parts], abs=1e-5)
            assert other == pytest.approx([part.effect for part in wanted.b.parts], abs=1e-5)


def test_spans_cut_the_sentences_out_as_javascript_counts(model, shown):
    _, held, texts, encoded, known, hits = shown
    made = effects.explained(model, held, texts, known, hits, len(texts))
    for i, text in enumerate(texts):
        raw = text.encode("utf-16-le")
        spans = made.spans[i][0]
        cut = [raw[2 * a : 2 * b].decode("utf-16-le") for a, b in zip(spans[::2], spans[1::2], strict=True)]
        assert cut == ([text] if i < 7 else [f"A 🜁 list {i - 7}.", "It is sorted!", "Twice."])
        said = encoded.rationales[i].text
        assert made.spans[i][1][-1:] <= [len(said.encode("utf-16-le")) // 2]


def test_a_model_that_is_gone_or_another_one_is_refused(model, shown, tmp_path, tiny_folder):
    _, held, texts, _, known, hits = shown
    with pytest.raises(UserError, match="is gone"):
        effects.explained(model._replace(folder=tmp_path / "none"), held, texts, known, hits, 3)
    shutil.copytree(tiny_folder, tmp_path / "other")
    (tmp_path / "other/generation_config.json").write_text("{}")
    with pytest.raises(UserError, match="other weights"):
        effects.explained(model._replace(folder=tmp_path / "other"), held, texts, known, hits, 3)


def test_only_a_small_model_reads_all_texts_unasked(model, tmp_path):
    assert effects.affordable(model)
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(effects.SMALL + 1)
    assert not effects.affordable(model._replace(folder=tmp_path))


def test_an_adapter_is_as_large_as_its_backbone(model, adapted_folder, monkeypatch):
    whole, adapter = (
        sum(path.stat().st_size for path in at.glob("*.safetensors")) for at in (model.folder, adapted_folder)
    )
    assert adapter < whole
    monkeypatch.setattr(effects, "SMALL", whole)
    assert effects.affordable(model) and not effects.affordable(model._replace(folder=adapted_folder))
    monkeypatch.setattr(effects, "SMALL", whole + adapter)
    assert effects.affordable(model._replace(folder=adapted_folder))
