"""Rule `general`: what else one model can still do (table 5), and whether its rationales are in order."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from grace import manifest, specs, stage
from grace.evaluation import harness
from grace.evaluation.tasks import load
from grace.reader import read_jsonl


def rationale(encoder: Any, texts: list[str]) -> dict[str, Any] | None:
    """Rationales of held-out texts, generated also by a model that is used without them.

    Returns:
        Mean length in tokens, the shares cut off and well formed, the mean `keyword_fidelity` (of the rationales
        that have one), the number of texts, a digest of the token ids (equal where every rationale is), and per text
        whether its rationale is well formed (0 or 1); None without texts.
    """
    if not texts:
        return None
    said = encoder.encode(texts, rationales=True, progress=True).rationales
    fidelity = [harness.keyword_fidelity(text, r.text) for text, r in zip(texts, said, strict=True)]
    known = [value for value in fidelity if value is not None]
    formed = [float(r.well_formed) for r in said]
    return {
        "mean_tokens": float(np.mean([len(r.token_ids) for r in said])),
        "truncated_share": float(np.mean([r.truncated for r in said])),
        "well_formed_share": float(np.mean(formed)),
        "keyword_fidelity": float(np.mean(known)) if known else None,
        "texts": len(texts),
        "digest": hashlib.sha256(json.dumps([r.token_ids for r in said]).encode()).hexdigest(),
        "items": {"statistic": "mean", "parts": [{"values": formed}]},
    }


def held_out(data: dict[str, Any] | None, paths: list[Path], count: int) -> list[str]:
    """Up to `count` held-out texts: those of the demo's task data, else a draw from the rows of --texts.

    The draw is the same for every run, so that their rates can be compared text by text.

    Raises:
        UserError: naming file and row, for a row without `positive`.
    """
    if data is not None:
        return data["rationale"][:count]
    texts = [row["positive"] for path in paths for row in read_jsonl(path, need=("positive",))]
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:count].tolist()]


@stage.entry(specs.GeneralSpec, inputs=("model", "data*", "texts*"), outputs=("out",))
def main(spec: specs.GeneralSpec, paths: SimpleNamespace) -> None:
    with stage.imports():
        from grace.encoder import adapters
        from grace.encoder.encoder import RationaleEncoder
        from grace.evaluation import likelihood  # noqa: F401  # `harness` does

    data = load(paths.data, spec.rows)
    texts = held_out(data, paths.texts, spec.general.rationales)
    with tempfile.TemporaryDirectory() as folder:
        loaded = harness.load(spec.general.tasks, data, spec.general.local, Path(folder))
        encoder = RationaleEncoder.from_spec(paths.model, spec.encode)
        with adapters.writing(encoder.model) as model:  # not the one that pools
            found = harness.run(
                model,
                encoder.tokenizer,
                loaded,
                limit=spec.general.limit,
                limits=spec.general.limits,
                batch_size=spec.general.batch_size,
                threads=paths.threads,
            )
    said = rationale(encoder, texts)
    inputs = [paths.model, *paths.data, *([] if data else paths.texts)]
    record = manifest.make("general", spec, inputs, paths.started)
    manifest.write_result(paths.out, record, tasks=found, rationale=said)


if __name__ == "__main__":
    main()
