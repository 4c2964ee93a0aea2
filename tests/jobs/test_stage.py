"""The frame of a stage: its command line, and one sentence for what a user can mend."""

import errno
import os
import sys

import pytest

from grace.config.section import Section, UserError, packed, unpacked
from grace.encoder import merge
from grace.jobs.stage import CACHES, entry, in_one_sentence
from grace.report import readme


class Spec(Section):
    fails: bool = False


@entry(Spec)
def main(spec, paths) -> None:
    if spec.fails:
        raise UserError("there is nothing to do.")


def test_a_long_spec_is_compressed_on_the_command_line_and_read_again():
    short, long = '{"fails": false}', '{"fails": false' + " " * 200_000 + "}"
    assert packed(short) == short and len(packed(long)) < 2000 and unpacked(packed(long)) == long
    main(["--spec", packed(long)])
    with pytest.raises(SystemExit, match=r"^error: there is nothing to do\.$"):
        main(["--spec", packed(long.replace("false", "true"))])


@pytest.mark.parametrize("spec", ["{", "zlib:x", "zlib:eA==", "[" * 100_000, "1" * 5000, "[1]", "null", '"x"'])
def test_a_spec_that_is_none_is_one_sentence(spec):
    with pytest.raises(SystemExit, match=r"^error: .*spec.*\.$"):
        main(["--spec", spec])


class SafetensorError(Exception):
    """As safetensors raises it."""


def os_error(number):
    return OSError(number, os.strerror(number), "/data/out")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (UserError("a.jsonl: no such file."), "error: a.jsonl: no such file."),
        (os_error(errno.ENOSPC), "error: the disk is full at /data/out: nothing half-written was kept; free space"),
        (SafetensorError("I/O error (os error 28)"), "error: the disk is full: nothing half-written was kept"),
        (os_error(errno.EROFS), "error: /data/out: cannot be written (Read-only file system)."),
        (os_error(errno.ENOTDIR), "error: /data/out: cannot be written (Not a directory)."),
    ],
)
def test_what_a_user_can_mend(raised, said):
    with pytest.raises(SystemExit) as stopped, in_one_sentence():
        raise raised
    assert str(stopped.value).startswith(said) and "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("variables", "path", "advice"),
    [
        ({}, "/home/me/.cache", "; set HF_HOME to a folder that can be."),
        ({}, "/home/me/.cache/huggingface/hub/models", "; set HF_HOME to a folder that can be."),
        ({"XDG_CACHE_HOME": "/var/me"}, "/var/me/huggingface", "; set HF_HOME to a folder that can be."),
        ({"HF_HOME": "/models"}, "/models/datasets/json", "; set HF_HOME to a folder that can be."),
        ({"HF_DATASETS_CACHE": "/data/sets"}, "/data/sets/json", "; set HF_DATASETS_CACHE to a folder that can be."),
        ({"HF_HOME": "/models"}, "/home/me/.cache/huggingface", "."),
        ({}, "/home/me/results/out.json", "."),
    ],
)
def test_a_cache_that_cannot_be_written_can_be_put_elsewhere(monkeypatch, variables, path, advice):
    for name in (*CACHES, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped, in_one_sentence():
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    assert str(stopped.value) == f"error: {path}: cannot be written (Read-only file system){advice}"


@pytest.mark.parametrize("raised", [ValueError("a bug"), SafetensorError("broken header"), os_error(errno.EBADF)])
def test_all_else_keeps_its_traceback(raised):
    with pytest.raises(type(raised)), in_one_sentence():
        raise raised


def test_commands_that_are_no_stages(adapted_folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["merge", str(adapted_folder), "-o", str(tmp_path / "file/out")])
    with pytest.raises(SystemExit, match=r"^error: .*cannot be written \(Not a directory\)\.$"):
        merge.main()
    with pytest.raises(SystemExit, match=r"^error: .*README\.md: no such file\.$"):
        readme.main([str(tmp_path), str(tmp_path / "README.md")])
