"""A model as an ordinary Hugging Face folder, complete once its manifest is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from grace.encoder.encoder import SETTINGS_FILE
from grace.files import write_json
from grace.section import Section
from grace.training.card import card


def save_model(folder: Path, model: Any, tokenizer: Any, manifest: dict[str, Any], **settings: Section) -> None:
    """Save weights, tokenizer, `settings` (prompt, pooling) and, of a trained run, a model card to `folder`, the
    manifest last.

    The files are written beside the folder and moved in one by one, so a crash or a full disk
    leaves no manifest and no file that is half of one.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / SETTINGS_FILE, {name: section.model_dump() for name, section in settings.items()})
        if manifest["stage"] == "train":
            (temporary / "README.md").write_text(card(manifest, SETTINGS_FILE), encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        for path in temporary.iterdir():
            os.replace(path, folder / path.name)
        write_json(folder / "manifest.json", manifest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
