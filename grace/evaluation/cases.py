"""Rule `cases`: rationales of a few held-out texts, written by one model after the other (tables 6 and 7).

The texts are chosen by a rule and not by hand. A rationale's tokens are the sampled ones, the end token among them.
"""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np

from grace.config import specs
from grace.config.section import UserError
from grace.evaluation.tasks import by_hash
from grace.jobs import manifest, stage

BAND = (40, 60)  # percentiles of a document's length: neither the shortest nor the longest
log = logging.getLogger(__name__)


class Text(NamedTuple):
    """A text whose rationales are shown."""

    id: str  # of its row
    kind: Literal["document", "query"]
    text: str


def choose(rows: list[dict[str, Any]], documents: int, queries: int, where: str) -> tuple[list[Text], str]:
    """The texts and the rule in words.

    Args:
        rows: as `tasks.by_hash` gives them.
        where: their file, for the error.

    Returns:
        Documents, then queries, all texts distinct; and the sentence.

    Raises:
        UserError: when too few rows have a document of medium length.
    """
    lengths = [len(row["positive"]) for row in rows]
    low, high = np.percentile(lengths, BAND)
    medium = [row for row, length in zip(rows, lengths, strict=True) if low <= length <= high]
    found = [Text(row["id"], "document", row["positive"]) for row in medium[:documents]]
    seen = {one.text for one in found}
    for row in medium[documents:]:
        if len(found) < documents + queries and row["query"] not in seen:
            found.append(Text(row["id"], "query", row["query"]))
            seen.add(row["query"])
    if len(found) < documents + queries:
        raise UserError(
            f"{where}: {len(medium)} rows of medium length give {len(found)} distinct texts, but cases.documents + "
            f"cases.queries are {documents + queries}; lower them, or hold out more rows (data.test)."
        )
    inside = [len(row["positive"]) for row in medium]
    return found, (
        f"Of the {len(rows)} held-out rows with distinct documents, the {len(medium)} whose document has {min(inside)} "
        f"to {max(inside)} characters ({BAND[0]}th to {BAND[1]}th percentile) are put in the order of the document's "
        f"BLAKE2b digest; shown are the first {documents} documents and, of the rows after them, the first {queries} "
        "queries that repeat no text."
    )


def written(folder: Path, encode: specs.EncodeSpec, texts: list[str]) -> list[dict[str, Any]]:
    """What the model in `folder` writes about each text: {"text", "tokens", "truncated", "well_formed"}."""
    from grace.encoder.encoder import RationaleEncoder

    rationales = RationaleEncoder.from_spec(folder, encode).encode(texts, rationales=True, progress=True).rationales
    return [
        {"text": one.text, "tokens": len(one.token_ids), "truncated": one.truncated, "well_formed": one.well_formed}
        for one in rationales or []
    ]


@stage.entry(specs.CasesSpec, inputs=("texts", "models*"), outputs=("out",))
def main(spec: specs.CasesSpec, paths: SimpleNamespace) -> None:
    if len(paths.models) != len(spec.models):
        raise UserError(f"--models: {len(paths.models)} folders for {len(spec.models)} models; give one for each.")
    texts, rule = choose(by_hash(paths.texts), spec.documents, spec.queries, paths.texts)
    cases: list[dict[str, Any]] = [{**one._asdict(), "rationales": []} for one in texts]
    for number, (model, folder) in enumerate(zip(spec.models, paths.models, strict=True), 1):
        log.info("model %d of %d: %s", number, len(spec.models), folder)
        for case, rationale in zip(cases, written(folder, spec.encode, [one.text for one in texts]), strict=True):
            case["rationales"].append({**model.model_dump(), **rationale})
        gc.collect()  # one model in memory at a time
    folders = list(dict.fromkeys(paths.models))
    record = manifest.make("cases", spec, [*folders, paths.texts], paths.started)
    manifest.write_result(paths.out, record, rule=rule, cases=cases)


if __name__ == "__main__":
    main()
