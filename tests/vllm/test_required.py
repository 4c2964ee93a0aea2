"""vLLM missing, too old, too new: a sentence, before anything is imported. Runs with and without vLLM."""

from importlib import metadata
from pathlib import Path

import pytest

from grace.config.section import UserError
from grace.encoder.engines import vllm


def installed(monkeypatch, **versions):
    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


def test_missing(monkeypatch):
    installed(monkeypatch)
    with pytest.raises(UserError, match=r"evaluation\.engine: vLLM is not installed .* evaluation\.engine: transform"):
        vllm.VllmEngine("nowhere", None)


@pytest.mark.parametrize("version", ["0.21.2", "0.33.0", "1.0"])
def test_unsupported(monkeypatch, version):
    installed(monkeypatch, vllm=version)
    with pytest.raises(UserError, match=rf"grace\.engine: vllm {version} is installed, but 0\.22 to 0\.32"):
        vllm.require_vllm("grace.engine")


@pytest.mark.parametrize("name", vllm.PACKAGES)
def test_supported(monkeypatch, name):
    installed(monkeypatch, **{name: "0.32.0+cpu"})
    assert vllm.require_vllm("grace.engine") == "0.32.0+cpu"


def test_seeds_are_never_the_one_that_means_none():
    assert [vllm.seed_of(key) for key in (-1, 0, 5, -(1 << 63))] == [(1 << 63) - 1, 0, 5, 0]


def test_its_environment_agrees_with_the_lock():
    """What the tests judge is the same version in both."""
    root = Path(__file__).parents[2]
    ours, theirs = (
        dict(line.split("==") for line in (root / name).read_text().split() if "==" in line)
        for name in ("requirements.lock", "envs/vllm-cpu.txt")
    )
    for name in ("torch", "transformers", "tokenizers", "trl", "accelerate", "peft", "datasets", "pydantic", "pytest"):
        assert ours[name] == theirs[name]
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(theirs)
