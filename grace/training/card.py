"""The model card of a trained run: what it is, how it was made, how to use it."""

from __future__ import annotations

import json
from typing import Any

from grace.encoder.saved import encode_settings

METHODS = {
    "grace": "GRACE: the model reasons about a text first, and the embedding is the mean of its hidden states over "
    "the text and that rationale. The rationales were trained by policy gradient with contrastive rewards.",
    "best-of": "GRACE's reward without its policy gradient: the model reasons about a text first, and the embedding is "
    "the mean of its hidden states over the text and that rationale. Rationales were written in groups, and the model "
    "was fine-tuned on the one of each group that the reward chose.",
    "cl": "CL, a baseline of GRACE: direct embeddings without a rationale, trained with InfoNCE and in-batch "
    "negatives.",
    "simcse": "SimCSE, a baseline of GRACE: direct embeddings without a rationale, trained with dropout positives.",
    "adapter": "A pooling adapter: the backbone is frozen, and a low-rank adapter, trained with InfoNCE, is on only "
    "while a text is embedded, with or without a rationale. What the model writes is the backbone's, token for token.",
    "kl_fence": "CL behind a KL fence: embeddings with or without a rationale, trained with InfoNCE, while the forward "
    "KL of the frozen backbone to the model, on rationales and on plain text, keeps what it writes.",
    "adapter+grace": "Two low-rank adapters on a frozen backbone, trained by turns: one embeds and was trained with "
    "InfoNCE on what the other writes; that one was trained by GRACE's policy gradient with rewards from the first's "
    "embeddings.",
}
WHOLE = """The folder is an ordinary causal language model of transformers; adapters, if any were trained, are merged
into it."""
PART = """The folder holds an adapter (peft) and not its backbone, which `{settings_file}` names, with its hash: the two
are loaded together. `python -m grace.encoder.merge PATH -o OTHER` writes an ordinary model for tools that know no
adapters; it embeds texts without rationales only."""

BODY = """
# {title}

{method} Trained by a reproduction of the paper "GRACE: Generative Representation Learning via Contrastive Policy
Optimization" (arXiv 2510.04506).

## Use

{kind}
Its `{settings_file}` holds the prompt and the pooling it was trained with, which the encoder reads:

```python
from grace import RationaleEncoder

encoder = RationaleEncoder.from_pretrained("PATH", rationales={rationales})
encoding = encoder.encode(["a text"])
encoding.embeddings  # [1, d], unit length if the pooling normalizes
encoding.rationales  # what the model wrote about the text, if asked for
```

`encoder.similarity(a, b)` compares embeddings, and `encoder.explain("one text", "another")` says which sentences of the
texts and of their rationales carry their cosine (with mean or max pooling). Once `grace` is imported, the folder also
loads with Sentence Transformers, without `trust_remote_code`:

```python
import grace
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
```

## Made from

| | |
|---|---|
| backbone | {backbone} |
| data | {data}, {rows} rows |
| optimizer steps | {steps} |
| seed | {seed} |
| commit | {commit} |
| seconds | {seconds} |

Scores are not part of this card: they are in the tables of the study that trained the model. The licence is the
backbone's, and the licences of the training data apply.

## Manifest

Settings, versions, hashes and hardware; the training curve is in `manifest.json`.

```json
{manifest}
```
"""


def card(manifest: dict[str, Any], settings_file: str) -> str:
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
    body = BODY.format(
        title=f"{spec['run']} on {name or 'a local backbone'}",
        method=METHODS[spec["method"]],
        kind=(PART if part else WHOLE).format(settings_file=settings_file),
        rationales=rationales,
        settings_file=settings_file,
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
