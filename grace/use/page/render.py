"""The page as one file: its data packed beside its template, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

SCRIPTS = ("base.js", "search.js", "hits.js", "map.js", "legend.js", "training.js", "explore.js")


def packed(value: Any) -> Markup:
    """JSON, compressed, in letters that mean nothing to HTML: no text can leave its place."""
    # ASCII: JSON escapes hold lone surrogates, which UTF-8 does not.
    raw = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    return Markup(base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode("ascii"))


def render(meta: dict[str, Any], facts: list[tuple[str, str]], blocks: dict[str, Any]) -> str:
    """The page.

    Args:
        meta: what the page says of itself and its models (see explore.html), also told to the script.
        facts: name and value of what stands below the title.
        blocks: `corpus` and a `model<i>` for each model (see `grace.use.explore`).
    """
    style, script = _file("explore.css"), "\n".join(_file(name) for name in SCRIPTS)
    every = {"meta": meta, **blocks}
    return (
        _templates()
        .get_template("explore.html")
        .render(
            meta=meta,
            facts=facts,
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
            blocks=[(name, packed(value)) for name, value in every.items()],
        )
    )


def _hash(text: str) -> Markup:
    """What allows exactly this text to run, and no other."""
    return Markup("sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def _file(name: str) -> str:
    loader = _templates().loader
    assert loader is not None
    return loader.get_source(_templates(), name)[0]


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("grace.use.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
