"""Sentences by hand, and that together they are the text."""

import time

import pytest

from grace.encoder.splitting import rationale_sentences, sentences

TEXTS = {
    "One. Two! Three? Four": ["One.", "Two!", "Three?", "Four"],
    "no stop at all": ["no stop at all"],
    'He said "Stop." Then he left.': ['He said "Stop."', "Then he left."],
    "See Fig. 3 and Dr. Smith, e.g. here. J. Doe et al. wrote np.sum(x) in 3.5 s. Done.": [
        "See Fig. 3 and Dr. Smith, e.g. here.",
        "J. Doe et al. wrote np.sum(x) in 3.5 s.",
        "Done.",
    ],
    "Wait... what? yes.": ["Wait... what? yes."],
    "A title\n\nA line\nthat goes on.\n  Next.": ["A title", "A line\nthat goes on.", "Next."],
    "Steps:\n- one\n- two\n1. three\n* four": ["Steps:", "- one", "- two", "1. three", "* four"],
    "猫です。犬です！鳥": ["猫です。", "犬です！", "鳥"],
    "  Spaces.   Around.  ": ["Spaces.", "Around."],
    "...": ["..."],
    "": [],
    " \n\n ": [],
}


@pytest.mark.parametrize("text", TEXTS)
def test_sentences(text):
    found = sentences(text)
    assert [text[start:end].strip() for start, end in found] == TEXTS[text]
    assert "".join(text[start:end] for start, end in found) == (text if text.strip() else "")


def test_thought_and_statement_are_apart_and_marks_in_neither():
    text = "<think> a b. C d </think> And so. On"
    assert [text[start:end].strip() for start, end in rationale_sentences(text)] == ["a b.", "C d", "And so.", "On"]
    for broken in ("no mark. At all", "<think> never closed. Cut", "a </think> b <think> c", "<think></think>"):
        parts = [broken[start:end].strip() for start, end in rationale_sentences(broken)]
        assert all(parts) and not any("think>" in part for part in parts)
        assert "".join("".join(parts).split()) == broken.replace("<think>", "").replace("</think>", "").replace(" ", "")


@pytest.mark.parametrize("unit", [".", " ", "\n", "\n ", ". ", '."', "a", "\n-", "!?", "A. ", ".\n\n", "。"])
def test_a_long_run_takes_no_longer_than_words(unit):
    text, start = unit * (200_000 // len(unit)), time.perf_counter()
    sentences(text)
    assert time.perf_counter() - start < 2
