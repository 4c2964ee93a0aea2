import json
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from grace.data.pairs import Card, cleaned, normalised, whole, without_near
from grace.data.rows import Unusable
from tests.data.commands import ROOT, most_alive, one_sentence, read, run, write

NLI = ROOT / "../shared/data/nli_triplets/train.jsonl"


def spec(form="pairs", cosine=None):
    return json.dumps({"form": form, "near_duplicate_cosine": cosine})


@pytest.mark.parametrize(
    ("row", "form", "expected"),
    [
        ({"query": " q ", "positive": "p\n", "other": 1}, "pairs", {"id": None, "query": "q", "positive": "p"}),
        ({"query": "q"}, "pairs", "missing field"),
        ({"query": "q", "positive": 5}, "pairs", "field is not text"),
        ({"query": "q", "positive": "p", "negatives": ["n", None]}, "triples", "field is not text"),
        ({"query": "q", "positive": "p", "negatives": [None]}, "pairs", "field is not text"),
        ({"query": "q", "positive": "p", "negative": {"text": "n", "title": "t"}}, "pairs", "field is not text"),
        ({"query": "q", "positive": "p", "negatives": 3}, "pairs", "field is not text"),
        ({"query": "q", "positive": "p", "negative": "n"}, "pairs", ["n"]),
        ({"query": "q", "positive": " "}, "pairs", "empty"),
        ({"query": "Same  text", "positive": "same text"}, "pairs", "query is its positive"),
        ({"anchor": "q", "positive": "p", "negative": "n"}, "triples", ["n"]),
        ({"query": "q", "positive": "p", "negatives": ["P ", "n", "N", "", "m"]}, "triples", ["n", "m"]),
        ({"query": "q", "positive": "p", "negatives": ["p"]}, "triples", "no negative"),
        ({"text": " t "}, "texts", {"id": None, "text": "t"}),
        ({"query": "q", "positive": "p"}, "texts", {"id": None, "text": "p"}),
        ({"text": ""}, "texts", "empty"),
    ],
)
def test_one_row(row, form, expected):
    if isinstance(expected, str):
        with pytest.raises(Unusable) as dropped:
            normalised(row, form, Counter())
        assert dropped.value.reason == expected
        return
    (found,) = normalised(row, form, Counter())
    assert (found["negatives"] if isinstance(expected, list) else found) == expected


def test_exact_duplicates_and_ids():
    dropped = Counter()
    rows = [
        {"id": 7, "query": "a b", "positive": "c"},
        {"id": 7, "query": "A  b", "positive": "C"},
        {"id": 7, "query": "a b", "positive": "d", "label": "x"},
        {"query": "e", "positive": "f"},
    ]
    found = list(cleaned(rows, "pairs", dropped, Counter()))
    assert [row["id"] for row in found] == ["7", "7#2", "3"] and found[1]["label"] == "x"
    assert dropped == {"exact duplicate": 1}


def test_an_id_is_never_that_of_another_row():
    rows = [{"id": name, "query": f"q{i}", "positive": f"p{i}"} for i, name in enumerate(["x#2", "x", "x", "x#2#2"])]
    found = [row["id"] for row in cleaned(rows, "pairs", Counter(), Counter())]
    assert len(set(found)) == 4


def test_several_positives_are_rows_of_their_own():
    dropped, changed = Counter(), Counter()
    rows = [
        {"id": 1, "query": ["Find it", "a"], "pos": [["", x] for x in ("b", "c", " ", "A")], "neg": ["C", "d"]},
        {"id": "1", "query": "e", "pos": ["f"], "neg": ["f"]},
    ]  # fmt: skip
    found = list(cleaned(rows, "triples", dropped, changed))
    assert found == [
        {"id": "1", "query": "a", "positive": "b", "negatives": ["d"]},
        {"id": "1#1", "query": "a", "positive": "c", "negatives": ["d"]},
    ]
    assert dropped == {"no negative": 1}
    assert changed == {"rows added for further positives": 1, "rows whose instructions are left out": 1}


@pytest.mark.parametrize("other", ["Cafe\u0301 noir", "CAFÉ  noir"])
def test_copies_that_differ_in_how_letters_are_composed(other):
    """Else each would be mined as the other's hard negative."""
    rows = [{"query": "q", "positive": "Café noir"}, {"query": "q", "positive": other}]
    assert len(list(cleaned(rows, "pairs", Counter(), Counter()))) == 1
    row = {"query": "q", "positive": "Café noir", "negatives": [other, "n"]}
    assert normalised(row, "triples", Counter())[0]["negatives"] == ["n"]
    near = [{"query": "q", "positive": f"{text} and much else besides"} for text in ("Café noir", other)]
    assert len(without_near(near, 0.99, Counter())) == 1


def test_rows_without_near_duplicates_are_streamed():
    rows = [{"query": f"q{at}", "positive": f"p{at}"} for at in range(300)]
    assert most_alive(lambda some: cleaned(some, "pairs", Counter(), Counter()), rows) <= 3


@pytest.mark.skipif(not NLI.exists(), reason="the shared data sets are not on this machine")
def test_near_duplicates_of_real_text_against_dense_float64():
    dropped = Counter()
    rows = list(cleaned(read(NLI)[:600], "triples", dropped, Counter()))
    vectors = TfidfVectorizer(dtype=np.float64).fit_transform([whole(row) for row in rows]).toarray()
    cosines = vectors @ vectors.T
    expected: list[int] = []
    for at in range(len(rows)):
        if not (cosines[at, expected] > 0.6).any():
            expected.append(at)
    assert without_near(rows, 0.6, dropped) == [rows[at] for at in expected]
    assert dropped["near duplicate"] == len(rows) - len(expected) > 0


def test_card_counts():
    card = Card()
    rows = [{"query": "w " * count, "positive": "p", "label": "x", "negatives": ["n"]} for count in (7, 8, 1024)]
    assert list(card.count(rows)) == rows
    found = card.summary()
    assert found["kept"] == 3 and found["kept_per_label"] == {"x": 3} and found["negatives_per_row"] == {1: 3}
    lengths = found["length_in_words"]["query"]
    assert lengths["0-7"] == lengths["8-15"] == lengths["1024-"] == 1 and sum(lengths.values()) == 3


def test_stage(tmp_path):
    near = "the quick brown fox jumps over the lazy dog while nobody looks at all"
    source = write(
        tmp_path / "raw.jsonl",
        [
            {"query": "who jumps", "positive": near, "label": "fox"},
            {"query": "who jumps", "positive": near + " today", "label": "fox"},
            {"query": "who jumps", "positive": ""},
            {"query": "who jumps"},
            {"query": "another", "positive": "y " * 500_000, "label": "big"},
        ],
    )
    out, card = tmp_path / "pairs.jsonl", tmp_path / "card.json"
    done = run("pairs", "--spec", spec(cosine=0.6), "--source", source, "--out", out, "--card", card)
    assert done.returncode == 0, done.stderr
    assert [row["label"] for row in read(out)] == ["fox", "big"]
    found = json.loads(card.read_text())
    assert found["read"] == 5 and found["kept"] == 2
    assert found["dropped"] == {"empty": 1, "missing field": 1, "near duplicate": 1}
    assert found["manifest"]["stage"] == "pairs" and list(found["manifest"]["inputs"]) == [str(source)]


def test_nothing_left_and_a_full_disk(tmp_path):
    out, card = tmp_path / "out" / "pairs.jsonl", tmp_path / "out" / "card.json"
    empty = write(tmp_path / "raw.jsonl", [{"query": "", "positive": "p"}])
    one_sentence(
        run("pairs", "--spec", spec(), "--source", empty, "--out", out, "--card", card), "raw.jsonl", "1 empty"
    )
    many = write(tmp_path / "raw.jsonl", [{"query": f"q{at}", "positive": f"p{at}"} for at in range(3000)])
    arguments = ("--source", many, "--out", out, "--card", card)
    one_sentence(run("pairs", "--spec", spec(), *arguments, limit=20000), "nothing half-written")
    assert list(out.parent.iterdir()) == []
    one_sentence(run("pairs", "--spec", '{"form": "pears", "near_duplicate_cosine": null}', *arguments), "spec.form")
