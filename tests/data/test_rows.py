"""The layouts in which training rows may come (docs/data.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from grace.data.rows import Unusable, layout, problem

Q, P, N, M = "which tool sorts", "this one sorts", "that one paints", "another one digs"


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
    from grace.data.rows import NAMES

    text = (Path(__file__).parents[2] / "docs/data.md").read_text()
    assert [name for names in NAMES.values() for name in names if f"`{name}`" not in text] == []
