import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import pytest

from grace.config.schema import Source
from grace.config.section import UserError
from grace.data import fetch
from grace.data.fetch import Download
from grace.data.source import main
from grace.jobs.files import sha256
from tests.data.commands import ROOT, call, one_sentence
from tests.data.server import serving

# 4 MB, as gdown writes in blocks of 512 kB.
CONTENT = "".join(json.dumps({"text": f"{at} {'word ' * 40}"}) + "\n" for at in range(20_000)).encode()
HALF = len(CONTENT) // 2
# 24 MB, as huggingface_hub writes in blocks of 10 MB.
BIG = "".join(json.dumps({"text": f"{at} {'x' * 1_000_000}"}) + "\n" for at in range(24)).encode()


@pytest.fixture
def server():
    with serving({"/rows.jsonl": CONTENT}) as state:
        yield state


@pytest.fixture
def place(tmp_path):
    return SimpleNamespace(folder=tmp_path / "raw" / "mine.download", lock=tmp_path / "sources.lock")


def source(server, path="/rows.jsonl", **more):
    mirror = server.address + path if server else None
    return Source(**{"kind": "gdrive", "form": "texts", "id": "abc", "mirror": mirror, **more})


def fetched(server, place, **more):
    return Download("mine", source(server, **more), place.folder, place.lock).fetch()


def command(given, place, **more):
    spec = json.dumps({"name": "mine", "source": given.model_dump(), "max_rows": None, **more})
    out = place.folder.with_suffix(".jsonl")
    return ["--spec", spec, "--threads", "1", "--out", str(out), "--lock", str(place.lock)], out


def in_a_process(given, place, **variables):
    arguments = [sys.executable, "-m", "grace.data.source", *command(given, place)[0]]
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables})


def partial(place):
    found = list(place.folder.rglob("*.part"))
    return found[0].stat().st_size if found else 0


def killed(server, given, place, stall, least, **variables):
    """Start a download that the server lets hang, and kill it with -9; returns the bytes that lie there."""
    server.stall = stall
    process = in_a_process(given, place, **variables)
    deadline = time.time() + 120
    while partial(place) < least:
        assert process.poll() is None and time.time() < deadline, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.stall = None
    server.asked.clear()
    return partial(place)


def test_a_killed_download_goes_on(server, place):
    done = killed(server, source(server), place, HALF, HALF - (1 << 20))
    arguments, out = command(source(server), place)
    assert call(main, *arguments).returncode == 0
    assert server.asked[-1] == ("/rows.jsonl", f"bytes={done}-") and done > 0
    assert out.read_bytes() == CONTENT
    assert list(out.parent.iterdir()) == [out]  # the download is not kept
    pin = json.loads(place.lock.read_text())["mine"]
    assert pin == {"kind": "gdrive", "id": "abc", "size": len(CONTENT), "sha256": pin["sha256"]}


def test_a_cut_connection_goes_on_in_the_same_run(server, place):
    server.cut, server.times = HALF, 1
    assert fetched(server, place).read_bytes() == CONTENT
    first, again = (wanted for _, wanted in server.asked)
    assert first is None and HALF - (1 << 20) < int(again.removeprefix("bytes=").removesuffix("-")) <= HALF
    assert fetched(server, place).read_bytes() == CONTENT and len(server.asked) == 2  # pinned: not asked again


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_that_stays_is_one_sentence_and_nothing_is_lost(server, place, monkeypatch, ranges):
    monkeypatch.setattr(fetch, "RETRIES", 0)
    server.cut, server.ranges = HALF, ranges
    with pytest.raises(UserError, match=r"the download failed \(.*incomplete.*sources\.mine\.path") as caught:
        fetched(server, place)
    assert "\n" not in str(caught.value) and not place.lock.exists()
    had = partial(place)
    assert HALF - (1 << 20) < had <= HALF
    server.cut = None
    assert fetched(server, place).read_bytes() == CONTENT
    assert server.asked[-1][1] == (f"bytes={had}-" if ranges else None)  # without ranges it starts anew


def test_another_file_than_pinned(server, place):
    first = fetched(server, place)
    pinned = place.lock.read_text()
    first.unlink()
    server.files["/rows.jsonl"] = CONTENT[:-10] + b"changed}}\n"
    arguments, out = command(source(server), place)
    for _ in range(2):  # the second time without asking again
        done = call(main, *arguments)
        one_sentence(done, str(first), "sources.lock pins", sha256(first), "delete the entry 'mine'")
        assert place.lock.read_text() == pinned and first.read_bytes() == server.files["/rows.jsonl"]
        assert not out.exists()
    assert len(server.asked) == 2
    place.lock.write_text("{}")  # the new file is meant
    assert fetched(server, place) == first
    assert sha256(first) in place.lock.read_text() and server.asked[-1] == ("/rows.jsonl", None)


@pytest.mark.parametrize("page", [b"\n<!DOCTYPE html><title>Log in</title>", b"<HTML>quota</HTML>"])
def test_a_page_is_not_the_file(server, place, page):
    server.files["/rows.jsonl"] = page
    arguments, out = command(source(server), place)
    done = call(main, *arguments)
    one_sentence(done, "web page", server.address, "fetch the file by hand", "sources.mine.path")
    assert not place.lock.exists() and list(out.parent.iterdir()) == []


def test_google_drives_quota_page(server, place, monkeypatch):
    """gdown itself reads a page like Drive's; only the address is another."""
    import requests

    quota = b'<html><p class="uc-error-subcaption">Too many users have viewed this file recently.</p></html>'
    server.files["/uc?id=abc"] = quota
    server.headers["/uc?id=abc"] = {"Content-Type": "text/html; charset=utf-8"}
    real = requests.Session.get

    def here(self, url, **more):
        return real(self, url.replace("https://drive.google.com", server.address), **more)

    monkeypatch.setattr(requests.Session, "get", here)
    monkeypatch.setenv("HOME", str(place.folder.parent))  # gdown keeps cookies
    with pytest.raises(UserError, match=r"drive\.google\.com/file/d/abc.*Too many users.*by hand.*sources\.mine\.path"):
        fetched(server, place, mirror=None)
    server.files["/uc?id=abc"] = CONTENT
    server.headers["/uc?id=abc"] = {"Content-Disposition": 'attachment; filename="all of it.jsonl"'}
    file = fetched(server, place, mirror=None)
    assert file.name == "all of it.jsonl" and file.read_bytes() == CONTENT


def test_too_little_disk(server, place, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=int(1.5 * len(CONTENT))))
    arguments, out = command(source(server), place)
    one_sentence(call(main, *arguments), "GB are needed", "GB are free", "sources.mine.path")
    assert not out.exists() and not place.lock.exists() and partial(place) <= 1 << 20
    monkeypatch.undo()
    fetched(server, place).unlink()
    server.asked.clear()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=int(1.5 * len(CONTENT))))
    one_sentence(call(main, *arguments), "GB are needed")
    assert server.asked == []  # its size is pinned


def test_an_address_that_is_none_and_a_missing_file(server, place):
    with pytest.raises(UserError, match=r"sources\.mine\.mirror: 'ftp://x/y' is no http"):
        fetched(server, place, mirror="ftp://x/y")
    with pytest.raises(UserError, match=r"mirror http.*404.*sources\.mine\.path"):
        fetched(server, place, path="/other")


# The hub, as far as its addresses go: a commit, a size and an entity tag in the answer to HEAD.

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(server):
    for revision in ("main", COMMIT):
        path = f"/datasets/some/set/resolve/{revision}/rows.jsonl"
        server.files[path] = BIG
        server.headers[path] = {"ETag": '"tag"', "X-Repo-Commit": COMMIT}
    return server


def of_hub():
    return Source(kind="hub", form="texts", id="some/set", file="rows.jsonl")


def variables(server, tmp_path):
    return {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}


def test_a_killed_download_from_the_hub_goes_on_at_its_commit(hub, place, tmp_path):
    done = killed(hub, of_hub(), place, 15 << 20, 10 << 20, **variables(hub, tmp_path))
    process = in_a_process(of_hub(), place, **variables(hub, tmp_path))
    assert process.wait() == 0, process.communicate()[1]
    asked = [(path, wanted) for path, wanted in hub.asked if "resolve" in path]
    assert asked == [(f"/datasets/some/set/resolve/{COMMIT}/rows.jsonl", f"bytes={done}-")] and done > 0
    _, out = command(of_hub(), place)
    assert out.read_bytes() == BIG and not place.folder.exists()
    pin = json.loads(place.lock.read_text())["mine"]
    assert pin["commit"] == COMMIT and pin["size"] == len(BIG) and "revision" not in pin
    # The branch moves on; what was pinned is asked for.
    hub.files.pop("/datasets/some/set/resolve/main/rows.jsonl")
    process = in_a_process(of_hub(), place, **variables(hub, tmp_path))
    assert process.wait() == 0, process.communicate()[1]


def test_a_hub_that_cannot_be_reached(place, tmp_path):
    with serving({}) as state:
        closed = variables(state, tmp_path)
    process = in_a_process(of_hub(), place, **closed)
    done = SimpleNamespace(stderr=process.communicate()[1], returncode=process.returncode)
    one_sentence(done, "rows.jsonl of the data set some/set", "the download failed", "sources.mine.path")
    assert not place.lock.exists() and not place.folder.exists()


def test_a_filled_cache_serves_without_network(place, tmp_path):
    cache = tmp_path / "hf/hub/datasets--some--set"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text(COMMIT)
    (cache / "snapshots" / COMMIT).mkdir(parents=True)
    (cache / "snapshots" / COMMIT / "rows.jsonl").write_bytes(CONTENT)
    with serving({}) as state:
        closed = variables(state, tmp_path)
    process = in_a_process(of_hub(), place, **closed)
    assert process.wait() == 0, process.communicate()[1]
    assert json.loads(place.lock.read_text())["mine"]["commit"] == COMMIT
    assert (cache / "snapshots" / COMMIT / "rows.jsonl").exists()


# sources.lock

GIVEN = Source(kind="gdrive", form="texts", id="abc")


def test_pinned_on_first_use_and_compared_afterwards(tmp_path):
    lock, file = tmp_path / "sources.lock", tmp_path / "rows.jsonl"
    file.write_bytes(b"12345")
    assert fetch.find_pin(lock, "mine", GIVEN) is None
    fetch.check_pin(lock, "mine", GIVEN, file)
    pin = fetch.find_pin(lock, "mine", GIVEN)
    assert (pin.size, pin.sha256[:8]) == (5, "5994471a")
    fetch.check_pin(lock, "mine", GIVEN, file)
    file.write_bytes(b"12346")
    with pytest.raises(UserError, match=rf"{file}: 5 bytes with sha256 .* pins 5 bytes with sha256 5994471a.*entry"):
        fetch.check_pin(lock, "mine", GIVEN, file)
    fetch.check_pin(lock, "other", source(None, id="x"), file)
    assert sorted(json.loads(lock.read_text())) == ["mine", "other"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "sources.lock"]


@pytest.mark.parametrize("change", [{"id": "other"}, {"kind": "hub", "file": "f"}, {"revision": "v2"}])
def test_an_entry_of_another_file(tmp_path, change):
    lock, file = tmp_path / "sources.lock", tmp_path / "rows.jsonl"
    file.write_bytes(b"12345")
    fetch.check_pin(lock, "mine", GIVEN, file)
    with pytest.raises(UserError, match=r"the entry 'mine' pins a file of .* delete the entry"):
        fetch.find_pin(lock, "mine", source(None, **change))
    assert fetch.find_pin(lock, "mine", source(None, mirror="http://elsewhere/file"))  # the same file from elsewhere


@pytest.mark.parametrize("content", ["{", "[]", '{"mine": {"kind": "gdrive"}}', '{"mine": 5}'])
def test_a_broken_file(tmp_path, content):
    lock = tmp_path / "sources.lock"
    lock.write_text(content)
    with pytest.raises(UserError, match=r"sources\.lock: not a file of pinned sources"):
        fetch.find_pin(lock, "mine", GIVEN)


def _pin(folder, number):
    fetch.check_pin(folder / "sources.lock", f"source{number}", source(None, id=str(number)), folder / "rows.jsonl")


def test_jobs_that_pin_at_once_lose_nothing(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"12345")
    with ProcessPoolExecutor(6) as pool:
        for future in [pool.submit(_pin, tmp_path, number) for number in range(60)]:
            future.result()
    assert len(json.loads((tmp_path / "sources.lock").read_text())) == 60
