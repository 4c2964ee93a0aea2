"""A model as an ordinary Hugging Face folder, or that of an adapter, complete once its manifest is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grace.encoder import adapters
from grace.encoder.saved import MANIFEST, SETTINGS_FILE, encode_settings, filling, write_modules, write_settings
from grace.files import write_json
from grace.section import Section
from grace.training.card import card


def save_model(folder: Path, model: Any, tokenizer: Any, manifest: dict[str, Any], **settings: Section) -> None:
    """Save weights (of an adapter without its backbone's), tokenizer, `settings` (prompt, pooling), the defaults of
    encoding, what Sentence Transformers reads and, of a trained run, a model card to `folder`, the manifest last.

    The files are written beside the folder and moved in one by one, so a crash or a full disk
    leaves no manifest and no file that is half of one.
    """
    with filling(folder) as temporary:
        known = adapters.write_model(temporary, model, tokenizer)
        write_settings(temporary, **settings, encode=encode_settings(manifest), **known)
        write_modules(temporary)
        if manifest["stage"] == "train":
            (temporary / "README.md").write_text(card(manifest, SETTINGS_FILE), encoding="utf-8")
    write_json(folder / MANIFEST, manifest)
