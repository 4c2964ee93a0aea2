"""The store: what comes back is what was put in, from any job, after any kill."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from grace.config.schema import Pooling, Prompt
from grace.config.section import UserError
from grace.config.specs import EncodeSpec
from grace.encoder import store
from grace.encoder.encoder import Rationale
from grace.encoder.store import Index, Store, digests_of

SETTINGS = {"precision": "float32", "weights": "a"}
WIDTH = 8


def vectors(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def texts(count, prefix="text"):
    return digests_of(f"{prefix} {i}" for i in range(count))


def said(count):
    return [Rationale(f"r{i}", list(range(i % 5, i % 5 + i % 4)), i % 2 == 0, i % 3 == 0) for i in range(count)]


@pytest.fixture
def make(tmp_path):
    return lambda seconds=1e9, **settings: Store(tmp_path, SETTINGS | settings, WIDTH, seconds)


def put(one, keys, values, made=None):
    one.add(keys, values, made)
    one.flush()


def files(one, pattern="[!.]*.parquet"):
    return sorted(path.name for path in one.folder.glob(pattern))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_what_is_read_is_the_same_before_and_after_it_is_written(make, precision):
    one, keys, values = make(precision=precision), texts(50), vectors(50)
    put(one, keys[:30], values[:30])
    one.add(keys[30:], values[30:])
    order = np.random.default_rng(0).integers(50, size=200)  # any order, with repeats
    held = one.read(keys[order])
    one.flush()
    assert held.dtype == np.float32
    for again in (one, make(precision=precision)):
        assert np.array_equal(again.read(keys[order]), held)
    assert np.array_equal(held, values[order].astype(precision).astype(np.float32))


def test_rationales_come_back_token_by_token(make):
    one, keys, made = make(), texts(40), said(40)
    put(one, keys[:17], vectors(17), made[:17])
    one.add(keys[17:], vectors(23), made[17:])
    for reopened in (False, True):
        again = make() if reopened else one
        lengths, cut, formed = again.notes(keys[::-1])
        assert again.rationales(keys[::-1]) == [r.token_ids for r in made[::-1]]
        assert lengths.tolist() == [len(r.token_ids) for r in made[::-1]]
        assert cut.tolist() == [r.truncated for r in made[::-1]]
        assert formed.tolist() == [r.well_formed for r in made[::-1]]


def test_an_unknown_text_is_unknown(make):
    one = make()
    one.add(texts(3), vectors(3))
    assert one.known(digests_of(["text 1", "text 9", "\ud800", ""])).tolist() == [True, False, False, False]
    with pytest.raises(KeyError):
        one.read(digests_of(["text 9"]))
    assert one.read(texts(0)).shape == (0, WIDTH)
    assert one.rationales(texts(3)) == [[], [], []] and one.notes(texts(3))[0].tolist() == [0, 0, 0]


def test_a_job_sees_what_another_wrote(make):
    one, other = make(), make()
    put(one, texts(5, "one"), vectors(5, 1))
    other.add(texts(5, "other"), vectors(5, 2))
    other.refresh(older_than=1000)
    assert not other.known(texts(5, "one")).any()
    other.refresh()
    assert np.array_equal(other.read(texts(5, "one")), vectors(5, 1))
    assert np.array_equal(other.read(texts(5, "other")), vectors(5, 2))


def test_segments_are_written_by_time_and_by_size(make, monkeypatch):
    one = make(seconds=0.0)
    one.add(texts(1), vectors(1))
    assert len(files(one)) == 1
    slow = make(weights="b")
    slow.add(texts(1), vectors(1))
    assert files(slow) == []
    monkeypatch.setattr(store, "BYTES", 10 * WIDTH * 4)
    slow.add(texts(9, "more"), vectors(9))
    assert len(files(slow)) == 1


def test_a_job_merges_its_segments_and_others_find_the_rows_again(make, monkeypatch):
    monkeypatch.setattr(store, "MERGE_AT", 4)
    keys, values, made = texts(70), vectors(70), said(70)
    with make(seconds=0.0) as one:
        for i in range(30):
            one.add(keys[i : i + 1], values[i : i + 1], made[i : i + 1])
            assert len(files(one)) <= 3 + (i + 1) // 4
            assert np.array_equal(one.read(keys[: i + 1]), values[: i + 1])
        other = make()  # knows the segments that are merged away next
        for i in range(30, 70):
            one.add(keys[i : i + 1], values[i : i + 1], made[i : i + 1])
    assert np.array_equal(other.read(keys[:30]), values[:30])
    assert other.rationales(keys[:30]) == [r.token_ids for r in made[:30]]
    last = make()
    assert len(files(last)) < 20 and files(last, "[!.]*.npy") == [n.replace("parquet", "npy") for n in files(last)]
    assert np.array_equal(last.read(keys), values) and len(last) == 70
    assert last.rationales(keys) == [r.token_ids for r in made]


def test_rows_that_are_merged_while_a_job_looks_are_found(make, monkeypatch):
    keys, values = texts(9), vectors(9)
    one = make(seconds=0.0)
    for i in range(9):
        one.add(keys[i : i + 1], values[i : i + 1])
    read = store.read_segment

    def merging(path):
        monkeypatch.setattr(store, "read_segment", read)
        one.__exit__(None, None, None)  # merges what the other has listed already
        return read(path)

    monkeypatch.setattr(store, "read_segment", merging)
    assert np.array_equal(make().read(keys), values)


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "gone"])
def test_a_broken_segment_is_left_out_and_said(make, caplog, suffix, damage):
    one = make()
    put(one, texts(20), vectors(20), said(20))
    (broken,) = one.folder.glob(f"*.{suffix}")
    put(one, texts(20, "good"), vectors(20, 1), said(20))
    content = broken.read_bytes()
    if damage == "gone":
        broken.unlink()
    else:
        broken.write_bytes({"cut": content[:-9], "empty": b"", "noise": b"\x07" * len(content)}[damage])
    again = make()
    assert np.array_equal(again.read(texts(20, "good")), vectors(20, 1))
    assert not again.known(texts(20)).any()
    put(again, texts(20), vectors(20))  # embedded again
    assert np.array_equal(make().read(texts(20)), vectors(20))
    assert (broken.name.removesuffix(suffix) in caplog.text) == (damage != "gone")


def test_what_a_kill_left_is_removed_once_it_is_old(make):
    one = make()
    put(one, texts(2), vectors(2))
    left = [one.folder / ".half.npy.123.tmp", one.folder / "half.npy"]
    for path in left:
        path.write_bytes(b"x")
    make()
    assert all(path.exists() for path in left)  # perhaps another job is writing them
    for path in [*left, *one.folder.glob("*")]:
        os.utime(path, (0, 0))
    assert len(make()) == 2 and not any(path.exists() for path in left)


def test_settings_of_another_model_lying_in_the_way(make):
    one = make()
    put(one, texts(1), vectors(1))
    path = one.folder / "settings.json"
    assert json.loads(path.read_text()) == SETTINGS
    path.write_text(json.dumps(SETTINGS | {"weights": "other"}))
    with pytest.raises(UserError, match="other settings \\(weights\\)"):
        make()
    path.write_text('{"weights": ')
    with pytest.raises(UserError, match=r"settings\.json: not whole"):
        make()


SPEC = EncodeSpec(
    prompt=Prompt(instruction="Say it again.", max_prompt_tokens=64),
    pooling=Pooling(method="mean", layer="last", normalize=True),
    rationales=True, direct_prompt="chat", max_new_tokens=8, sampling_temperature=1.0, batch_size=4, seed=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("base", "change", "same"),
    [
        ({}, {"batch_size": 64}, True),
        ({}, {"direct_prompt": "plain"}, True),
        ({}, {"seed": 1}, False),
        ({}, {"max_new_tokens": 9}, False),
        ({}, {"engine": "vllm"}, False),
        ({}, {"rationales": False}, False),
        ({}, {"prompt": Prompt(instruction="Another.", max_prompt_tokens=64)}, False),
        ({"sampling_temperature": 0.0}, {"seed": 1}, True),
        ({"rationales": False}, {"seed": 1, "max_new_tokens": 9, "sampling_temperature": 0.5}, True),
        ({"rationales": False}, {"direct_prompt": "plain"}, False),
    ],
)
def test_a_folder_is_shared_by_what_gives_the_same_embeddings(base, change, same):
    one = SPEC.model_copy(update=base)
    other = one.model_copy(update=change)
    known = store.settings(one, "w", "float32", "float16")
    assert (known == store.settings(other, "w", "float32", "float16")) == same
    assert known != store.settings(one, "v", "float32", "float16")
    assert known != store.settings(one, "w", "bfloat16", "float16")
    templates = [store.settings(one, "w", "float32", "float16", template) for template in ("", "a", "b")]
    assert len({store.folder_under("", settings) for settings in templates}) == 3


def test_embeddings_that_are_not_finite_are_refused(make):
    wrong = vectors(3)
    wrong[1, 3] = np.inf
    with pytest.raises(UserError, match=r"^the model: its embeddings of 1 of 3 texts .* not finite, .* train or fetch"):
        make().add(texts(3), wrong)
    wrong[1, 3] = 65_520.0  # the first number that float16 rounds to infinity
    make().add(texts(3), wrong)
    with pytest.raises(UserError, match=r"1 of 3 texts .* too large for float16; set evaluation\.store: float32"):
        make(precision="float16").add(texts(3), wrong)


def test_a_damaged_file_of_embeddings_is_named(make):
    one = make()
    put(one, texts(3), vectors(3))
    (path,) = one.folder.glob("*.npy")
    damaged = np.load(path)
    damaged[2] = np.nan
    np.save(path, damaged)
    assert np.isfinite(make().read(texts(2))).all()
    with pytest.raises(UserError, match="holds 1 embeddings that are not finite; delete it"):
        make().read(texts(3))


def test_too_little_room_is_said_before_anything_is_embedded(make, monkeypatch):
    one = make(max_new_tokens=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000_000))
    one.check_room(5_000_000)
    with pytest.raises(UserError, match=r"8,000,000 embeddings need up to 2\.1 GB and 2\.0 GB are free"):
        one.check_room(8_000_000)


def test_a_full_disk_loses_nothing_that_was_written(make, monkeypatch):
    one = make()
    put(one, texts(5), vectors(5))

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    one.add(texts(5, "more"), vectors(5))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            one.flush()
    assert len(make()) == 5 and len(files(one, "*")) == 3  # settings and one segment
    one.flush()
    assert len(make()) == 10


def test_killed_while_writing(make, tmp_path):
    """kill -9 at any moment: every segment that counts is whole, and its numbers are right."""
    code = (
        "import itertools, sys, numpy as np\n"
        "from grace.encoder.store import digests_of\nfrom grace.encoder.store import Store\n"
        f"one = Store(sys.argv[1], {SETTINGS!r}, {WIDTH}, 0.02)\n"
        "for i in itertools.count(len(one)):\n"
        f"    one.add(digests_of([f'text {{i}}']), np.full((1, {WIDTH}), i, dtype=np.float32))\n"
    )
    known, folder = 0, make().folder
    for _ in range(3):
        before = len(list(folder.glob("*.parquet")))
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
        while len(list(folder.glob("*.parquet"))) < before + 5:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        one = make()
        assert len(one) > known
        known = len(one)
        expected = np.repeat(np.arange(known, dtype=np.float32)[:, None], WIDTH, 1)
        assert np.array_equal(one.read(texts(known)), expected)


def test_index_against_a_dictionary():
    rng = np.random.default_rng(0)
    index, expected, row = Index(), {}, 0
    for size in [1, 1, 500, 3, 0, 40, 2000, 1]:
        # Few first halves, so that many digests share theirs, and some digests come twice.
        digests = np.stack([rng.integers(50, size=size), rng.integers(200, size=size)], 1).astype(np.uint64)
        index.add(digests, np.arange(row, row + size))
        for i, key in enumerate(map(tuple, digests.tolist())):
            expected.setdefault(key, row + i)
        row += size
    asked = np.stack([rng.integers(60, size=3000), rng.integers(220, size=3000)], 1).astype(np.uint64)
    assert index.find(asked).tolist() == [expected.get(key, -1) for key in map(tuple, asked.tolist())]
    assert len(index.blocks) < 5 and sum(part.nbytes for block in index.blocks for part in block) == 20 * len(index)


def test_segment_files_are_ordinary_numpy_and_parquet(make):
    one = make(precision="float16")
    put(one, texts(9), vectors(9), said(9))
    (path,) = one.folder.glob("*.npy")
    assert np.array_equal(np.load(path), vectors(9).astype(np.float16))
    assert pq.read_table(path.with_name(path.name.removesuffix("npy") + "parquet")).schema.equals(store.SCHEMA)
