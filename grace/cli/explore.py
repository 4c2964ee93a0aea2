"""`grace explore`: a study's held-out texts, their neighbours and the models' rationales as one HTML page.

Everything is read from the study's folder: texts from data/, embeddings and rationales from store/, rationales over
training from cases/. What is missing is named on the page. Computed here are the ranking, the maps, and, where the
model's folder is still there, the effects of sentences, for which the model reads texts and rationales again.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from grace.cli.page import analysis, study_data
from grace.cli.page.study_data import DOCUMENT, QUERY, Evaluated, PageTexts
from grace.config.section import UserError
from grace.encoder.store import digests_of
from grace.jobs.files import writing

DEFAULT = ("reasoning", "grace")  # the two models that the page opens with
SCRIPTS = ("base.js", "search.js", "hits.js", "map.js", "legend.js", "training.js", "explore.js")
log = logging.getLogger(__name__)


def write(
    results: Path,
    out: Path | None = None,
    *,
    backbone: str | None = None,
    runs: list[str] | None = None,
    texts: int = 5000,
    why: int | None = None,
) -> Path:
    """Write the page.

    Args:
        results: folder of a study's results, such as results/demo.
        out: the page; None: explore.html in `results`.
        backbone: needed where the study has several.
        runs: evaluated runs to show, in the order of the menus; None: at most AT_MOST of the study's own.
        texts: at most so many queries and documents.
        why: for so many texts per model the effects of sentences are computed; None: for all by a model of at most
            `analysis.SMALL` bytes, for none by a larger one, which would take long.

    Returns:
        The path of the page.

    Raises:
        UserError: when the study holds nothing to show, an argument is wrong, or the page cannot be written.
    """
    if texts < 2:
        raise UserError(f"--texts: {texts} texts have no neighbours; give at least 2.")
    out = out or results / "explore.html"
    every = study_data.read_texts(results)
    backbone = study_data.choose_backbone(results, backbone)
    chosen, others = study_data.choose_runs(results, backbone, runs)
    every_model = [study_data.read_model(results, backbone, name) for name in chosen]
    found = [model for model in every_model if model.store is not None]
    missing = [
        f"{model.run}: the store holds no embedding by this model, so it is not shown."
        for model in every_model
        if model.store is None
    ]
    if not found:
        raise UserError(
            f"{results}/store: holds no embeddings by {', '.join(chosen)}; run snakemake again, which keeps them there."
        )
    digests = digests_of([one.text for one in every.texts])
    embedded = np.any([model.store.known(digests) for model in found if model.store is not None], axis=0)
    if not embedded.any():
        raise UserError(
            f"{results}: the store holds no embedding of a held-out text by {', '.join(chosen)}; run snakemake again "
            "(it keeps them in store/)."
        )
    shown = every.where(embedded)
    shown = shown.where(study_data.subset(shown, texts))
    total, usable, count = len(every.texts), int(embedded.sum()), len(shown.texts)
    if usable < total:
        missing.append(
            f"{total - usable:,} of {total:,} held-out texts have no embedding in the store and are left out."
        )
    if count < usable:
        missing.append(
            f"{usable - count:,} of {usable:,} texts are left out to keep the page small (--texts): pairs stay "
            "together, in the order of a digest of the document. Ranks count the documents on this page alone."
        )
    models, blocks = _models(found, shown, why, missing)
    if others:
        own = [name for name in others if "." not in name]
        rest = [f"{len(others) - len(own)} of ablations"] if len(own) < len(others) else []
        missing.append(f"Evaluated too, but not on this page (add them with --run): {', '.join([*own, *rest])}.")
    text = _page(results, backbone, shown, models, missing, blocks)
    try:
        with writing(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: the page cannot be written ({error.strerror}); give another --out.") from None
    log.info("%s: %d texts, %d models, %.1f MB", out, count, len(models), len(text) / 1e6)
    return out


# ---- a model's part ------------------------------------------------------------------------


def _models(
    found: list[Evaluated], shown: PageTexts, why: int | None, missing: list[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the page says of each model, and its data. Adds to `missing`."""
    about, blocks = [], {}
    first: analysis.Maps | None = None  # of all texts; the others are rotated to match it
    texts = [text.text for text in shown.texts]
    for number, model in enumerate(tqdm(found, desc="explore", unit="model", disable=None)):
        assert model.store is not None
        known, vectors = study_data.read_embeddings(model.store, texts)
        complete = bool(known.all())
        if not complete:
            missing.append(f"{model.run}: {int((~known).sum()):,} of the texts have no embedding in the store.")
        maps = analysis.draw_maps(vectors, first if complete else None)
        first = maps if first is None and complete else first
        ranking = analysis.rank_documents(shown, known, vectors)
        rationales, cut, no_rationales = _rationales(model, texts, known)
        made, no_effects = _effects(model, texts, known, ranking, why)
        missing += [f"{model.run}: {reason}" for reason in (no_rationales, no_effects) if reason]
        how = "reasons, then embeds" if model.writes else "embeds the text directly"
        what = "trained" if model.trained else "the backbone as it is" if model.encode else "an encoder-only model"
        ranks = np.array([rank for rank in ranking.rank if rank])
        said = {
            "name": model.run,
            "seed": model.seed,
            "about": f"{what}; {how}",
            "writes": model.writes,
            "trained": model.trained,
            "no_rationales": no_rationales,
            "queries": len(ranks),
            "first": float((ranks == 1).mean()) if len(ranks) else 0.0,
            "ten": float((ranks <= analysis.HITS).mean()) if len(ranks) else 0.0,
            "explained": len(made.effects),
            "variance": round(maps.share, 4),
            "texts": int(known.sum()),
        }
        about.append(said)
        blocks[f"model{number}"] = {
            "hits": ranking.numbers,
            "scores": [_small(line) for line in ranking.scores],
            "rank": ranking.rank,
            "rationales": rationales,
            "cut": cut,
            "missing": np.flatnonzero(~known).tolist(),
            "spans": made.spans,
            "without_effects": no_effects,
            "effects": {
                i: [(at, _small(own), _small(other)) for at, own, other in pairs] for i, pairs in made.effects.items()
            },
            "near": None if maps.neighbourhoods is None else _coordinates(maps.neighbourhoods, known),
            "main": _coordinates(maps.components, known),
        }
    return about, blocks


def _small(values: list[float]) -> list[int]:
    """In ten-thousandths."""
    return [round(10_000 * value) for value in values]


def _coordinates(points: np.ndarray, known: np.ndarray) -> list[int]:
    """Of all texts, x and y in turn; -1 where there is no embedding."""
    every = np.full((len(known), 2), -1)
    every[known] = analysis.whole_coordinates(points)
    return every.ravel().tolist()


def _rationales(model: Evaluated, texts: list[str], known: np.ndarray) -> tuple[list[str] | None, list[int], str]:
    """The rationales of all texts ("" where there is none), the numbers of those cut off, and why there are none."""
    tokenizer = model.folder / "tokenizer.json"
    if not model.writes or model.store is None:
        return None, [], ""
    if not tokenizer.exists():
        return None, [], f"{tokenizer} is gone, so the rationales in the store cannot be shown."
    rows = np.flatnonzero(known)
    written, cut = study_data.read_rationales(model.store, [texts[i] for i in rows], tokenizer)
    every = dict(zip(rows.tolist(), written, strict=True))
    return [every.get(i, "") for i in range(len(texts))], rows[np.array(cut, dtype=bool)].tolist(), ""


def _effects(
    model: Evaluated, texts: list[str], known: np.ndarray, ranking: analysis.Ranking, why: int | None
) -> tuple[analysis.Effects, str]:
    """The effects of sentences, and why there are none or not all."""
    none = analysis.Effects({}, {})
    if why == 0:
        return none, "effects of sentences were not asked for (--why 0)."
    if why is None and not analysis.affordable(model):
        return none, "reading all texts by a model of this size takes long, so no effects were computed (--why N)."
    try:
        made = analysis.compute_effects(model, texts, known, ranking, len(texts) if why is None else why)
    except UserError as error:
        return none, str(error)
    wanted, done = int(known.sum()), len(made.effects)
    return made, "" if done == wanted else f"effects were computed for {done:,} of {wanted:,} texts."


# ---- the page ------------------------------------------------------------------------------


def _page(
    results: Path,
    backbone: str,
    shown: PageTexts,
    models: list[dict[str, Any]],
    missing: list[str],
    blocks: dict[str, Any],
) -> str:
    order = sorted(range(len(models)), key=lambda i: models[i]["name"] not in DEFAULT)
    every_label = Counter(text.label for text in shown.texts)
    labels = sorted(every_label, key=lambda label: (-every_label[label], label))
    number = {label: i for i, label in enumerate(labels)}
    cases, no_cases = study_data.read_cases(results, backbone)
    meta = {
        "study": results.resolve().name,
        "backbone": backbone,
        "models": models,
        "hits": analysis.HITS,
        "shown": sorted(order[:2], key=lambda i: models[i]["trained"]) if len(models) > 1 else [0, 0],
        "labels": labels,
        "missing": missing,
        "cases": cases,
        "no_cases": no_cases,
    }
    corpus = {
        "texts": [one.text for one in shown.texts],
        "kinds": shown.kinds.tolist(),
        "names": [one.name for one in shown.texts],
        "labels": [number[one.label] for one in shown.texts],
        "true": shown.true,
    }
    queries, documents = (f"{(shown.kinds == kind).sum():,}" for kind in (QUERY, DOCUMENT))
    facts = {"Study": str(meta["study"]), "Backbone": backbone, "Queries": queries, "Documents": documents}
    facts["Models"] = str(len(models))
    return render(meta, facts, {"corpus": corpus, **blocks})


def render(meta: dict[str, Any], facts: dict[str, str], blocks: dict[str, Any]) -> str:
    """The page as one file that loads nothing.

    Args:
        meta: what the page says of itself and its models (see explore.html), also read by the script.
        facts: what stands below the title.
        blocks: `corpus` and a `model<i>` for each model.
    """
    loader = PackageLoader("grace.cli.page")
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, *scripts = (loader.get_source(templates, name)[0] for name in ("explore.css", *SCRIPTS))
    script = "\n".join(scripts)
    return templates.get_template("explore.html").render(
        meta=meta,
        facts=facts,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        blocks=[(name, packed(value)) for name, value in {"meta": meta, **blocks}.items()],
    )


def packed(value: Any) -> Markup:
    """Compressed JSON in base64: no text of it can become markup."""
    # ASCII: JSON escapes lone surrogates, which UTF-8 cannot hold.
    raw = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    return Markup(base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode("ascii"))


def _hash(text: str) -> Markup:
    """For the page's Content-Security-Policy: only this text may run."""
    return Markup("sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())
