import json
from collections import Counter

import pytest

from grace.data.pairs import NAMES, Card, Unusable, cleaned, layout, main, normalised, problem, without_near
from tests.data.commands import ROOT, call, most_alive, one_sentence, read, run, write

Q, P, N, M = "which tool sorts", "this one sorts", "that one paints", "another one digs"


def spec(form="pairs", cosine=None):
    return json.dumps({"form": form, "near_duplicate_cosine": cosine})


@pytest.mark.parametrize(
    ("row", "negatives"),
    [
        ({"query": Q, "positive": P}, None),
        ({"query": Q, "positive": P, "negative": N}, [N]),
        ({"query": Q, "positive": P, "negatives": [N, M]}, [N, M]),
        ({"query": Q, "positive": [P], "negative": [N]}, [N]),
        ({"query": Q, "pos": [P], "neg": [N, M], "pos_scores": [0.9], "prompt": "Find it"}, [N, M]),
        ({"query": Q, "pos": [P], "neg": []}, []),
        ({"query": ["Find it", Q], "pos": [["", P]], "neg": [["", N], ["", M]]}, [N, M]),
        ({"query": ["Find it", Q], "pos": ["Take it", P], "neg": ["Take it", N]}, [N]),
        ({"query": [Q], "pos": [P]}, None),
        ({"sentence1": Q, "sentence2": P, "label": True}, None),
        ({"anchor": Q, "positive": P}, None),
        ({"anchor": Q, "positive": P, "negative": N}, [N]),
        ({"anchor": Q, "positive": P, "negative_1": N, "negative_2": M}, [N, M]),
        ({"anchor": Q, "positive": P, "negative_10": M, "negative_9": N}, [N, M]),
        ({"anchor": Q, "positive": P, "negative_1": N, "negative_2": None}, [N]),
        ({"question": Q, "answer": P}, None),
        ({"sentence1": Q, "sentence2": P}, None),
        ({"sentence1": Q, "sentence2": P, "score": 0.9}, None),
        ({"sentence1": Q, "sentence2": P, "score": "0.9"}, None),
        ({"sentence1": Q, "sentence2": P, "label": 1}, None),
        ({"query": None, "anchor": Q, "positive": P, "score": 0.1, "label": "tools"}, None),
    ],
)
def test_every_layout_gives_the_same(row, negatives):
    found = layout(row, "triples" if negatives else "pairs")
    assert (found.query, found.positives, found.negatives) == (Q, [P], negatives)
    assert found.instructed == (row.get("query") == ["Find it", Q])
    assert problem(row, "pairs") is None


def test_several_positives_and_texts():
    assert layout({"query": Q, "pos": [P, M], "neg": [N]}, "triples").positives == [P, M]
    for row in ({"text": P}, {"sentence": P}, {"positive": P, "query": Q}, {"pos": [P]}):
        assert layout(row, "texts").positives == [P]


@pytest.mark.parametrize(
    ("row", "reason", "said"),
    [
        ({"query": Q}, "missing field", "'positives' or 'pos' or 'answer' or 'sentence2' is missing"),
        ({"query": Q, "pos": []}, "missing field", "the field 'pos' is an empty list"),
        ({"query": Q, "pos": [P, None]}, "field is not text", "the field 'pos' is not text but NoneType"),
        ({"query": 7, "pos": [P]}, "field is not text", "the field 'query' is not text but int"),
        ({"query": [Q, P, N], "pos": [P]}, "field is not text", "the field 'query' is not one text but 3"),
        ({"query": Q, "positive": P, "negative_1": 7}, "field is not text", "is not text but int"),
        ({"sentence1": Q, "sentence2": P, "score": 0.2}, "score under .5", "the field 'score' is 0.2"),
        ({"sentence1": Q, "sentence2": P, "label": 0}, "score under .5", "the field 'label' is 0"),
        ({"sentence1": Q, "sentence2": P, "score": 4.5}, "field is no score", "a score lies between 0 and 1"),
        ({"sentence1": Q, "sentence2": P, "label": "yes"}, "field is no score", "'label' is 'yes' and no score"),
        ({"sentence1": Q, "sentence2": P, "gold_label": "neutral"}, "field is no score", "'gold_label' is 'neutral'"),
        ({"query": Q, "positive": P, "negatives": "['n', 'm']"}, "field is not text", "a list that was written"),
        ({"query": Q, "positive": '["a", "b"]'}, "field is not text", "a list that was written as text"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(row, reason, said):
    with pytest.raises(Unusable) as dropped:
        layout(row, "pairs")
    assert dropped.value.reason == reason and said in str(dropped.value)
    assert (problem(row, "pairs") is None) == (reason == "score under .5")


def test_triples_need_negatives():
    with pytest.raises(Unusable, match="the field 'negatives' or 'negative' or 'neg' is missing"):
        layout({"query": Q, "positive": P}, "triples")


def test_every_name_is_in_the_docs():
    text = (ROOT / "docs/data.md").read_text()
    assert [name for names in NAMES.values() for name in names if f"`{name}`" not in text] == []


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
    card = Card()
    rows = [
        {"id": 7, "query": "a b", "positive": "c"},
        {"id": 7, "query": "A  b", "positive": "C"},
        {"id": 7, "query": "a b", "positive": "d", "label": "x"},
        {"query": "e", "positive": "f"},
    ]
    found = list(cleaned(rows, "pairs", card))
    assert [row["id"] for row in found] == ["7", "7#2", "3"] and found[1]["label"] == "x"
    assert card.dropped == {"exact duplicate": 1}


def test_an_id_is_never_that_of_another_row():
    rows = [{"id": name, "query": f"q{i}", "positive": f"p{i}"} for i, name in enumerate(["x#2", "x", "x", "x#2#2"])]
    found = [row["id"] for row in cleaned(rows, "pairs", Card())]
    assert len(set(found)) == 4


def test_several_positives_are_rows_of_their_own():
    card = Card()
    rows = [
        {"id": 1, "query": ["Find it", "a"], "pos": [["", x] for x in ("b", "c", " ", "A")], "neg": ["C", "d"]},
        {"id": "1", "query": "e", "pos": ["f"], "neg": ["f"]},
    ]  # fmt: skip
    found = list(cleaned(rows, "triples", card))
    assert found == [
        {"id": "1", "query": "a", "positive": "b", "negatives": ["d"]},
        {"id": "1#1", "query": "a", "positive": "c", "negatives": ["d"]},
    ]
    assert card.dropped == {"no negative": 1}
    assert card.changed == {"rows added for further positives": 1, "rows whose instructions are left out": 1}


@pytest.mark.parametrize("other", ["Cafe\u0301 noir", "CAFÉ  noir"])
def test_copies_that_differ_in_how_letters_are_composed(other):
    """Else each would be mined as the other's hard negative."""
    rows = [{"query": "q", "positive": "Café noir"}, {"query": "q", "positive": other}]
    assert len(list(cleaned(rows, "pairs", Card()))) == 1
    row = {"query": "q", "positive": "Café noir", "negatives": [other, "n"]}
    assert normalised(row, "triples", Counter())[0]["negatives"] == ["n"]
    near = [{"query": "q", "positive": f"{text} and much else besides"} for text in ("Café noir", other)]
    assert len(without_near(near, 0.99, Card())) == 1


def test_rows_without_near_duplicates_are_streamed():
    rows = [{"query": f"q{at}", "positive": f"p{at}"} for at in range(300)]
    assert most_alive(lambda some: cleaned(some, "pairs", Card()), rows) <= 3


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
    rows = [
        {"query": "who jumps", "positive": near, "label": "fox"},
        {"query": "who jumps", "positive": near + " today", "label": "fox"},
        {"query": "who jumps", "positive": ""},
        {"query": "who jumps"},
        {"query": "another", "positive": "y " * 500_000, "label": "big"},
    ]
    source, out, card = write(tmp_path / "raw.jsonl", rows), tmp_path / "pairs.jsonl", tmp_path / "card.json"
    done = call(main, "--spec", spec(cosine=0.6), "--source", source, "--out", out, "--card", card)
    assert done.returncode == 0, done.stderr
    assert [row["label"] for row in read(out)] == ["fox", "big"]
    found = json.loads(card.read_text())
    assert found["read"] == 5 and found["kept"] == 2
    assert found["dropped"] == {"empty": 1, "missing field": 1, "near duplicate": 1}
    assert found["manifest"]["stage"] == "pairs" and list(found["manifest"]["inputs"]) == [str(source)]


def test_nothing_left_and_a_full_disk(tmp_path):
    source, out = tmp_path / "raw.jsonl", tmp_path / "out" / "pairs.jsonl"
    arguments = ("--source", source, "--out", out, "--card", out.with_name("card.json"))
    write(source, [{"query": "", "positive": "p"}])
    one_sentence(call(main, "--spec", spec(), *arguments), "raw.jsonl", "1 empty")
    write(source, [{"query": f"q{at}", "positive": f"p{at}"} for at in range(3000)])
    one_sentence(run("pairs", "--spec", spec(), *arguments, limit=20000), "nothing half-written")
    assert list(out.parent.iterdir()) == []
    one_sentence(call(main, "--spec", spec(form="pears"), *arguments), "spec.form")
