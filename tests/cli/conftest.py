"""Runs `grace` in this process, with the tiny model named in the environment as a user would."""

from __future__ import annotations

import io
import sys
from typing import NamedTuple

import pytest

from grace.cli.cli import main

SHORT = ["--max-new-tokens", "6"]


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def grace(capfd, monkeypatch, tiny_folder):
    """Call it with a command line, and with what stands on standard input."""
    monkeypatch.setenv("GRACE_MODEL", str(tiny_folder))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object, given: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        code = ended.value.code
        found = capfd.readouterr()
        # As the interpreter does with the words of an exit.
        return Done(1, found.out, f"{found.err}{code}\n") if isinstance(code, str) else Done(code or 0, *found)

    return run


@pytest.fixture
def mistake(grace):
    """Call it with a command line that is refused; gives the one sentence."""

    def run(*words: object, given: bytes = b"") -> str:
        done = grace(*words, given=given)
        assert done.code == 1 and done.out == "", done
        assert done.err.startswith("error: ") and done.err.count("\n") == 1 and "Traceback" not in done.err, done.err
        return done.err.removeprefix("error: ").strip()

    return run
