"""The evaluated models of a study: their settings, and what the store holds of their embeddings and rationales."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from grace import manifest
from grace.encoder import segments, store
from grace.encoder.digests import digests_of
from grace.files import read_json
from grace.section import UserError, build, hint
from grace.specs import EncodeSpec

# The order in which runs are shown unasked; the names are those of the studies in config.yaml.
USUAL = ("reasoning", "grace", "base", "cl", "simcse", "grace-unsup")
AT_MOST = 4  # models shown unasked: each takes seconds to lay out, and adds its map and rationales to the page
log = logging.getLogger(__name__)


class Evaluated(NamedTuple):
    """A model as it was evaluated. weights: of `manifest.weights_hash`; precision: of the embeddings kept."""

    run: str
    seed: str
    encode: EncodeSpec | None  # None: an encoder-only model
    weights: str
    precision: str
    folder: Path  # of the model, which may be gone

    @property
    def trained(self) -> bool:
        return self.encode is not None and "backbone" not in self.folder.parts

    @property
    def writes(self) -> bool:
        return self.encode is not None and self.encode.rationales


def choose_backbone(results: Path, wanted: str | None) -> str:
    """Raises: UserError when nothing was evaluated, the backbone was not, or there are several and none is named."""
    found = sorted(path.name for path in results.glob("mteb/*") if path.is_dir())
    if not found:
        raise UserError(f"{results}: holds no evaluated model (mteb/); run snakemake for this study first.")
    if wanted is None and len(found) > 1:
        raise UserError(f"{results}: has several backbones; name one with --backbone ({', '.join(found)}).")
    if wanted is not None and wanted not in found:
        raise UserError(f"--backbone: {results} has no evaluated backbone {wanted!r}{hint(wanted, found)}.")
    return wanted or found[0]


def choose_runs(results: Path, backbone: str, wanted: list[str] | None) -> tuple[list[str], list[str]]:
    """Names of the runs to show, and of the evaluated ones that are left out.

    Unasked, these are at most AT_MOST of those that belong to no ablation (whose names hold a dot).

    Raises:
        UserError: for a run that was not evaluated, or when there is none.
    """
    found = sorted(path.name for path in results.glob(f"mteb/{backbone}/*") if any(path.glob("seed*/*.json")))
    if not found:
        raise UserError(f"{results}/mteb/{backbone}: holds no result of an evaluation; run snakemake first.")
    for name in wanted or ():
        if name not in found:
            raise UserError(f"--run: {results} has no evaluated run {name!r} of {backbone}{hint(name, found)}.")
    known = {name: i for i, name in enumerate(USUAL)}
    plain = [name for name in found if "." not in name] or found
    chosen = list(dict.fromkeys(wanted or ())) or sorted(plain, key=lambda name: (known.get(name, 99), name))[:AT_MOST]
    return chosen, [name for name in found if name not in chosen]


def read(results: Path, backbone: str, run: str) -> Evaluated:
    """A run as it was evaluated, of its first seed. Raises: UserError when its result cannot be used."""
    path = min(results.glob(f"mteb/{backbone}/{run}/seed*/*.json"), key=lambda one: (len(one.parts[-2]), one))
    record = manifest.read_result(path)["manifest"]
    try:
        settings, (model, weights) = record["settings"], next(iter(record["inputs"].items()))
        encode = settings["encode"] and build(EncodeSpec, settings["encode"], "settings.encode")
        precision = str(settings["store"])
    except (KeyError, TypeError, AttributeError, StopIteration, UserError):
        raise UserError(f"{path}: written by another version of this workflow; run snakemake again.") from None
    parts = Path(model).parts
    # A path of the manifest is relative to where snakemake ran.
    inside = results.joinpath(*parts[parts.index("models") :]) if "models" in parts else Path(model)
    return Evaluated(run, path.parent.name.removeprefix("seed"), encode, weights, precision, inside)


def kept(results: Path, model: Evaluated) -> store.Store | None:
    """The store of a model's embeddings; None where there is none. With several (of other machines), the largest."""
    found = []
    for path in sorted(results.glob("store/*/settings.json")):
        settings = read_json(path)
        fixed = [str(settings.get(name, "")) for name in ("dtype", "precision", "template")]
        if settings == store.settings(model.encode, model.weights, *fixed) and fixed[1] == model.precision:
            found += [one for one in [_opened(results / "store", path.parent, settings)] if one is not None]
    return max(found, key=len, default=None)


def _opened(root: Path, folder: Path, settings: dict) -> store.Store | None:
    for path in sorted(folder.glob("[!.]*.parquet")):
        try:
            width = segments.read(path.with_suffix(""))[0].width
        except (ValueError, OSError) as error:
            log.warning("%s: left out, since it is not whole (%s); delete it", path, error)
            continue
        return store.Store(root, settings, width)
    return None


def embeddings(held: store.Store, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which of n texts the store knows [n] bool, and the unit-length embeddings of these [m, d] float32."""
    digests = digests_of(texts)
    known = held.known(digests)
    vectors = held.read(digests[known])
    return known, vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def rationales(
    held: store.Store, texts: Sequence[str], tokenizer: Path
) -> tuple[list[list[int]], list[str], list[bool]]:
    """Token ids of the rationales of n known texts, the rationales as text, and which of them were cut off.

    Args:
        tokenizer: the model's tokenizer.json.
    """
    from tokenizers import Tokenizer

    digests = digests_of(texts)
    ids = held.rationales(digests)
    _, cut, _ = held.notes(digests)
    bare = [one if at else one[:-1] for one, at in zip(ids, cut, strict=True)]
    decoded = Tokenizer.from_file(str(tokenizer)).decode_batch(bare, skip_special_tokens=False)
    return ids, [one.strip() for one in decoded], [bool(at) for at in cut]
