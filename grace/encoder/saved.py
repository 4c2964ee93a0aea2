"""The model folder of this project: what it holds besides weights and tokenizer.

`grace.json` has the prompt, the pooling and the defaults of encoding, and names the backbone of an adapter.
`modules.json` and `config_sentence_transformers.json` let `SentenceTransformer(folder)` load the model
(`grace.encoder.sentence`). An older folder, trained before they were written, gets them by

    python -m grace.encoder.saved FOLDER...
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from grace.config.schema import DirectPrompt, Pooling, Prompt
from grace.config.section import Positive, Section, Temperature, UserError, build
from grace.config.specs import EncodeSpec
from grace.encoder.registering import MODULE
from grace.jobs.files import read_json, write_json
from grace.jobs.manifest import weights_hash
from grace.jobs.stage import in_one_sentence

SETTINGS_FILE = "grace.json"
MANIFEST = "manifest.json"
GENERATOR_FOLDER = "generator"  # of the adapter that writes, in the folder of the one that pools
# The files of a model or an adapter. A model that is written over another must not leave any of the other's.
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", GENERATOR_FOLDER)
FETCHED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # from a repository of the hub
NEAR = 3  # levels up to a backbone that is named relative to the adapter's folder
MERGED = (
    "an adapter for pooling was merged into this model, so it writes no rationales: give rationales=False, or load the "
    "adapter's folder."
)
DEFAULT_PROMPT = Prompt(
    instruction=(
        "You read one text and work out what it is about. First reason about its topic, its key facts and what "
        "someone looking for it would ask, between <think> and </think>. Then state in a few sentences what the "
        "text means as a whole."
    ),
    max_prompt_tokens=1024,
)
DEFAULT_POOLING = Pooling(method="mean", layer="last")
log = logging.getLogger(__name__)


class Encode(Section):
    """Defaults of encoding; a call may change each."""

    rationales: bool = True
    max_new_tokens: Positive = 256
    sampling_temperature: Temperature = 1.0
    batch_size: Positive = 64
    seed: int = 0
    direct_prompt: DirectPrompt = "chat"


class Adapter(Section):
    """The backbone of an adapter's folder (`grace.encoder.adapters`).

    base: its folder, relative to the adapter's or absolute, or a repository of the hub.
    weights: its `grace.jobs.manifest.weights_hash`.
    """

    base: str
    weights: str


SECTIONS: dict[str, type[Section]] = {"prompt": Prompt, "pooling": Pooling, "encode": Encode, "adapter": Adapter}


# ---- folders and repositories ----


def may_be_repository(path: str | Path) -> bool:
    """Whether `path` has the form of a hub repository, OWNER/NAME or NAME, and is not a mistyped folder."""
    name, parent = os.fspath(path), Path(path).parent
    mistyped = "/" in name and parent.is_dir()
    return not Path(path).exists() and not mistyped and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None


@contextmanager
def loading_from(path: str | Path, what: str = "causal language model") -> Iterator[None]:
    """Turn any error of transformers about the files at `path` into a UserError: no `what` can be loaded."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # broken files lead to anything, from a KeyError to an error of huggingface_hub
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{path}: needs code of its own, which is never run here; give a model that transformers knows itself."
            ) from None
        # The first line; one that ends in a colon says nothing without the next.
        reason = re.split(r"(?<!:)\n", str(error).strip())[0].replace("\n", " ") or type(error).__name__
        raise UserError(f"{path}: no {what} can be loaded from here ({reason}).") from None


def check_model_folder(folder: Path) -> None:
    """Raises: UserError when an existing `folder` holds neither a model nor an adapter with its settings."""
    if (folder / "config.json").exists() or adapter_of(folder):
        return
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder}: an adapter without a grace.json that names its backbone; merge it, or train it here."
        )
    raise UserError(f"{folder}: not the folder of a Hugging Face model (it has no config.json).")


# ---- grace.json ----


def read_saved(path: str | Path) -> dict[str, Any]:
    """What the grace.json of a folder or a hub repository has: sections by name, and whether it is `merged`."""
    file = Path(path) / SETTINGS_FILE
    if not file.exists():
        if not may_be_repository(path):
            return {}
        from transformers.utils import cached_file

        try:
            found = cached_file(str(path), SETTINGS_FILE, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):  # loading the model says what is wrong
            return {}
        if found is None:
            return {}
        file = Path(found)
    saved = read_json(file)
    sections = {name: build(SECTIONS[name], saved[name], f"{file}: {name}") for name in SECTIONS if name in saved}
    return {**saved, **sections}


def adapter_of(path: str | Path) -> Adapter | None:
    """The backbone that the adapter at `path` belongs to; None for an ordinary model."""
    return read_saved(path).get("adapter")


def read_settings(path: str | Path, given: dict[str, Any], context: int | None = None) -> EncodeSpec:
    """How the model at `path` embeds: what is given (not None), else what its folder says, else the defaults.

    Defaults that exceed `context`, the tokens that the model reads at most, are cut, which is logged. Raises: UserError
    for a setting that is unknown or wrong.
    """
    saved = read_saved(path)
    defaults, prompt = saved.get("encode", Encode()), saved.get("prompt", DEFAULT_PROMPT)
    given = {name: value for name, value in given.items() if value is not None}
    encode = build(Encode, defaults.model_dump() | given, "")
    most, new = prompt.max_prompt_tokens, encode.max_new_tokens
    if context is not None and most + new > context:
        if "max_new_tokens" not in {*defaults.model_fields_set, *given}:
            new = context - most if "prompt" in saved else new * context // (most + new)
        if "prompt" not in saved:
            most = context - new
        if 0 < most <= context - new < context:  # else it is refused where the model is loaded
            log.warning("%s reads %d tokens: at most %d of a prompt and %d of a rationale", path, context, most, new)
            prompt = prompt.model_copy(update={"max_prompt_tokens": most})
            encode = encode.model_copy(update={"max_new_tokens": new})
    return EncodeSpec(prompt=prompt, pooling=saved.get("pooling", DEFAULT_POOLING), **encode.model_dump())


def encode_settings(manifest: dict[str, Any]) -> Encode:
    """Defaults of a model from its training's manifest: without rationales if it learnt direct embeddings."""
    if manifest.get("stage") != "train":
        return Encode()
    spec = manifest["settings"]
    loss = (spec.get("contrastive") or {}).get("loss", "direct")
    known: dict[str, Any] = {
        "rationales": "grace" in spec["method"] or spec["method"] == "best-of" or loss == "rationale"
    }
    if spec.get("direct_prompt"):
        known["direct_prompt"] = spec["direct_prompt"]
    if generation := spec.get("generation") or (spec.get("rationales") or {}).get("encode"):
        known["max_new_tokens"] = generation["max_new_tokens"]
    return Encode(**known)


# ---- writing a folder ----


def write_settings(folder: Path, **settings: Section | bool) -> None:
    """Write grace.json: `prompt`, `pooling` and `encode` where known, `adapter` of an adapter, `merged` of a merge."""
    known = {name: value.model_dump() if isinstance(value, Section) else value for name, value in settings.items()}
    write_json(folder / SETTINGS_FILE, known)


def write_modules(folder: Path) -> None:
    """Write what Sentence Transformers reads."""
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": MODULE}])
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": ""},  # the paper has one prompt, which is in grace.json
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; its files are moved into `folder` one by one when the block ends without error.

    The manifest, which marks a finished model, is removed first, and with it each file of an earlier model or adapter
    that is not replaced.
    """
    folder = folder.absolute()  # "." has no name
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        for old in {found for pattern in MODEL_FILES for found in folder.glob(pattern)}:
            if old.is_dir():
                shutil.rmtree(old)
            elif not (temporary / old.name).exists():
                old.unlink()
        for path in temporary.iterdir():
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def complete(folder: Path) -> None:
    """Write the files that a model folder lacks, from its own settings and manifest.

    Raises: UserError when `folder` is no model folder, or one of Sentence Transformers with modules of its own.
    """
    check_model_folder(folder)
    modules, manifest = folder / "modules.json", folder / MANIFEST
    if modules.exists() and [module.get("type") for module in read_json(modules, list)] != [MODULE]:
        raise UserError(f"{modules}: is another Sentence Transformers model's; copy the model without this file.")
    defaults = encode_settings(read_json(manifest) if manifest.exists() else {})
    write_settings(folder, **{"encode": defaults, **read_saved(folder)})
    write_modules(folder)


# ---- the backbone of an adapter ----


def adapter_folder(path: str | Path) -> Path:
    """The folder of an adapter, fetched if `path` is a repository of the hub."""
    return Path(path) if Path(path).exists() else _fetched(str(path))


def backbone_of(path: str | Path) -> Path:
    """The folder of the backbone of the adapter at `path`. Raises: UserError when it is missing or another model."""
    adapter, folder = adapter_of(path), adapter_folder(path)
    assert adapter is not None
    # Relative to the folder itself, or to where a link to it leads.
    places = [Path(os.path.normpath(start / adapter.base)) for start in (folder, folder.resolve())]
    found = next((place for place in places if place.is_dir()), places[0])
    key = f"adapter.base in {folder / SETTINGS_FILE}"
    if not found.is_dir():
        if not may_be_repository(adapter.base):
            raise UserError(
                f"{path}: an adapter whose backbone is not there; put it at {found}, or give its folder as {key}."
            )
        found = _fetched(adapter.base)
    files = ((file.name, file.stat()) for file in sorted(found.iterdir()) if file.is_file())
    if _hash(found, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)) != adapter.weights:
        raise UserError(
            f"{path}: an adapter over another backbone than {found}, which it was not trained on; give the folder of "
            f"the one that it was as {key}."
        )
    return found


@cache
def _hash(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """`weights_hash`, computed once for files of these names, sizes and times: large ones take a while."""
    return weights_hash(folder)


def backbone_reference(folder: Path, source: str) -> Adapter:
    """What the grace.json of an adapter's `folder` says of the backbone that was loaded from `source`.

    Raises: UserError when `source` is neither a folder nor a repository of the hub.
    """
    if not source or not Path(source).is_dir():
        if not may_be_repository(source):
            raise UserError("an adapter cannot be saved: its backbone was not loaded from a folder or the hub.")
        return Adapter(base=source, weights=weights_hash(_fetched(source)))
    near = os.path.relpath(source, folder)
    # A study's results may be moved as a whole, but not what lies farther away.
    base = near if near.count("..") <= NEAR else str(Path(source).resolve())
    return Adapter(base=base, weights=weights_hash(source))


def _fetched(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    with loading_from(repository):
        return Path(snapshot_download(repository, allow_patterns=FETCHED))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m grace.encoder.saved", description="Let SentenceTransformer load model folders."
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path)
    with in_one_sentence():
        for folder in parser.parse_args().folders:
            complete(folder)
            print(folder)


if __name__ == "__main__":
    main()
