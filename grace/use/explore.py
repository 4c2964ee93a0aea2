"""`grace explore`: a study's held-out texts, their neighbours and the models' rationales on one page of its own.

Everything is taken from what the study has kept: texts from data/, embeddings and rationales from store/, rationales
over training from cases/. What is not there is named on the page. Computed here are the ranking, the maps, and, where
the model's folder is there too, the effects of sentences: for these the model reads texts and rationales once more, but
writes nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from grace.encoder.digests import digests_of
from grace.encoder.store import Store
from grace.files import writing
from grace.section import UserError
from grace.use.page import cases, corpus, effects, layout, models, neighbours, render
from grace.use.page.corpus import DOCUMENT, QUERY, Corpus
from grace.use.page.models import Evaluated

DEFAULT = ("reasoning", "grace")  # the two models that the page opens with
log = logging.getLogger(__name__)


class Found(NamedTuple):
    """A model and the store of its embeddings."""

    model: Evaluated
    held: Store


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
        runs: evaluated runs to show, in the order of the menus; None: at most `models.AT_MOST` of the study's own.
        texts: at most so many queries and documents.
        why: for so many texts per model the effects of sentences are computed; None: for all by a model of at most
            `effects.SMALL` bytes, for none by a larger one, which would take long.

    Returns:
        The path of the page.

    Raises:
        UserError: when the study holds nothing to show, an argument is wrong, or the page cannot be written.
    """
    if texts < 2:
        raise UserError(f"--texts: {texts} texts have no neighbours; give at least 2.")
    out = out or results / "explore.html"
    every = corpus.read(results)
    backbone = models.choose_backbone(results, backbone)
    chosen, others = models.choose_runs(results, backbone, runs)
    found, missing = _held(results, backbone, chosen)
    digests = digests_of([one.text for one in every.texts])
    known = [one.held.known(digests) for one in found]
    if not any(at.any() for at in known):
        raise UserError(
            f"{results}: the store holds no embedding of a held-out text by {', '.join(chosen)}; run snakemake again "
            "(it keeps them in store/)."
        )
    there = np.any(known, axis=0)
    shown = every.where(there)
    shown = shown.where(corpus.some(shown, texts))
    missing += _left_out(len(every.texts), int(there.sum()), len(shown.texts))
    told, blocks = _models(found, shown, why, missing)
    if others:
        missing.append(_others(others))
    meta = _meta(results, backbone, shown, told, missing)
    blocks = {"corpus": _corpus(shown, meta["labels"]), **blocks}
    text = render.render(meta, _facts(meta, shown), blocks)
    try:
        with writing(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: the page cannot be written ({error.strerror}); give another --out.") from None
    log.info("%s: %d texts, %d models, %.1f MB", out, len(shown.texts), len(told), len(text) / 1e6)
    return out


def _held(results: Path, backbone: str, chosen: list[str]) -> tuple[list[Found], list[str]]:
    """The runs whose embeddings are kept, and a sentence about each of the others."""
    found, missing = [], []
    for name in chosen:
        model = models.read(results, backbone, name)
        held = models.kept(results, model)
        if held is None:
            missing.append(f"{name}: the store holds no embedding by this model, so it is not shown.")
        else:
            found.append(Found(model, held))
    if not found:
        raise UserError(
            f"{results}/store: holds no embeddings by {', '.join(chosen)}; run snakemake again, which keeps them there."
        )
    return found, missing


def _left_out(every: int, there: int, shown: int) -> list[str]:
    said = []
    if there < every:
        said.append(f"{every - there:,} of {every:,} held-out texts have no embedding in the store and are left out.")
    if shown < there:
        said.append(
            f"{there - shown:,} of {there:,} texts are left out to keep the page small (--texts): pairs stay together, "
            "in the order of a digest of the document. Ranks count the documents on this page alone."
        )
    return said


def _others(names: list[str]) -> str:
    own = [name for name in names if "." not in name]
    rest = f"{len(names) - len(own)} of ablations" if len(own) < len(names) else ""
    listed = ", ".join([*own, rest] if rest else own)
    return f"Evaluated too, but not on this page (add them with --run): {listed}."


# ---- one model -----------------------------------------------------------------------------


def _models(
    found: list[Found], shown: Corpus, why: int | None, missing: list[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the page says of each model, and its data. Adds to `missing`."""
    told, blocks = [], {}
    like: layout.Layout | None = None
    for number, one in enumerate(tqdm(found, desc="explore", unit="model", disable=None)):
        known, vectors = models.embeddings(one.held, [text.text for text in shown.texts])
        if not known.all():
            missing.append(f"{one.model.run}: {int((~known).sum()):,} of the texts have no embedding in the store.")
        drawn = layout.layout(vectors, like if known.all() else None)
        like = drawn if like is None and known.all() else like
        about, data = _one(one, shown, known, vectors, why, missing)
        blocks[f"model{number}"] = data | _maps(drawn, known)
        told.append(about | {"variance": round(drawn.share, 4), "texts": int(known.sum())})
    return told, blocks


def _one(
    one: Found, shown: Corpus, known: np.ndarray, vectors: np.ndarray, why: int | None, missing: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    hits = neighbours.search(shown, known, vectors)
    queries, first, ten = neighbours.shares(hits)
    said, cut, no_rationales = _rationales(one, shown, known)
    made, without = _effects(one, shown, known, hits, why)
    missing += [f"{one.model.run}: {reason}" for reason in (no_rationales, without) if reason]
    about = {
        "name": one.model.run, "seed": one.model.seed, "about": _about(one.model),
        "writes": one.model.writes, "trained": one.model.trained, "no_rationales": no_rationales,
        "queries": queries, "first": first, "ten": ten, "explained": len(made.effects),
    }  # fmt: skip
    data = {
        "hits": hits.numbers, "scores": [_small(line) for line in hits.scores], "rank": hits.rank, "rationales": said,
        "cut": cut, "missing": np.flatnonzero(~known).tolist(), "spans": made.spans, "without_effects": without,
        "effects": {
            i: [(at, _small(own), _small(other)) for at, own, other in pairs] for i, pairs in made.effects.items()
        },
    }  # fmt: skip
    return about, data


def _small(values: list[float]) -> list[int]:
    """In ten-thousandths."""
    return [round(10_000 * value) for value in values]


def _rationales(one: Found, shown: Corpus, known: np.ndarray) -> tuple[list[str] | None, list[int], str]:
    """The rationales of all texts ("" where there is none), the numbers of those cut off, and why there are none."""
    if not one.model.writes:
        return None, [], ""
    path = one.model.folder / "tokenizer.json"
    if not path.exists():
        return None, [], f"{path} is gone, so the rationales in the store cannot be shown."
    rows = np.flatnonzero(known)
    _, said, cut = models.rationales(one.held, [shown.texts[i].text for i in rows], path)
    every = [""] * len(shown.texts)
    for i, text in zip(rows, said, strict=True):
        every[i] = text
    return every, rows[np.array(cut, dtype=bool)].tolist(), ""


def _effects(
    one: Found, shown: Corpus, known: np.ndarray, hits: neighbours.Hits, why: int | None
) -> tuple[effects.Effects, str]:
    """The effects of sentences, or why there are none."""
    none = effects.Effects({}, {})
    if why == 0:
        return none, "effects of sentences were not asked for (--why 0)."
    if why is None and not effects.affordable(one.model):
        return none, "reading all texts by a model of this size takes long, so no effects were computed (--why N)."
    texts = [text.text for text in shown.texts]
    try:
        made = effects.explained(one.model, one.held, texts, known, hits, len(texts) if why is None else why)
    except UserError as error:
        return none, str(error)
    asked = int(known.sum())
    left = "" if len(made.effects) == asked else f"effects were computed for {len(made.effects):,} of {asked:,} texts."
    return made, left


def _maps(drawn: layout.Layout, known: np.ndarray) -> dict[str, Any]:
    """Whole coordinates of all texts, -1 where there is no embedding."""

    def every(points: np.ndarray | None) -> list[int] | None:
        if points is None:
            return None
        spread = np.full((len(known), 2), -1)
        spread[known] = np.reshape(layout.whole(points), (-1, 2))
        return spread.ravel().tolist()

    return {"near": every(drawn.neighbourhoods), "main": every(drawn.components)}


# ---- the page ------------------------------------------------------------------------------


def _about(model: Evaluated) -> str:
    how = "reasons, then embeds" if model.writes else "embeds the text directly"
    what = "trained" if model.trained else "the backbone as it is" if model.encode else "an encoder-only model"
    return f"{what}; {how}"


def _meta(
    results: Path, backbone: str, shown: Corpus, told: list[dict[str, Any]], missing: list[str]
) -> dict[str, Any]:
    names = [one["name"] for one in told]
    order = sorted(range(len(names)), key=lambda i: names[i] not in DEFAULT)
    pair = (2 * order)[:2]
    labels = [text.label for text in shown.texts]
    told_cases, no_cases = cases.read(results, backbone)
    return {
        "study": results.resolve().name, "backbone": backbone, "models": told, "hits": neighbours.HITS,
        "shown": sorted(pair, key=lambda i: told[i]["trained"]) if len(names) > 1 else [0, 0],
        "labels": sorted(set(labels), key=lambda label: (-labels.count(label), label)), "missing": missing,
        "cases": told_cases, "no_cases": no_cases,
    }  # fmt: skip


def _corpus(shown: Corpus, labels: list[str]) -> dict[str, Any]:
    number = {label: i for i, label in enumerate(labels)}
    return {
        "texts": [one.text for one in shown.texts], "kinds": shown.kinds.tolist(),
        "names": [one.name for one in shown.texts], "labels": [number[one.label] for one in shown.texts],
        "true": shown.true,
    }  # fmt: skip


def _facts(meta: dict[str, Any], shown: Corpus) -> list[tuple[str, str]]:
    kinds = shown.kinds
    return [
        ("Study", meta["study"]), ("Backbone", meta["backbone"]), ("Queries", f"{(kinds == QUERY).sum():,}"),
        ("Documents", f"{(kinds == DOCUMENT).sum():,}"), ("Models", f"{len(meta['models'])}"),
    ]  # fmt: skip
