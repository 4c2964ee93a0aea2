"""What may be a repository of the hub, and what broken files lead to."""

import pytest

from grace.encoder.folders import loading_from, may_be_repository
from grace.section import UserError


def test_what_may_be_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert may_be_repository("Qwen/Qwen2.5-0.5B-Instruct") and may_be_repository("gpt2")
    assert not any(may_be_repository(path) for path in ("here", "here/model", "a/b/c", "./gpt2", "/gpt2", tmp_path))


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (KeyError("lost"), "here: no tokenizer can be loaded from here ('lost')."),
        (OSError("first\nsecond"), "here: no tokenizer can be loaded from here (first)."),
        (OSError("these:\nall of them\nlast"), "here: no tokenizer can be loaded from here (these: all of them)."),
        (RuntimeError(), "here: no tokenizer can be loaded from here (RuntimeError)."),
        (UserError("already one sentence."), "already one sentence."),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(raised, told):
    with pytest.raises(UserError) as caught, loading_from("here", "tokenizer"):
        raise raised
    assert str(caught.value) == told


def test_an_interrupt_stays_one():
    with pytest.raises(KeyboardInterrupt), loading_from("here"):
        raise KeyboardInterrupt
