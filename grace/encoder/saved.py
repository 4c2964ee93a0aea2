"""What a model folder holds besides weights and tokenizer: how the model embeds, and what Sentence Transformers reads.

`grace.json` keeps prompt, pooling and the defaults of encoding, and which backbone an adapter belongs to.
`modules.json` and `config_sentence_transformers.json` let `SentenceTransformer(folder)` load the model
(`grace.encoder.sentence`). A folder that was trained before they were written gets them, its weights untouched, by

    python -m grace.encoder.saved FOLDER...
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grace.encoder.folders import may_be_repository
from grace.encoder.registering import MODULE
from grace.files import read_json, write_json
from grace.mistakes import in_one_sentence
from grace.section import Positive, Section, Temperature, UserError, build
from grace.settings import DirectPrompt, Pooling, Prompt
from grace.specs import EncodeSpec

# Written beside the weights by training, so that a model is used as it was trained.
SETTINGS_FILE = "grace.json"
MANIFEST = "manifest.json"
GENERATOR_FOLDER = "generator"  # of an adapter that writes, in the folder of the one that pools
# What is a model or an adapter; of one that is written over another none of it may stay.
WHOLE = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", GENERATOR_FOLDER)
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
    """Defaults of encoding, of which a call may change any."""

    rationales: bool = True
    max_new_tokens: Positive = 256
    sampling_temperature: Temperature = 1.0
    batch_size: Positive = 64
    seed: int = 0
    direct_prompt: DirectPrompt = "chat"


class Adapter(Section):
    """The backbone that an adapter's folder belongs to (`grace.encoder.adapters`).

    base: its folder, relative to the adapter's or absolute, or a repository of the hub.
    weights: its `grace.manifest.weights_hash`.
    """

    base: str
    weights: str


def read_settings(path: str | Path, given: dict[str, Any], context: int | None = None) -> EncodeSpec:
    """How the model at `path` embeds: what is given, else what the folder says, else the defaults.

    Args:
        path: folder, or a repository of the hub.
        given: settings of `Encode`; None stands for none.
        context: tokens that the model reads at most; defaults that exceed it are cut, which is logged.

    Raises:
        UserError: for a setting that is unknown or wrong.
    """
    file = settings_file(path)
    saved = read_json(file) if file else {}
    where = str(file or SETTINGS_FILE)
    kept = build(Encode, saved.get("encode", {}), f"{where}: encode").model_dump()
    over = {name: value for name, value in given.items() if value is not None}
    encode = build(Encode, {**kept, **over}, "")
    prompt = build(Prompt, saved["prompt"], f"{where}: prompt") if "prompt" in saved else DEFAULT_PROMPT
    most, new = prompt.max_prompt_tokens, encode.max_new_tokens
    if context is not None and most + new > context:
        if "max_new_tokens" not in {**saved.get("encode", {}), **over}:
            new = context - most if "prompt" in saved else new * context // (most + new)
        if "prompt" not in saved:
            most = context - new
        if 0 < most <= context - new < context:  # else it is refused where the model is loaded
            log.warning("%s reads %d tokens: at most %d of a prompt and %d of a rationale", path, context, most, new)
            prompt = prompt.model_copy(update={"max_prompt_tokens": most})
            encode = encode.model_copy(update={"max_new_tokens": new})
    return EncodeSpec(
        prompt=prompt,
        pooling=build(Pooling, saved["pooling"], f"{where}: pooling") if "pooling" in saved else DEFAULT_POOLING,
        **encode.model_dump(),
    )


def encode_settings(manifest: dict[str, Any]) -> Encode:
    """Defaults of a model as its training's manifest has it: without rationales where direct embeddings learnt."""
    if manifest.get("stage") != "train":
        return Encode()
    spec = manifest["settings"]
    learnt = (spec.get("contrastive") or {}).get("loss", "direct")
    reasons = "grace" in spec["method"] or spec["method"] == "best-of"
    known: dict[str, Any] = {"rationales": reasons or learnt == "rationale"}
    if spec.get("direct_prompt"):
        known["direct_prompt"] = spec["direct_prompt"]
    wrote = spec.get("generation") or (spec.get("rationales") or {}).get("encode")
    if wrote:
        known["max_new_tokens"] = wrote["max_new_tokens"]
    return Encode(**known)


def write_settings(folder: Path, **settings: Section | bool) -> None:
    """Write grace.json: `prompt`, `pooling` and `encode`, as far as they are known, `adapter` of an adapter, and
    `merged` of a model that an adapter was merged into."""
    known = {name: at.model_dump() if isinstance(at, Section) else at for name, at in settings.items()}
    write_json(folder / SETTINGS_FILE, known)


def merged(path: str | Path) -> bool:
    """Whether the model at `path` had an adapter for pooling merged into it, so that it embeds texts directly only."""
    file = settings_file(path)
    return bool(file and read_json(file).get("merged"))


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

    What says that `folder` is a finished model, its manifest, is removed before, and so is what belongs to a model that
    was there before, a whole one or an adapter, and is not replaced.
    """
    folder = folder.absolute()  # "." has no name
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        for old in {found for pattern in WHOLE for found in folder.glob(pattern)}:
            if old.is_dir():
                shutil.rmtree(old)
            elif not (temporary / old.name).exists():
                old.unlink()
        for path in temporary.iterdir():
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def complete(folder: Path) -> None:
    """Give a model folder what it lacks of the three files, from its own settings and manifest.

    Raises:
        UserError: when `folder` is no model folder, or is one of Sentence Transformers with modules of its own.
    """
    check_model_folder(folder)
    modules = folder / "modules.json"
    if modules.exists() and [module.get("type") for module in read_json(modules, list)] != [MODULE]:
        raise UserError(f"{modules}: is another Sentence Transformers model's; copy the model without this file.")
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    saved = read_json(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).exists() else {}
    kinds: dict[str, type[Section]] = {"prompt": Prompt, "pooling": Pooling, "encode": Encode, "adapter": Adapter}
    where = folder / SETTINGS_FILE
    known: dict[str, Any] = {
        name: build(kind, saved[name], f"{where}: {name}") for name, kind in kinds.items() if name in saved
    }
    known |= {"merged": True} if saved.get("merged") else {}
    write_settings(folder, **{"encode": encode_settings(manifest), **known})
    write_modules(folder)


def settings_file(path: str | Path) -> Path | None:
    file = Path(path) / SETTINGS_FILE
    if file.exists() or not may_be_repository(path):
        return file if file.exists() else None
    from transformers.utils import cached_file

    try:  # a repository may have none
        found = cached_file(str(path), SETTINGS_FILE, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # loading the model says what is wrong
        return None
    return Path(found) if found else None


def described(path: str | Path) -> Adapter | None:
    """What the grace.json of a folder or a hub repository says of its backbone; None of an ordinary model."""
    file = settings_file(path)
    saved = read_json(file) if file else {}
    return build(Adapter, saved["adapter"], f"{file}: adapter") if "adapter" in saved else None


def check_model_folder(folder: Path) -> None:
    """Raises: UserError when an existing `folder` holds neither a model nor an adapter with its settings."""
    if (folder / "config.json").exists() or described(folder):
        return
    if (folder / "adapter_config.json").exists():
        raise UserError(
            f"{folder}: an adapter without a grace.json that names its backbone; merge it, or train it here."
        )
    raise UserError(f"{folder}: not the folder of a Hugging Face model (it has no config.json).")


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
