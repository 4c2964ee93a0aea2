"""Nearest documents, maps and effects of sentences."""

import shutil

import numpy as np
import pytest

from grace.cli.page import analysis, study_data
from grace.config.section import UserError
from grace.encoder import explain, store
from grace.encoder.encoder import RationaleEncoder
from grace.encoder.store import digests_of
from grace.jobs import manifest
from tests.cli.made_study import spec


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_hits_are_the_best_documents_by_a_plain_loop():
    rng = np.random.default_rng(0)
    made = study_data.texts_of({"query": f"q{i}", "positive": f"d{i}"} for i in range(40))
    known = rng.random(80) < 0.8
    every = unit(rng.normal(size=(80, 5)))
    found = analysis.rank_documents(made, known, every[known].astype(np.float32))
    documents = [j for j in range(40, 80) if known[j]]
    for i in range(80):
        if not known[i]:
            assert found.numbers[i] == [] and found.rank[i] == 0
            continue
        order = sorted((j for j in documents if j != i), key=lambda j: -float(every[i] @ every[j]))
        assert found.numbers[i][:10] == order[:10]
        assert np.allclose(found.scores[i], [every[i] @ every[j] for j in found.numbers[i]], atol=1e-6)
        if i < 40 and known[i + 40]:
            rank = order.index(i + 40) + 1
            assert found.rank[i] == rank
            assert found.numbers[i][10:] == ([i + 40] if rank > 10 else [])
        else:
            assert found.rank[i] == 0 and len(found.numbers[i]) == 10


def test_of_several_true_documents_the_best_counts():
    made = study_data.texts_of([{"query": "q", "positive": "d1"}, {"query": "q", "positive": "d2"}, {"text": "d3"}])
    vectors = unit(np.array([[1, 0], [0, 1], [1, 1], [1, 0.1]], dtype=np.float32))
    found = analysis.rank_documents(made, np.ones(4, dtype=bool), vectors)
    assert found.numbers[0] == [3, 2, 1] and found.rank[0] == 2


def test_without_queries_there_is_no_rank():
    made = study_data.texts_of([{"text": "a"}, {"text": "b"}])
    found = analysis.rank_documents(made, np.ones(2, dtype=bool), np.eye(2, dtype=np.float32))
    assert found.numbers == [[1], [0]] and found.rank == [0, 0]


def clouds(seed=0):
    """Three groups of 50 points in 10 dimensions."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(50, 10)) * 0.1 + 3 * np.eye(10)[k] for k in range(3)])


@pytest.fixture(scope="module")
def drawn():
    return analysis.draw_maps(clouds())


def test_components_are_those_of_a_singular_value_decomposition(drawn):
    rows = clouds() - clouds().mean(axis=0)
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    assert np.allclose(np.abs(drawn.components), np.abs(left[:, :2] * values[:2]), atol=1e-8)
    assert drawn.share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())


def test_neighbours_stay_together_on_the_map(drawn):
    points = drawn.neighbourhoods
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(150)
    assert (distance.argmin(axis=1) // 50 == np.arange(150) // 50).all()


def test_another_models_maps_are_rotated_to_match(drawn):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))[0]
    other = analysis.draw_maps(clouds() @ rotation, drawn)
    assert np.allclose(other.components, drawn.components, atol=1e-6)
    centres = [points.reshape(3, 50, 2).mean(axis=1) for points in (drawn.neighbourhoods, other.neighbourhoods)]
    assert np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2).argmin(axis=1).tolist() == [0, 1, 2]


def test_rotation_finds_the_rotation_and_the_mirror():
    points = np.random.default_rng(2).normal(size=(20, 2))
    turned = analysis.rotated(points @ np.array([[0, 1], [1, 0]]) + 5, points)
    assert np.allclose(turned, points - points.mean(axis=0))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_few_or_equal_texts_have_a_map_too(count):
    drawn = analysis.draw_maps(np.ones((count, 4), dtype=np.float32))
    assert drawn.components.shape == (count, 2) and np.isfinite(drawn.components).all()
    assert drawn.neighbourhoods is None and drawn.share == 0


def test_whole_coordinates_keep_the_shape():
    made = analysis.whole_coordinates(np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 5.0]]))
    assert made.tolist() == [[0, 1024], [4095, 1024], [4095, 3071]]
    assert analysis.whole_coordinates(np.zeros((0, 2))).shape == (0, 2)


@pytest.fixture(scope="module")
def shown(tiny_folder, tmp_path_factory):
    """A model with its store, seven pairs that it has embedded, and their ranking."""
    rows = [{"query": f"Sort {i} lists 😀.", "positive": f"A 🜁 list {i}. It is sorted! Twice."} for i in range(7)]
    made = study_data.texts_of(rows)
    texts = [one.text for one in made.texts]
    encoder = RationaleEncoder.from_spec(tiny_folder, spec(), "cpu")
    encoded = encoder.encode(texts)
    weights = manifest.weights_hash(tiny_folder)
    settings = store.settings(spec(), weights, "float32", "float32")
    held = store.Store(tmp_path_factory.mktemp("store"), settings, encoder.width)
    held.add(digests_of(texts), encoded.embeddings, encoded.rationales)
    model = study_data.Evaluated("grace", "0", spec(), weights, tiny_folder, held)
    known = np.ones(len(texts), dtype=bool)
    return model, encoder, texts, encoded, known, analysis.rank_documents(made, known, encoded.embeddings)


@pytest.fixture(scope="module")
def model(shown):
    return shown[0]


def test_effects_are_those_of_explain_for_each_pair(shown):
    model, encoder, texts, _, known, hits = shown
    made = analysis.compute_effects(model, texts, known, hits, 3)
    assert sorted(made.effects) == [0, 1, 2]
    for i, pairs in made.effects.items():
        assert [at for at, _, _ in pairs] == sorted({*range(analysis.EXPLAINED_HITS), hits.rank[i] - 1})
        for at, own, other in pairs:
            wanted = explain.explain(encoder, texts[i], texts[hits.numbers[i][at]])
            assert own == pytest.approx([part.effect for part in wanted.a.parts], abs=1e-5)
            assert other == pytest.approx([part.effect for part in wanted.b.parts], abs=1e-5)


def test_spans_cut_the_sentences_out_as_javascript_counts(shown):
    model, _, texts, encoded, known, hits = shown
    made = analysis.compute_effects(model, texts, known, hits, len(texts))
    for i, text in enumerate(texts):
        raw = text.encode("utf-16-le")
        spans = made.spans[i][0]
        cut = [raw[2 * a : 2 * b].decode("utf-16-le") for a, b in zip(spans[::2], spans[1::2], strict=True)]
        assert cut == ([text] if i < 7 else [f"A 🜁 list {i - 7}.", "It is sorted!", "Twice."])
        said = encoded.rationales[i].text
        assert made.spans[i][1][-1:] <= [len(said.encode("utf-16-le")) // 2]


def test_a_model_that_is_gone_or_another_one_is_refused(shown, tmp_path, tiny_folder):
    model, _, texts, _, known, hits = shown
    with pytest.raises(UserError, match="is gone"):
        analysis.compute_effects(model._replace(folder=tmp_path / "none"), texts, known, hits, 3)
    shutil.copytree(tiny_folder, tmp_path / "other")
    (tmp_path / "other/generation_config.json").write_text("{}")
    with pytest.raises(UserError, match="other weights"):
        analysis.compute_effects(model._replace(folder=tmp_path / "other"), texts, known, hits, 3)


def test_only_a_small_model_reads_all_texts_unasked(model, tmp_path):
    assert analysis.affordable(model)
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(analysis.SMALL + 1)
    assert not analysis.affordable(model._replace(folder=tmp_path))


def test_an_adapter_is_as_large_as_its_backbone(model, adapted_folder, monkeypatch):
    whole, adapter = (
        sum(path.stat().st_size for path in at.glob("*.safetensors")) for at in (model.folder, adapted_folder)
    )
    assert adapter < whole
    monkeypatch.setattr(analysis, "SMALL", whole)
    assert analysis.affordable(model) and not analysis.affordable(model._replace(folder=adapted_folder))
    monkeypatch.setattr(analysis, "SMALL", whole + adapter)
    assert analysis.affordable(model._replace(folder=adapted_folder))
