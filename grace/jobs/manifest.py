"""The record of how a result was made: settings, seeds, versions, hashes, hardware, seconds."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from grace.config.section import Section, UserError
from grace.jobs.files import read_json, sha256, write_json

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "mteb",
    "lm_eval",
    "sentence-transformers",
    "pandas",
)
# Of an encoder-only model, how Sentence Transformers composes it.
MODULES = (
    "modules.json",
    "*sentence*.json",
    "tokenizer_config.json",
    "vocab.txt",
    "*_*/config.json",
    "*_*/*.safetensors",
)
WEIGHTS = ("*.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json")
# Of an adapter, whose backbone lies elsewhere: the one that pools, and in a folder of its own one that writes.
ADAPTER, GENERATOR = "adapter_config.json", "generator"


def make(stage: str, spec: Section, inputs: list[Path | str], started: float, **more: Any) -> dict[str, Any]:
    """Everything needed to judge and repeat a result.

    Args:
        stage: name of the module.
        spec: its settings.
        inputs: files (hashed) or model folders (their weights hash).
        started: `time.time()` at the start of the job.
    """
    return {
        "stage": stage,
        "settings": spec.model_dump(),
        "inputs": {str(path): weights_hash(path) if Path(path).is_dir() else sha256(path) for path in inputs},
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": commit(),
        "hardware": hardware(),
        "seconds": round(time.time() - started, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // (1024 if sys.platform != "darwin" else 1 << 20),
        **more,
    }


def weights_hash(folder: Path | str) -> str:
    """One hash over the files that decide what a model computes, of an adapter also over its backbone's hash.

    Raises:
        UserError: when the folder holds no weights.
    """
    import hashlib

    backbone = _backbone_hash(folder)
    parts = [Path(folder)] if backbone is None else [Path(folder), Path(folder) / GENERATOR]
    files = [path for part in parts for path in _weights(part)]
    if not any(path.suffix == ".safetensors" for path in files):
        raise UserError(f"{folder}: holds no *.safetensors weights; give the folder of a Hugging Face model.")
    digest = hashlib.sha256((backbone or "").encode())
    for path in files:
        if path.name == ADAPTER:  # where the backbone lies does not matter
            known = {**read_json(path), "base_model_name_or_path": None}
            digest.update(path.name.encode() + json.dumps(known, sort_keys=True).encode())
        else:
            digest.update(path.name.encode() + sha256(path).encode())
    return digest.hexdigest()


def writer_hash(folder: Path | str) -> str:
    """The hash under which the model's rationales may lie already: its backbone's where an adapter pools and none
    writes, else its own.

    Raises:
        UserError: as `weights_hash`.
    """
    own, backbone = weights_hash(folder), _backbone_hash(folder)
    return own if backbone is None or (Path(folder) / GENERATOR).is_dir() else backbone


def _weights(folder: Path) -> list[Path]:
    composed = (folder / "modules.json").exists() and not (folder / "grace.json").exists()
    patterns = (*WEIGHTS, ADAPTER, *(MODULES if composed else ()))
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def _backbone_hash(folder: Path | str) -> str | None:
    """Of the model that an adapter belongs to; None of an ordinary model."""
    settings = Path(folder) / "grace.json"
    known = read_json(settings).get("adapter") if settings.exists() else None
    return known["weights"] if known else None


def settings_hash(spec: Section) -> str:
    import hashlib

    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:12]


def write_result(path: Path | str, manifest: dict[str, Any], **content: Any) -> None:
    """Write a result file: its manifest, which also holds a hash of the content, and the content."""
    record = {**manifest, "content": content_hash(content)}
    write_json(path, {"manifest": record, **content})


def content_hash(content: dict[str, Any]) -> str:
    """Of all of a result but its manifest."""
    import hashlib

    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def edited(result: dict[str, Any]) -> bool:
    """Whether a result's content is not what its manifest's hash was taken of."""
    return content_hash({key: value for key, value in result.items() if key != "manifest"}) != result["manifest"].get(
        "content"
    )


def read_result(path: Path | str) -> dict[str, Any]:
    """A result file with its manifest. Raises: UserError when it is cut off or has no manifest."""
    value: dict[str, Any] = read_json(path)
    if "manifest" not in value:
        raise UserError(
            f"{path}: has no manifest, so it is no result of this workflow; delete it and run snakemake again."
        )
    return value


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str | None:
    """The project's commit, with "+" when the tree was changed; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def hardware() -> dict[str, Any]:
    found: dict[str, Any] = {"machine": platform.machine(), "cpus": os.cpu_count(), "cpu": _cpu()}
    if "torch" in sys.modules:
        import torch

        found["threads"] = torch.get_num_threads()
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
