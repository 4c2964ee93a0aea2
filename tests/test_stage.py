"""The frame of a stage: its last line in the log, and what counts as start-up in it."""

import gc
import logging
import subprocess
import sys
import time

import pytest

from grace import spent, stage
from grace.section import Section, UserError, packed, unpacked


class Spec(Section):
    fails: bool = False


def work(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@stage.entry(Spec)
def main(spec, paths) -> None:
    with stage.imports():
        assert not gc.isenabled()
        work(0.2)
    assert gc.isenabled()
    work(0.3)
    subprocess.run([sys.executable, "-c", "x = sum(i * i for i in range(1_000_000))"], check=True)
    if spec.fails:
        raise UserError("there is nothing to do.")


def test_a_long_spec_is_compressed_on_the_command_line_and_read_again(caplog):
    short, long = '{"fails": false}', '{"fails": false' + " " * 200_000 + "}"
    assert packed(short) == short and len(packed(long)) < 2000 and unpacked(packed(long)) == long
    with pytest.raises(SystemExit, match=r"^error: there is nothing to do\.$"):
        main(["--spec", packed(long.replace("false", "true"))])


def test_a_stage_says_last_what_it_has_used(caplog, tmp_path):
    before = time.process_time()
    with caplog.at_level(logging.INFO):
        main(["--spec", "{}"])
    (tmp_path / "log").write_text(caplog.messages[-1] + "\n")
    used = spent.read(tmp_path / "log")
    assert before + 0.19 <= used.start_up <= used.cpu - 0.29
    assert used.cpu == pytest.approx(time.process_time(), abs=0.1)
    assert used.others > 0.05


def test_a_stage_that_fails_says_nothing_of_it(caplog):
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit, match=r"^error: there is nothing to do\.$"):
        main(["--spec", '{"fails": true}'])
    assert not caplog.messages


def test_imports_that_fail_leave_garbage_collection_on():
    with pytest.raises(ImportError), stage.imports():
        raise ImportError
    assert gc.isenabled()


@pytest.mark.parametrize("spec", ["{", "zlib:x", "zlib:eA==", "[" * 100_000, "1" * 5000, "[1]", "null", '"x"'])
def test_a_spec_that_is_none_is_one_sentence(spec):
    with pytest.raises(SystemExit, match=r"^error: .*spec.*\.$"):
        main(["--spec", spec])
