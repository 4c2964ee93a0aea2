"""Rule `evaluate`: one model on one group of MTEB tasks, into one result file.

A job never resumes nor reads an older result: mteb's cache is off, and its revision is a hash of weights
and settings. Within the job a text is encoded once, however many tasks hold it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from grace import manifest, specs, stage, tasks
from grace.evaluation.tasks import load
from grace.files import write_json
from grace.section import UserError

PAIRS = 2000  # random pairs behind the geometry's mean cosine
# Of mteb's loader only: the encoder makes its own batches and shows its own progress.
LOADER: Any = {"batch_size": 1024, "show_progress_bar": False}
log = logging.getLogger(__name__)


class Memo:
    """Encodes each distinct text once.

    Args:
        encoder: has `encode(texts, progress=...)` -> (embeddings float32 [N, d], rationales or None).

    Attributes:
        tokens, truncated, well_formed: of each encoded rationale (int, bool, bool).
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        # Keyed by digest: corpora of millions of texts should not be held twice.
        self.rows: dict[bytes, np.ndarray] = {}
        self.tokens: list[int] = []
        self.truncated: list[bool] = []
        self.well_formed: list[bool] = []

    def encode(self, texts: list[str]) -> np.ndarray:
        """Embeddings [N, d] of `texts`, in their order. Raises: whatever the encoder raises."""
        keys = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.rows}
        if fresh:
            log.info("encoding %d texts (%d asked, %d known)", len(fresh), len(texts), len(self.rows))
            embeddings, rationales = self.encoder.encode(list(fresh.values()), progress=True)
            if not np.isfinite(embeddings).all():
                raise UserError("the model gives embeddings that are not finite; its training has diverged.")
            self.rows.update(zip(fresh, embeddings, strict=True))
            for rationale in rationales or []:
                self.tokens.append(len(rationale.token_ids))
                self.truncated.append(rationale.truncated)
                self.well_formed.append(rationale.well_formed)
        return np.stack([self.rows[key] for key in keys])

    def geometry(self, seed: int = 0) -> dict[str, Any]:
        """Mean cosine of PAIRS random pairs of distinct texts: near 1 when all embeddings point one way."""
        rows = list(self.rows.values())
        if len(rows) < 2:
            return {"random_pair_cosine": None, "pairs": 0, "texts": len(rows)}
        rng = np.random.default_rng(seed)
        first = rng.integers(len(rows), size=PAIRS)
        second = (first + rng.integers(1, len(rows), size=PAIRS)) % len(rows)
        a, b = (np.stack([rows[i] for i in side]).astype(np.float64) for side in (first, second))
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        return {"random_pair_cosine": float(cosine.mean()), "pairs": PAIRS, "texts": len(rows)}

    def rationale(self) -> dict[str, Any] | None:
        """Mean length in tokens and the shares cut off and well formed; None for a run without rationales."""
        if not self.tokens:
            return None
        return {
            "mean_tokens": float(np.mean(self.tokens)),
            "truncated_share": float(np.mean(self.truncated)),
            "well_formed_share": float(np.mean(self.well_formed)),
            "texts": len(self.tokens),
        }


def run(memo: Memo, names: list[str], data: dict[str, Any] | None, name: str, revision: str) -> dict[str, Any]:
    """Evaluate the tasks `names`.

    Returns:
        {task: {"category", "main_score" (0 to 1, or None where undefined), "metric", "items" (see `items.items`)}}.

    Raises:
        UserError: for an unknown task, or a hub task whose data cannot be loaded.
        RuntimeError: when the per-item scores do not add up to mteb's main score.
    """
    import datasets
    import mteb
    from sklearn.exceptions import UndefinedMetricWarning

    from grace.evaluation.items import aggregate, items, leaves
    from grace.evaluation.mteb_tasks import get_tasks

    datasets.disable_progress_bars()
    # mteb computes a dozen metrics beside the main one; those of unpredicted labels warn on each experiment.
    warnings.filterwarnings("ignore", category=UndefinedMetricWarning)
    model = _mteb_encoder(memo, name, revision)
    found: dict[str, Any] = {}
    todo = get_tasks(names, data)
    for number, task in enumerate(todo, 1):
        title = task.metadata.name
        log.info("task %d of %d: %s", number, len(todo), title)
        for leaf in leaves(task):  # loaded here, so that mteb leaves the data loaded for the items
            _load(leaf)
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
            kept = items(task, scores, Path(folder))
        if not math.isfinite(main):  # a correlation without spread: all embeddings are one
            log.warning("%s: %s is undefined for this model", title, task.metadata.main_score)
            kept = None
        # mteb rounds retrieval scores to five decimals.
        if kept is not None and abs(aggregate(kept) - main) > 1e-5:
            raise RuntimeError(f"{title}: items give {aggregate(kept):.7f}, mteb {main:.7f}")
        found[title] = {
            "category": tasks.CATEGORY[title],
            "main_score": main if math.isfinite(main) else None,
            "metric": task.metadata.main_score,
            "items": kept,
        }
        log.info("%s: %s %.4f", title, task.metadata.main_score, main)
        for leaf in leaves(task):
            leaf.unload_data()
    return found


def _load(task: Any) -> None:
    try:
        task.load_data()
    except (OSError, ConnectionError) as error:  # the hub's errors are OSErrors
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"task {task.metadata.name}: its data cannot be loaded from the hub ({reason}).") from None


def _mteb_encoder(memo: Memo, name: str, revision: str) -> Any:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    class Encoder(AbsEncoder):
        """`memo` as mteb wants it. A document's text comes from mteb as title + " " + text."""

        def __init__(self) -> None:
            self.model = memo
            about = {"name": name, "revision": revision, "similarity_fn_name": ScoringFunction.COSINE}
            self.mteb_model_meta = ModelMeta.create_empty(overwrites=about)

        def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
            return memo.encode([text for batch in inputs for text in batch["text"]])

    return Encoder()


@stage.entry(specs.EvaluateSpec, inputs=("model", "data*"), outputs=("out",))
def main(spec: specs.EvaluateSpec, paths: SimpleNamespace) -> None:
    from grace.encoder.encoder import RationaleEncoder

    data = load(paths.data)
    memo = Memo(RationaleEncoder.from_spec(paths.model, spec.encode))
    revision = f"{manifest.weights_hash(paths.model)[:12]}-{manifest.settings_hash(spec.encode)}"
    found = run(memo, spec.tasks, data, f"grace/{spec.run}", revision)
    record = manifest.make("evaluate", spec, [paths.model, *paths.data], paths.started, revision=revision)
    result = {"manifest": record, "tasks": found, "geometry": memo.geometry(), "rationale": memo.rationale()}
    write_json(paths.out, result)


if __name__ == "__main__":
    main()
