"""Rule `general`: what else one model can still do (table 5), and whether its rationales are in order."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from grace import manifest, specs, stage
from grace.evaluation import harness
from grace.evaluation.tasks import load
from grace.files import write_json


def rationale(encoder: Any, texts: list[str]) -> dict[str, Any] | None:
    """Rationales of held-out texts, generated also by a model that is used without them.

    Returns:
        Mean length in tokens, the shares cut off and well formed, the mean `keyword_fidelity` (of the rationales
        that have one), the number of texts, and per text whether its rationale is well formed (0 or 1); None
        without texts.
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
        "items": {"statistic": "mean", "parts": [{"values": formed}]},
    }


@stage.entry(specs.GeneralSpec, inputs=("model", "data*"), outputs=("out",))
def main(spec: specs.GeneralSpec, paths: SimpleNamespace) -> None:
    harness.check(spec.general.tasks)
    from grace.encoder.encoder import RationaleEncoder

    encoder = RationaleEncoder.from_spec(paths.model, spec.encode)
    data = load(paths.data)
    with tempfile.TemporaryDirectory() as folder:
        found = harness.run(
            encoder.model,
            encoder.tokenizer,
            spec.general.tasks,
            data,
            Path(folder),
            limit=spec.general.limit,
            batch_size=spec.general.batch_size,
            seed=spec.encode.seed,
        )
    said = rationale(encoder, data["rationale"][: spec.general.rationales]) if data else None
    record = manifest.make("general", spec, [paths.model, *paths.data], paths.started)
    write_json(paths.out, {"manifest": record, "tasks": found, "rationale": said})


if __name__ == "__main__":
    main()
