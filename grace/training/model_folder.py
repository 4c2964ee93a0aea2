"""A model as an ordinary Hugging Face folder, or that of an adapter, complete once its manifest is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template

from grace.config.section import Section
from grace.encoder import adapters
from grace.encoder.saved import MANIFEST, SETTINGS_FILE, encode_settings, filling, write_modules, write_settings
from grace.jobs.files import write_json

CARD = Path(__file__).with_name("model_card.jinja")


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
            (temporary / "README.md").write_text(model_card(manifest), encoding="utf-8")
    write_json(folder / MANIFEST, manifest)


def model_card(manifest: dict[str, Any]) -> str:
    """README.md of a trained model, from its manifest: Markdown with the hub's YAML header."""
    from huggingface_hub import ModelCardData

    spec, backbone = manifest["settings"], manifest.get("backbone") or {}
    part = "adapter" in spec["method"]
    rationales = encode_settings(manifest).rationales
    name = backbone.get("id")  # only the hub's models have a name that others know
    header = ModelCardData(
        base_model=name,
        library_name="peft" if part else "transformers",
        license="other",
        license_name="the-licence-of-the-backbone",
        license_link=f"https://huggingface.co/{name}" if name else "README.md",
        pipeline_tag="feature-extraction",
        tags=["grace", spec["method"], "text-embeddings", *(["rationales"] if rationales else [])],
    )
    template = Template(CARD.read_text(encoding="utf-8"), keep_trailing_newline=True, undefined=StrictUndefined)
    body = template.render(
        title=f"{spec['run']} on {name or 'a local backbone'}",
        method=spec["method"],
        part=part,
        rationales=rationales,
        settings_file=SETTINGS_FILE,
        backbone=name or f"{backbone.get('kind', 'a')} folder",
        data=spec["data"],
        rows=manifest["rows"],
        steps=manifest["steps"],
        seed=spec["seed"],
        commit=manifest["commit"] or "not in a checkout",
        seconds=manifest["seconds"],
        manifest=json.dumps({k: v for k, v in manifest.items() if k != "history"}, indent=1, ensure_ascii=False),
    )
    return f"---\n{header.to_yaml()}\n---\n{body}"
