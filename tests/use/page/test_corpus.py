import json

import numpy as np
import pytest

from grace.section import UserError
from grace.use.page import corpus

ROWS = [
    {"id": "a", "query": "q1", "positive": "d1", "label": "x"},
    {"id": "b", "query": "q2", "positive": "d1", "label": "y"},
    {"id": "c", "query": "q1", "positive": "d2"},
    {"text": "d3"},
]


def test_equal_texts_are_one_and_keep_all_their_pairs():
    made = corpus.of(ROWS)
    assert [one.text for one in made.texts] == ["q1", "q2", "d1", "d2", "d3"]
    assert made.true == [[2, 3], [2], [0, 1], [0], []]
    assert made.kinds.tolist() == [0, 0, 1, 1, 1]
    assert made.texts[2] == ("d1", corpus.DOCUMENT, "a", "x")


def test_texts_left_out_leave_their_pairs_too():
    made = corpus.of(ROWS).where(np.array([True, True, False, True, True]))
    assert [one.text for one in made.texts] == ["q1", "q2", "d2", "d3"]
    assert made.true == [[2], [], [0], []]


def test_some_texts_are_whole_pairs_in_an_order_that_nobody_chose():
    rows = [{"query": f"q{i}", "positive": f"d{i}"} for i in range(30)]
    one, other = corpus.of(rows), corpus.of(rows[::-1])
    kept = corpus.some(one, 11)
    texts = {text.text for text, at in zip(one.texts, kept, strict=True) if at}
    assert len(texts) == 10 and {name[1:] for name in texts if name[0] == "q"} == {
        name[1:] for name in texts if name[0] == "d"
    }
    again = corpus.some(other, 11)
    assert texts == {text.text for text, at in zip(other.texts, again, strict=True) if at}
    assert corpus.some(one, 60).all()


def test_texts_come_from_each_split_or_from_the_task_data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/tasks.json").write_text(json.dumps({"test": ROWS[:1]}))
    assert len(corpus.read(tmp_path).texts) == 2
    for name in ("one", "two"):
        (tmp_path / f"data/split/{name}").mkdir(parents=True)
        (tmp_path / f"data/split/{name}/test.jsonl").write_text(json.dumps({"query": f"q {name}", "positive": name}))
    assert {(text.text, text.label) for text in corpus.read(tmp_path).texts} == {
        ("q one", "one"), ("one", "one"), ("q two", "two"), ("two", "two")
    }  # fmt: skip


def test_a_folder_without_texts_is_refused(tmp_path):
    with pytest.raises(UserError, match="no held-out texts"):
        corpus.read(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        corpus.read(tmp_path / "none")
