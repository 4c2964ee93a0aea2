"""What is read out of replies, against what a person reads out of them (replies.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from grace.evaluation import answers

REPLIES = yaml.safe_load((Path(__file__).parent / "replies.yaml").read_text(encoding="utf-8"))
VERDICTS = {"right": True, "wrong": False, "none": None}
ROWS: dict[str, Any] = {
    "gsm8k": lambda gold: {"answer": f"some steps with 99\n#### {gold}"},
    "mmlu": lambda gold: {"answer": "ABCD".index(gold), "choices": ["Madrid", "Paris", "Vienna", "None of the above"]},
    "triviaqa": lambda gold: {"answer": {"aliases": ["another name", gold]}},
    "bbh": lambda gold: {"target": gold},
}
HEAD = '''from typing import List

STEP = 1


def grow(values: List[int]) -> List[int]:
    """Each value, one larger.
    >>> grow([1, 2])
    [2, 3]
    """
'''
FUNCTION = {"prompt": HEAD, "entry_point": "grow"}


def cases(*names: str) -> list[Any]:
    return [
        pytest.param(name, gold, verdict, said, id=f"{name}-{verdict}-{said!r}"[:60])
        for name in names
        for gold, verdicts in REPLIES[name].items()
        for verdict, replies in verdicts.items()
        for said in replies
    ]


@pytest.mark.parametrize(("name", "gold", "verdict", "said"), cases(*ROWS))
def test_a_reply_is_read_as_a_person_reads_it(name, gold, verdict, said):
    assert answers.JUDGES[name](said, ROWS[name](gold)) is VERDICTS[verdict]


@pytest.mark.parametrize(("name", "gold", "verdict", "said"), cases("humaneval"))
def test_the_program_in_a_reply_is_found(name, gold, verdict, said):
    program = answers.program(said, FUNCTION)
    assert (program is None) == (verdict == "none")
    if program is not None:
        scope: dict[str, Any] = {"__name__": "__main__"}
        try:
            exec(program, scope)  # written above
            passed = scope["grow"]([1, 2]) == [2, 3]
        except Exception:
            passed = False
        assert passed == (verdict == "right"), program


def test_there_are_some_fifty_replies_for_each_task():
    for verdicts in REPLIES.values():
        assert sum(len(replies) for group in verdicts.values() for replies in group.values()) >= 50
