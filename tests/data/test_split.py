import json

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from grace.config.section import UserError
from grace.config.specs import SplitSpec
from grace.data import similarity
from grace.data import split as module
from grace.data.similarity import CosineIndex, Tfidf, distinct, largest_cosines
from grace.data.split import HeldOut, Split, draw, main
from tests.data.commands import Alive, call, most_alive, one_sentence, read, run, write

WORDS = "matrix vector graph edge node sparse dense solve root mean of the a and".split()


def random_texts(count, seed):
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(WORDS, size=draw.integers(3, 12))) for _ in range(count)]
    # Rare words, as in real text.
    return [f"{text} rare{draw.integers(40)} rare{draw.integers(40)}" for text in texts]


def dense_cosines(texts):
    vectors = TfidfVectorizer(dtype=np.float64).fit_transform(texts).toarray()
    return vectors @ vectors.T


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("chunk", [7, 1024])
def test_distinct_agrees_with_dense_float64(monkeypatch, threshold, chunk):
    monkeypatch.setattr(similarity, "CHUNK", chunk)
    texts = random_texts(150, 0)
    texts += [f"{text} the" for text in texts[:40]]
    cosines = dense_cosines(texts)
    kept: list[int] = []
    for at in range(len(texts)):
        if not any(cosines[at, earlier] > threshold for earlier in kept):
            kept.append(at)
    assert np.flatnonzero(distinct(texts, threshold)).tolist() == kept
    assert 0 < len(kept) < len(texts)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.7])
def test_index_and_largest_cosines_agree_with_dense_float64(monkeypatch, threshold):
    monkeypatch.setattr(similarity, "CHUNK", 16)
    texts = random_texts(120, 1)
    cosines = dense_cosines(texts)[:50, 50:]
    some, others = (Tfidf(texts)(part) for part in (texts[:50], texts[50:]))
    assert np.allclose(largest_cosines(some, others), cosines.max(axis=1), atol=1e-5)
    found = zip(*CosineIndex(others, threshold).pairs(some), strict=True)
    assert set(found) == set(zip(*np.nonzero(cosines > threshold), strict=True))


def test_known_and_new_texts_have_the_vectors_of_sklearn():
    texts = [*random_texts(30, 3), "...", "the"]
    tfidf, theirs = Tfidf(texts), TfidfVectorizer(dtype=np.float64).fit(texts)
    for some in (texts[5:], texts[:3] + ["a new one the matrix"], ["unknown"], []):
        expected = theirs.transform(some).toarray() if some else np.zeros((0, len(theirs.vocabulary_)))
        np.testing.assert_allclose(tfidf(some).toarray(), expected, atol=1e-6)


def test_texts_without_a_word_and_a_threshold_of_one():
    assert distinct(["...", "!!!", "?"], 0.5).all()
    assert distinct(["...", "a word here", "a word here"], 0.5).tolist() == [True, True, False]
    assert distinct(random_texts(40, 2), 1.0).sum() >= 39  # float32 may put a copy a hair over 1


def spec(test=2.0, validation=0.0, kind="first", cosine=0.6, seed=0):
    return SplitSpec(test=test, validation=validation, split=kind, near_duplicate_cosine=cosine, seed=seed)


def pair(at, query=None, positive=None, **more):
    words = " ".join(f"w{at}x{i}" for i in range(8))
    return {"id": str(at), "query": query or f"query {words[:12]}", "positive": positive or words, **more}


def split(rows, settings):
    """(train, validation, test, report) of rows in memory."""
    found = Split(lambda: rows, settings)
    train = list(found.train())
    return train, found.validation, found.test, found.report()


def parts(rows, *settings):
    """Ids of (train, validation, test)."""
    drawn = draw([row["source"] for row in rows], spec(*settings))
    return tuple([row["id"] for row, part in zip(rows, drawn, strict=True) if part == at] for at in range(3))


def test_sizes_and_order():
    rows = [pair(at, source="ab"[at % 2]) for at in range(100)]
    ids = [row["id"] for row in rows]
    train, validation, test = parts(rows, 10.0, 5.0)
    assert (test, validation, train) == (ids[:10], ids[10:15], ids[15:])
    train, validation, test = parts(rows, 0.1, 0.02)  # of each source
    assert test == ids[:10] and validation == ["10", "11"] and train == ids[12:]
    uneven = [{**row, "source": "b" if at >= 80 else "a"} for at, row in enumerate(rows)]
    assert parts(uneven, 0.1)[2] == ids[:8] + ids[80:82]
    train, validation, test = parts(rows, 10.0, 0.1, "random")
    assert (len(train), len(validation), len(test)) == (80, 10, 10) and test != ids[:10]
    assert sorted((*train, *validation, *test), key=int) == ids
    assert parts(rows, 10.0, 0.1, "random")[2] == test != parts(rows, 10.0, 0.1, "random", 0.6, 1)[2]


def test_planted_copies_are_removed_from_training_only():
    rows = [pair(at) for at in range(60)]
    document, query = rows[0]["positive"], "how does one sort a linked list in place"
    rows[1]["query"] = query
    rows[10]["positive"] = document.upper() + " "  # a copy of a test document
    rows[11]["positive"] = document + " extra"  # a near-duplicate of it
    rows[12]["query"] = document  # asked as a query
    rows[13]["query"] = "how does one sort a linked list in place now"
    rows[14]["positive"] = rows[2]["positive"] + " end"  # near a validation document
    train, validation, test, report = split(rows, spec(test=2.0, validation=3.0))
    assert [row["id"] for row in test] == ["0", "1"] and len(validation) == 3
    assert {row["id"] for row in rows[5:]} - {row["id"] for row in train} == {"10", "11", "12", "13", "14"}
    assert report["removed"] == {"train": {"rows": 5}, "validation": {"rows": 0}}
    assert report["kept"] == {"train": 50, "validation": 3, "test": 2}
    assert report["checked"]["train against test"]["max_cosine"] <= 0.6


def test_validation_is_checked_against_test_and_copies_without_cosine():
    rows = [pair(at) for at in range(20)]
    rows[2]["positive"] = rows[0]["positive"]
    rows[9]["query"] = rows[1]["query"].upper()
    train, validation, _, report = split(rows, spec(validation=2.0, cosine=None))
    assert [row["id"] for row in validation] == ["3"] and "9" not in {row["id"] for row in train}
    assert report["checked"]["train against test"]["max_cosine"] is None


def test_negatives_that_are_held_out_are_not_trained_on():
    rows = [pair(at, negatives=[f"n{at}a", f"n{at}b"]) for at in range(10)]
    rows[5]["negatives"][0] = rows[0]["positive"]
    rows[6]["negatives"] = [rows[0]["query"]]
    train, _, _, report = split(rows, spec(cosine=None))
    found = {row["id"]: row["negatives"] for row in train}
    assert found["5"] == ["n5b"] and "6" not in found
    assert report["removed"]["train"] == {"rows": 1, "negatives": 2}


def test_texts_only():
    rows = [{"id": str(at), "text": pair(at)["positive"]} for at in range(20)]
    rows[7]["text"] = rows[1]["text"] + " more"
    train, _, test, _ = split(rows, spec())
    assert len(test) == 2 and len(train) == 17 and "7" not in {row["id"] for row in train}


def test_leaks_and_check_object_and_agree_with_dense_float64():
    texts = ["the cat sat on the mat", "a graph is made of nodes and edges"]
    tfidf = Tfidf([*texts, "quite another text"])
    one = HeldOut(texts, 0.6, tfidf)
    one.check(["quite another text"])
    assert one.summary() == {"texts": 1, "held_texts": 2, "max_cosine": 0.0}
    with pytest.raises(AssertionError, match="is trained on"):
        HeldOut(texts, None).check(["The cat  sat on the mat"])
    with pytest.raises(AssertionError, match="cosine of"):
        one.check(["fine", "a graph is made of nodes and of edges"])
    train = ["the cat sat on a chair", "a graph of nodes", "the dog"]
    vectors = TfidfVectorizer(dtype=np.float64).fit([*texts, "quite another text"])
    cosines = vectors.transform(train).toarray() @ vectors.transform(texts).toarray().T
    loose = HeldOut(texts, 0.95, tfidf)
    for text in train:  # in parts, as rows are streamed
        loose.check([text])
    assert loose.summary()["max_cosine"] == pytest.approx(cosines.max(), abs=1e-4)
    for cosine in (0.2, 0.5):
        held_out = HeldOut(texts, cosine, tfidf)
        assert held_out.leaks(train).tolist() == (cosines > cosine).any(axis=1).tolist()
        assert HeldOut([], cosine, tfidf).leaks(train).tolist() == [False] * 3 and not held_out.leaks([]).size


def test_training_rows_are_never_all_in_memory(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 10)
    rows = [pair(at) for at in range(500)]

    def train(_):
        return Split(lambda: (Alive(row) for row in rows), spec(0.02, 0.0, "first", None)).train()

    assert most_alive(train, rows) <= 10 + 2 * 10 + 3  # held out; a chunk, and the one before it; those in hand


@pytest.mark.parametrize("cosine", [None, 0.6])
def test_chunks_change_nothing(monkeypatch, cosine):
    rows = [pair(at, negatives=[f"n{at}a", f"n{at}b"]) for at in range(50)]
    for at in (7, 23, 24, 49):
        rows[at]["positive"] = rows[at % 3]["positive"]
    rows[30]["negatives"] = [rows[0]["positive"], "n"]
    whole = split(rows, spec(3.0, 5.0, "first", cosine))
    monkeypatch.setattr(module, "CHUNK", 4)
    assert split(rows, spec(3.0, 5.0, "first", cosine)) == whole
    assert whole[3]["removed"]["train"]["rows"] == 3 and whole[3]["kept"]["train"] == 39


def test_no_training_row_left():
    with pytest.raises(UserError, match="no training row"):  # all of them copies
        split([pair(0) for _ in range(5)], spec(test=1.0))


def test_stage(tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [pair(at) for at in range(30)])
    names = ("train", "validation", "test", "report")
    outputs = [item for name in names for item in (f"--{name}", tmp_path / "out" / f"{name}.jsonl")]
    given = ("--spec", spec(kind="random", validation=0.1).model_dump_json(), "--pairs", pairs)
    done = run("split", *given, *outputs)
    assert done.returncode == 0, done.stderr
    assert [len(read(tmp_path / "out" / f"{name}.jsonl")) for name in names[:3]] == [25, 3, 2]
    report = json.loads((tmp_path / "out" / "report.jsonl").read_text())
    assert report["drawn"] == {"train": 25, "validation": 3, "test": 2} and "manifest" in report
    given = ("--spec", spec(test=40.0).model_dump_json(), "--pairs", pairs)
    one_sentence(call(main, *given, *outputs), "data.test = 40", "no training row of 30")
