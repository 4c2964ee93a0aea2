import json
from concurrent.futures import ProcessPoolExecutor

import pytest

from grace.config import Source
from grace.data import pins
from grace.section import UserError


def source(**changes):
    return Source(**{"kind": "gdrive", "form": "texts", "id": "abc", **changes})


def test_pinned_on_first_use_and_compared_afterwards(tmp_path):
    lock, file = tmp_path / "sources.lock", tmp_path / "rows.jsonl"
    file.write_bytes(b"12345")
    assert pins.find(lock, "mine", source()) is None
    pins.check(lock, "mine", source(), file)
    pin = pins.find(lock, "mine", source())
    assert (pin.size, pin.sha256[:8]) == (5, "5994471a")
    pins.check(lock, "mine", source(), file)
    file.write_bytes(b"12346")
    with pytest.raises(UserError, match=rf"{file}: 5 bytes with sha256 .* pins 5 bytes with sha256 5994471a.*entry"):
        pins.check(lock, "mine", source(), file)
    pins.check(lock, "other", source(id="x"), file)
    assert sorted(json.loads(lock.read_text())) == ["mine", "other"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "sources.lock"]


@pytest.mark.parametrize("change", [{"id": "other"}, {"kind": "hub", "file": "f"}, {"revision": "v2"}])
def test_an_entry_of_another_file(tmp_path, change):
    lock, file = tmp_path / "sources.lock", tmp_path / "rows.jsonl"
    file.write_bytes(b"12345")
    pins.check(lock, "mine", source(), file)
    with pytest.raises(UserError, match=r"the entry 'mine' pins a file of .* delete the entry"):
        pins.find(lock, "mine", source(**change))
    assert pins.find(lock, "mine", source(mirror="http://elsewhere/file"))  # the same file from elsewhere


@pytest.mark.parametrize("content", ["{", "[]", '{"mine": {"kind": "gdrive"}}', '{"mine": 5}'])
def test_a_broken_file(tmp_path, content):
    lock = tmp_path / "sources.lock"
    lock.write_text(content)
    with pytest.raises(UserError, match=r"sources\.lock: not a file of pinned sources"):
        pins.find(lock, "mine", source())


def _pin(folder, number):
    pins.check(folder / "sources.lock", f"source{number}", source(id=str(number)), folder / "rows.jsonl")


def test_jobs_that_pin_at_once_lose_nothing(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"12345")
    with ProcessPoolExecutor(6) as pool:
        for future in [pool.submit(_pin, tmp_path, number) for number in range(60)]:
            future.result()
    assert len(json.loads((tmp_path / "sources.lock").read_text())) == 60
