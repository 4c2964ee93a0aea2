"""What a study's folder holds for the page: held-out texts, evaluated models with their stores, and cases."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grace.cli.index import unit_length
from grace.config.section import UserError, build, hint
from grace.config.specs import EncodeSpec
from grace.encoder.store import Store, digests_of, read_segment, settings
from grace.jobs import manifest
from grace.jobs.files import read_json
from grace.jobs.reader import read_jsonl

QUERY, DOCUMENT = 0, 1
# The order in which runs are shown by default; the names are those of the studies in config.yaml.
USUAL = ("reasoning", "grace", "base", "cl", "simcse", "grace-unsup")
AT_MOST = 4  # models shown by default: each takes seconds to lay out, and adds its map and rationales to the page
CASE_FIELDS = ("text", "tokens", "truncated", "well_formed")
log = logging.getLogger(__name__)


# ---- held-out texts ------------------------------------------------------------------------


class PageText(NamedTuple):
    text: str
    kind: int  # QUERY or DOCUMENT
    name: str  # its row's id, or ""
    label: str  # what colours it, or ""


class PageTexts(NamedTuple):
    """n distinct texts, the queries first."""

    texts: list[PageText]
    true: list[list[int]]  # of a query the numbers of its documents, of a document those of its queries

    @property
    def kinds(self) -> np.ndarray:
        """[n] QUERY or DOCUMENT."""
        return np.array([one.kind for one in self.texts], dtype=int)

    def where(self, chosen: np.ndarray) -> PageTexts:
        """The texts for which `chosen` [n] is true."""
        number = np.cumsum(chosen) - 1
        rows = np.flatnonzero(chosen)
        true = [[int(number[j]) for j in self.true[i] if chosen[j]] for i in rows]
        return PageTexts([self.texts[i] for i in rows], true)


def read_texts(results: Path) -> PageTexts:
    """The held-out texts of a study.

    Raises:
        UserError: when there is no folder `results`, or it holds no held-out texts.
    """
    if not results.is_dir():
        raise UserError(f"{results}: no such folder; give the folder of a study's results, such as results/demo.")
    files = sorted(results.glob("data/split/*/test.jsonl"))
    rows = []
    for path in files:
        source = path.parent.name if len(files) > 1 else ""
        rows += [{**row, "label": row.get("label") or row.get("source") or source} for row in read_jsonl(path)]
    if not files and (tasks := results / "data" / "tasks.json").exists():
        rows = read_json(tasks).get("test", [])
    found = texts_of(rows)
    if not found.texts:
        raise UserError(
            f"{results}: holds no held-out texts (data/split/*/test.jsonl); run snakemake for this study first."
        )
    return found


def texts_of(rows: Iterable[dict[str, Any]]) -> PageTexts:
    """The distinct texts of rows {"query", "positive"} or {"text"}, with "id" and "label" where they have them."""
    queries: dict[str, PageText] = {}
    documents: dict[str, PageText] = {}
    pairs: dict[tuple[str, str], None] = {}
    for row in rows:
        name, label = str(row.get("id", "")), str(row.get("label", ""))
        document, query = row.get("positive", row.get("text")), row.get("query")
        if isinstance(document, str):
            documents.setdefault(document, PageText(document, DOCUMENT, name, label))
        if isinstance(query, str):
            queries.setdefault(query, PageText(query, QUERY, name, label))
            if isinstance(document, str):
                pairs[query, document] = None
    number_of_query = {text: i for i, text in enumerate(queries)}
    number_of_document = {text: len(queries) + i for i, text in enumerate(documents)}
    true: list[list[int]] = [[] for _ in range(len(queries) + len(documents))]
    for query, document in pairs:
        true[number_of_query[query]].append(number_of_document[document])
        true[number_of_document[document]].append(number_of_query[query])
    return PageTexts([*queries.values(), *documents.values()], true)


def subset(texts: PageTexts, at_most: int) -> np.ndarray:
    """[n] bool: at most so many texts, pairs kept together, in the order of the BLAKE2b digests of the documents."""
    chosen = np.zeros(len(texts.texts), dtype=bool)
    if len(chosen) <= at_most:
        return ~chosen

    def order(i: int) -> tuple[int, bytes]:
        text = texts.texts[i].text.encode("utf-8", "surrogatepass")
        return -texts.texts[i].kind, hashlib.blake2b(text, digest_size=16).digest()

    # Documents first, each with its queries; queries without a document come last.
    heads = [i for i, text in enumerate(texts.texts) if text.kind == DOCUMENT or not texts.true[i]]
    room = at_most
    for i in sorted(heads, key=order):
        group = [j for j in (i, *texts.true[i]) if not chosen[j]]
        if len(group) <= room:
            chosen[group] = True
            room -= len(group)
    return chosen


# ---- evaluated models ----------------------------------------------------------------------


class Evaluated(NamedTuple):
    """A model as it was evaluated."""

    run: str
    seed: str
    encode: EncodeSpec | None  # None: an encoder-only model
    weights: str  # of `manifest.weights_hash`
    folder: Path  # of the model, which may be gone
    store: Store | None  # of its embeddings; None where there is none

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
    """Names of the runs to show, and of the other evaluated ones.

    By default at most AT_MOST of those that belong to no ablation (whose names hold a dot).

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


def read_model(results: Path, backbone: str, run: str) -> Evaluated:
    """A run as it was evaluated, of its first seed. Raises: UserError when its result cannot be used."""
    path = min(results.glob(f"mteb/{backbone}/{run}/seed*/*.json"), key=lambda one: (len(one.parts[-2]), one))
    record = manifest.read_result(path)["manifest"]
    try:
        made, (model, weights) = record["settings"], next(iter(record["inputs"].items()))
        encode = made["encode"] and build(EncodeSpec, made["encode"], "settings.encode")
        precision = str(made["store"])
    except (KeyError, TypeError, AttributeError, StopIteration, UserError):
        raise UserError(f"{path}: written by another version of this workflow; run snakemake again.") from None
    parts = Path(model).parts
    # A path of the manifest is relative to where snakemake ran.
    folder = results.joinpath(*parts[parts.index("models") :]) if "models" in parts else Path(model)
    held = find_store(results / "store", encode, weights, precision)
    return Evaluated(run, path.parent.name.removeprefix("seed"), encode, weights, folder, held)


def find_store(root: Path, encode: EncodeSpec | None, weights: str, precision: str) -> Store | None:
    """The store of a model's embeddings; None where there is none. Of several (of other machines) the largest."""
    found = []
    for path in sorted(root.glob("*/settings.json")):
        held = read_json(path)
        dtype, template = (str(held.get(name, "")) for name in ("dtype", "template"))
        if held == settings(encode, weights, dtype, precision, template) and (width := _stored_width(path.parent)):
            found.append(Store(root, held, width))
    return max(found, key=len, default=None)


def _stored_width(folder: Path) -> int | None:
    """The length of a store's embeddings; None when it holds no readable segment."""
    for path in sorted(folder.glob("[!.]*.parquet")):
        try:
            return read_segment(path.with_suffix(""))[0].width
        except (ValueError, OSError) as error:
            log.warning("%s: left out, since it is not whole (%s); delete it", path, error)
    return None


def read_embeddings(held: Store, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which of n texts the store knows [n] bool, and the unit-length embeddings of these [m, d] float32."""
    digests = digests_of(texts)
    known = held.known(digests)
    return known, unit_length(held.read(digests[known]))


def read_rationales(held: Store, texts: Sequence[str], tokenizer: Path) -> tuple[list[str], list[bool]]:
    """Rationales of n known texts, and which were cut off; decoded by a model's tokenizer.json."""
    from tokenizers import Tokenizer

    digests = digests_of(texts)
    _, cut, _ = held.notes(digests)
    ids = [one if at else one[:-1] for one, at in zip(held.rationales(digests), cut, strict=True)]
    decoded = Tokenizer.from_file(str(tokenizer)).decode_batch(ids, skip_special_tokens=False)
    return [one.strip() for one in decoded], [bool(at) for at in cut]


# ---- rationales over training --------------------------------------------------------------


def read_cases(results: Path, backbone: str) -> tuple[dict[str, Any] | None, str]:
    """{"run", "rule", "cases": [{"id", "kind", "text", "steps": [...], "others": [...]}]}, or None and why.

    `steps` are the rationales of the run whose training is followed, in the order of training (step 0 is the backbone,
    step None the end); `others` those of other runs at their end.
    """
    path = results / "cases" / f"{backbone}.json"
    if not path.exists():
        return None, f"{path} is missing: snakemake makes it (rule cases)."
    try:
        record = manifest.read_result(path)
        cases, followed = [], set()
        for case in record["cases"]:
            written = case["rationales"]
            runs = {one["run"] for one in written if one["step"] is not None}
            steps = sorted(
                (one for one in written if one["run"] in runs),
                key=lambda one: (one["step"] is None, one["step"] or 0),
            )
            others = [one for one in written if one["run"] not in runs]
            cases.append(
                {name: case[name] for name in ("id", "kind", "text")}
                | {"steps": [{name: one[name] for name in ("step", *CASE_FIELDS)} for one in steps]}
                | {"others": [{name: one[name] for name in ("run", *CASE_FIELDS)} for one in others]}
            )
            followed |= runs
        return {"run": min(followed, default="the backbone"), "rule": record["rule"], "cases": cases}, ""
    except (KeyError, TypeError, AttributeError):
        return None, f"{path} was written by another version of this workflow: run snakemake again."
    except UserError as error:
        return None, str(error)
