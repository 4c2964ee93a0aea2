"""Rule `evaluate`: one model on one group of MTEB tasks, into one result file.

What resumes is the embeddings: they go to the store as they are made (`--store`, else a folder that goes with the
job), so that a killed job embeds what is missing, and a text is embedded once however many tasks and jobs hold it.
Scores never do: mteb's cache is off, and its revision is a hash of weights and settings.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from grace import manifest, specs, stage, tasks
from grace.encoder import hub, store
from grace.encoder.digests import digests_of
from grace.evaluation import geometry, held_out
from grace.evaluation.embedder import Embedder
from grace.evaluation.tasks import load
from grace.mistakes import refused
from grace.section import UserError

# Of mteb's loader only: the encoder makes its own batches and shows its own progress.
LOADER: Any = {"batch_size": 1024, "show_progress_bar": False}
log = logging.getLogger(__name__)


def run(
    embedder: Embedder,
    names: list[str],
    data: dict[str, Any] | None,
    name: str,
    revision: str,
    local: dict[str, str] | None = None,
    sample: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Evaluate the tasks `names`.

    Args:
        data, local, sample: as of `find`. name, revision: of the model, for mteb.

    Returns and raises as `run_found`, and raises as `find`.
    """
    return run_found(embedder, find(names, data, local, sample), name, revision)


def find(
    names: list[str],
    data: dict[str, Any] | None,
    local: dict[str, str] | None = None,
    sample: dict[str, int] | None = None,
) -> list[Any]:
    """mteb's objects of the tasks `names`, so that what is missing stops a job before its model is loaded.

    Every local folder is looked into, and the first task's data are loaded. Those of the others are when their turn
    comes, and not kept: all at once need not fit in memory.

    Args:
        data: of the demo's tasks. local: task -> folder of its data (`local_data`). sample: task -> number of items
            that are drawn of it (`sample`).

    Raises:
        UserError: for an unknown task, or data that cannot be loaded.
    """
    import datasets

    from grace.evaluation.items import leaves
    from grace.evaluation.mteb_tasks import get_tasks

    datasets.disable_progress_bars()
    found: list[Any] = get_tasks(names, data, local, sample)
    if not {*tasks.DEMO.values(), *(local or {})}.issuperset(names):
        hub.offline_if_unreachable()
    for task in found[:1]:
        log.info("%s: loading its data", task.metadata.name)
        _load(leaves(task)[0])
    return found


def run_found(embedder: Embedder, todo: list[Any], name: str, revision: str) -> dict[str, Any]:
    """Evaluate the tasks that `find` gave; their data are unloaded one after the other.

    Returns:
        {task: {"category", "main_score" (0 to 1, or None where undefined), "metric", "items" (see `items.items`)}}, of
        a retrieval also "tied": the share of queries whose score equal scores of documents decide; of a task of which
        a part was drawn also "sample" (see `sample.drawn`).

    Raises:
        UserError: for data that cannot be loaded, or a disk too small for a corpus's embeddings.
        RuntimeError: when the per-item scores do not add up to mteb's main score.
    """
    from sklearn.exceptions import UndefinedMetricWarning

    from grace.evaluation import sample, scale
    from grace.evaluation.items import leaves

    # mteb computes a dozen metrics beside the main one; those of unpredicted labels warn on each experiment.
    warnings.filterwarnings("ignore", category=UndefinedMetricWarning)
    model = _mteb_encoder(embedder, name, revision)
    found: dict[str, Any] = {}
    for number, task in enumerate(todo, 1):
        title = task.metadata.name
        log.info("task %d of %d: %s", number, len(todo), title)
        for leaf in leaves(task):  # loaded here, so that mteb leaves the data loaded for the items
            _load(leaf)
            embedder.check_room(scale.documents(leaf), scale.corpus_size(leaf))
        main, kept = _joined([_once(model, task) for _ in scale.pieces(task)])
        if not math.isfinite(main):  # a correlation without spread: all embeddings are one
            log.warning("%s: %s is undefined for this model", title, task.metadata.main_score)
        found[title] = {
            "category": tasks.CATEGORY[title],
            "main_score": main if math.isfinite(main) else None,
            "metric": task.metadata.main_score,
            "items": kept,
            **_tied(kept),
            **({"sample": part} if (part := sample.drawn(leaves(task))) else {}),
        }
        log.info("%s: %s %.4f", title, task.metadata.main_score, main)
        for leaf in leaves(task):
            leaf.unload_data()
    return found


def _once(model: Any, task: Any) -> tuple[float, dict[str, Any] | None]:
    """Main score and items of a task with the data it now holds."""
    import mteb

    from grace.evaluation.items import aggregate, items, leaves

    with tempfile.TemporaryDirectory() as folder:
        scores: dict[str, dict[str, Any]] = {}
        for leaf in leaves(task):
            result = mteb.evaluate(
                model,
                leaf,
                cache=None,
                prediction_folder=Path(folder),
                show_progress_bar=False,
                co2_tracker=False,
                encode_kwargs=LOADER,
            )
            scores[leaf.metadata.name] = {
                f"{split}/{row['hf_subset']}": row
                for split, rows in result.task_results[0].scores.items()
                for row in rows
            }
        # mteb's mean over splits and subsets, and over the members of an aggregate task.
        main = float(np.mean([np.mean([row["main_score"] for row in leaf.values()]) for leaf in scores.values()]))
        if not math.isfinite(main):
            return main, None
        kept = items(task, scores, Path(folder))
    # mteb rounds retrieval scores to five decimals.
    if kept is not None and abs(aggregate(kept) - main) > 1e-5:
        raise RuntimeError(f"{task.metadata.name}: items give {aggregate(kept):.7f}, mteb {main:.7f}")
    return main, kept


def _joined(pieces: list[tuple[float, dict[str, Any] | None]]) -> tuple[float, dict[str, Any] | None]:
    """Score and items of a task that was evaluated in `scale.pieces`: a mean over the items of all."""
    if len(pieces) == 1:
        return pieces[0]
    if not all(math.isfinite(main) for main, _ in pieces):
        return math.nan, None
    parts = [part for _, kept in pieces if kept for part in kept["parts"]]
    whole = {key: [value for part in parts for value in part[key]] for key in parts[0]}
    return float(np.mean(whole["values"])), {"statistic": "mean", "parts": [whole]}


def _tied(kept: dict[str, Any] | None) -> dict[str, float]:
    """The share of queries that are tied; their flags leave the items."""
    flags = [flag for part in (kept or {"parts": []})["parts"] for flag in part.pop("tied", [])]
    return {"tied": float(np.mean(flags))} if flags else {}


def _load(task: Any) -> None:
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError  # of the HTTP library that the hub's client uses

    try:
        task.load_data()
    except (OSError, HTTPError, DatasetsError, ValueError) as error:  # the hub's own errors are OSErrors
        if refused(error):
            raise
        if type(error) is ValueError and "Couldn't find cache" not in str(error):  # which only says that it is offline
            raise
        reason = str(error).strip().split("\n")[0]
        name = task.metadata.name
        raise UserError(
            f"task {name}: its data cannot be loaded from the hub ({reason}); try again with a connection, or name a "
            f"folder that holds it in evaluation.local.{name}."
        ) from None


def _mteb_encoder(embedder: Embedder, name: str, revision: str) -> Any:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    class Encoder(AbsEncoder):
        """`embedder` as mteb wants it. A document's text comes from mteb as title + " " + text."""

        def __init__(self) -> None:
            self.model = embedder
            about = {"name": name, "revision": revision, "similarity_fn_name": ScoringFunction.COSINE}
            self.mteb_model_meta = ModelMeta.create_empty(overwrites=about)

        def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
            return embedder.encode([text for batch in inputs for text in batch["text"]])

    return Encoder()


def _source(spec: specs.EvaluateSpec, root: Path, ours: dict[str, Any], writer: str, width: int) -> store.Store | None:
    """The store in which this model's rationales lie already, if the spec names one.

    Args:
        writer: `manifest.writer_hash` of the model.

    Raises:
        UserError: when what was written there is not the beginning of what would be written here.
    """
    if spec.rationales_of is None or spec.encode is None:
        return None
    theirs = store.settings(spec.rationales_of, writer, ours["dtype"], spec.store, ours["template"])
    differing = [
        name
        for name in {**ours, **theirs}
        if theirs.get(name) != ours.get(name) and name not in ("pooling", "max_new_tokens", "weights")
    ]
    if spec.encode.max_new_tokens > spec.rationales_of.max_new_tokens:
        differing.append("max_new_tokens is larger")
    if differing or not spec.encode.rationales:
        reason = ", ".join(differing) or "rationales: false"
        raise UserError(f"spec.rationales_of: other rationales than those of encode ({reason}); leave it out.")
    return store.Store(root, theirs, width)


class Layers:
    """Pools several layers of a `RationaleEncoder` in one pass: those of other runs go to their stores.

    Args:
        others: number of blocks -> the store of the same embeddings by that layer.
    """

    def __init__(self, encoder: Any, others: dict[int, store.Store]) -> None:
        self.encoder, self.others = encoder, others

    def encode_batches(self, texts: list[str]) -> Iterator[tuple[list[int], Any]]:
        digests, own = digests_of(texts), self.encoder.spec.pooling.layer
        for rows, pooled in self.encoder.encode_layers(texts, [own, *self.others]):
            for place, other in enumerate(self.others.values(), 1):
                other.add(digests[rows], pooled[:, place], None)
            yield rows, SimpleNamespace(embeddings=pooled[:, 0], rationales=None)


@stage.entry(specs.EvaluateSpec, inputs=("model", "data*", "pairs*", "standard*"), outputs=("out", "store?"))
def main(spec: specs.EvaluateSpec, paths: SimpleNamespace) -> None:
    with stage.imports():
        import sentence_transformers  # noqa: F401  # mteb's `evaluate` does

        from grace.encoder.encoder import RationaleEncoder
        from grace.encoder.encoder_only import EncoderOnly
        from grace.encoder.engines.vllm import require_vllm
        from grace.evaluation import mteb_tasks  # noqa: F401  # `find` does

    if spec.encode and spec.encode.engine == "vllm" and spec.encode.rationales:
        require_vllm("evaluation.engine")
    data = load(paths.data, spec.rows)
    pairs = geometry.read_pairs(paths.pairs, spec.pairs) if spec.pairs else None
    todo = find(spec.tasks, data, spec.local, spec.sample)
    weights = manifest.weights_hash(paths.model)
    encoder: Any
    if spec.encode is None:
        encoder, template, revision = EncoderOnly(paths.model), "", weights[:12]
    else:
        encoder = RationaleEncoder.from_spec(paths.model, spec.encode)
        template, revision = encoder.template.digest, f"{weights[:12]}-{manifest.settings_hash(spec.encode)}"
    width, settings = encoder.width, store.settings(spec.encode, weights, encoder.dtype, spec.store, template)
    with (
        tempfile.TemporaryDirectory(dir=paths.out.parent, prefix=".store-") as temporary,
        contextlib.ExitStack() as stores,
    ):
        root = paths.store or Path(temporary)
        if spec.layers and spec.encode:
            others = {}
            for layer in spec.layers:
                theirs = spec.encode.model_copy(
                    update={"pooling": spec.encode.pooling.model_copy(update={"layer": layer})}
                )
                known = store.settings(theirs, weights, encoder.dtype, spec.store, template)
                others[layer] = stores.enter_context(store.Store(root, known, encoder.width, model=paths.model))
            encoder = Layers(encoder, others)
        source = _source(spec, root, settings, manifest.writer_hash(paths.model), width)
        with store.Store(root, settings, width, model=paths.model) as kept:
            embedder = Embedder(encoder, kept, source)
            if spec.standardize:
                texts = [row["positive"] for row in held_out.by_hash(paths.standard[0])]
                embedder.standardize(texts[: spec.standardize])
            found = run_found(embedder, todo, f"grace/{spec.run}", revision)
            rationale = embedder.rationale()  # of the tasks' texts, without those of the pairs
            shape = geometry.measure(*pairs, embedder.encode) if pairs else None
    inputs = [paths.model, *paths.data, *(paths.pairs if pairs else []), *paths.standard]
    record = manifest.make("evaluate", spec, inputs, paths.started, revision=revision)
    manifest.write_result(paths.out, record, tasks=found, geometry=shape, rationale=rationale)


if __name__ == "__main__":
    main()
