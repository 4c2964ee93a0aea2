"""The embedder: figures of a job's texts, and rationales that another setting has written."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from grace.encoder.digests import digests_of
from grace.encoder.store import Store
from grace.evaluation import embedder as module
from grace.evaluation.embedder import Embedder
from tests.evaluation.fakes import Encoding, FakeEncoder, Rationale

TEXTS = [f"text {i}" for i in range(60)]


class Repooling(FakeEncoder):
    """Tells in the embedding's first number how long a rationale was given to it; 3 tokens are its limit."""

    def __init__(self):
        super().__init__(rationales=True)
        self.given = {}

    def encode_written(self, texts, token_ids):
        self.given.update(zip(texts, token_ids, strict=True))
        for start in range(0, len(texts), 7):
            rows = list(range(start, min(start + 7, len(texts))))[::-1]
            out = np.array([[len(token_ids[i])] + [1.0] * (self.size - 1) for i in rows], dtype=np.float32)
            yield rows, Encoding(out, [Rationale("", token_ids[i][:3], True, False) for i in rows])


@pytest.fixture
def make(tmp_path):
    """Makes an embedder; equal settings share a folder."""

    def store(name):
        return Store(tmp_path, {"precision": "float32", "of": name}, 32)

    return lambda encoder, name="own", written=None: Embedder(encoder, store(name), written and store(written))


def test_figures_of_the_texts(make):
    made = make(FakeEncoder(rationales=True))
    made.encode(TEXTS)
    # The fake's rationales have 5, 6, 7 tokens in turn, and every fourth is cut off.
    expected = {"mean_tokens": 6.0, "truncated_share": 0.25, "well_formed_share": 0.75, "texts": 60, "reused": 0}
    assert made.rationale() == expected
    assert make(FakeEncoder(), "other").rationale() is None


def test_figures_depend_on_the_texts_alone_and_not_on_order_or_store(make):
    cold, other = make(FakeEncoder(rationales=True)), make(FakeEncoder(rationales=True), "other")
    cold.encode(TEXTS)
    for i in reversed(range(60)):
        other.encode([TEXTS[i], TEXTS[-1]])
    other.encode(["one more that this job does not see"])
    other.store.flush()
    warm = make(FakeEncoder(rationales=True), "other")
    warm.encode(TEXTS)
    assert warm.encoder.encoded == []
    assert cold.rationale() == warm.rationale()


def test_what_is_written_is_pooled_again_and_the_rest_is_written(make, monkeypatch, caplog):
    monkeypatch.setattr(module, "BLOCK", 16)
    source = make(FakeEncoder(rationales=True), "source")
    source.encode(TEXTS[:40])
    source.store.flush()
    one = make(Repooling(), written="source")
    with caplog.at_level(logging.INFO):
        vectors = one.encode([*TEXTS[::-1], TEXTS[3]])
    assert "the rationales of 40 of them are there" in caplog.text
    assert sorted(one.encoder.encoded) == sorted(TEXTS[40:])
    said = FakeEncoder().say
    assert one.encoder.given == {text: said(text).token_ids for text in TEXTS[:40]}
    expected = [len(said(text).token_ids) for text in TEXTS[:40]]
    assert vectors[:-1][::-1][:40, 0].tolist() == expected and vectors[-1, 0] == expected[3]
    assert np.array_equal(vectors[:20], FakeEncoder(rationales=True).encode(TEXTS[:39:-1]).embeddings)
    found = one.rationale()
    assert found["reused"] == 40 and found["texts"] == 60
    cut = sum(said(text).truncated for text in TEXTS[40:])
    assert found["truncated_share"] == (40 + cut) / 60
    assert found["well_formed_share"] == (20 - cut) / 60


def test_a_resumed_job_says_the_same_of_what_was_reused(make):
    source = make(FakeEncoder(rationales=True), "source")
    source.encode(TEXTS[:40])
    source.store.flush()
    cold = make(Repooling(), written="source")
    cold.encode(TEXTS)
    cold.store.flush()
    warm = make(Repooling(), written="source")
    warm.encode(TEXTS)
    assert warm.encoder.given == {} and warm.encoder.encoded == []
    assert warm.rationale() == cold.rationale()


def test_rationales_that_another_job_writes_meanwhile_are_found(make):
    one = make(Repooling(), written="source")
    one.written._looked = -1e9  # it looked long ago
    other = make(FakeEncoder(rationales=True), "source")
    other.encode(TEXTS[:5])
    other.store.flush()
    one.encode(TEXTS[:5])
    assert one.encoder.encoded == [] and one.written.known(digests_of(TEXTS[:5])).all()


def test_dimensions_are_standardised_by_other_texts_and_kept_as_they_are(make):
    encoder = FakeEncoder()
    made, plain = make(encoder), make(FakeEncoder(), "plain").encode(TEXTS)
    made.standardize(TEXTS[40:])
    found = made.encode(TEXTS[:40])
    reference = plain[40:].astype(np.float64)
    np.testing.assert_allclose(found, (plain[:40] - reference.mean(0)) / reference.std(0), atol=1e-4)
    np.testing.assert_array_equal(made.store.read(digests_of(TEXTS[:40])), plain[:40])
    assert len(made.seen) == 40  # the figures are of the job's own texts


def test_a_dimension_without_spread_is_zero(make):
    made = make(Repooling())
    made.standardize(["the same"] * 3)
    assert not made.encode(["the same"]).any() and np.isfinite(made.encode(["another"])).all()
