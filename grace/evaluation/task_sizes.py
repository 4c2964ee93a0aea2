"""How much text each MTEB task encodes, from the statistics that mteb ships, for the plan of a study.

    python -m grace.evaluation.task_sizes grace/report/task_sizes.csv

The CSV is committed, so that planning needs no mteb; a test compares it with the installed mteb.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grace.files import writing

# What mteb encodes of a row; SummEval's source texts are in its statistics but are not encoded.
FIELDS = {
    "documents_text_statistics": "documents",
    "queries_text_statistics": "queries",
    "text_statistics": "texts",
    "text1_statistics": "texts 1",
    "text2_statistics": "texts 2",
    "human_summaries_statistics": "human summaries",
    "machine_summaries_statistics": "machine summaries",
}
# Fields that hold the texts of another task's (but for 25 of FEVER's 5.4 M documents), by the task after it.
SAME_AS = {
    ("ClimateFEVER", "documents"): "FEVER",
    ("MassiveScenarioClassification", "texts"): "MassiveIntentClassification",
    ("MTOPIntentClassification", "texts"): "MTOPDomainClassification",
}
COLUMNS = ("task", "field", "texts", "distinct", "characters", "same_as")


def rows() -> list[dict[str, Any]]:
    """One row per task and field that is encoded, with the keys COLUMNS, of the 56 tasks of MTEB(eng, v1).

    `texts` and `characters` count repeats, `distinct` does not. It is counted within each field and subset, so
    it is an upper bound where they overlap. The training texts of a classification are drawn at random, so
    their number is the expected one.
    """
    import mteb

    found: list[dict[str, Any]] = []
    for task in mteb.get_benchmark("MTEB(eng, v1)").tasks:
        name = task.metadata.name
        fields: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for part in getattr(task, "tasks", [task]):  # CQADupstackRetrieval is twelve
            for split in part.eval_splits:
                for statistics in _subsets(part, split):
                    for field, counts in _encoded(part, statistics):
                        fields[field].update(counts)
            if part.metadata.type == "Classification":
                for statistics in _subsets(part, part.train_split):
                    fields["training texts"].update(_training(part, statistics))
        found += [
            {"task": name, "field": field, **counts, "same_as": SAME_AS.get((name, field), "")}
            for field, counts in fields.items()
        ]
    return sorted(found, key=lambda row: row["task"].lower())


def _subsets(task: Any, split: str) -> Iterator[dict[str, Any]]:
    """The statistics of a split, of the subsets that the benchmark takes only."""
    statistics = task.metadata.descriptive_stats[split]
    parts = statistics.get("hf_subset_descriptive_stats")
    yield from (statistics,) if parts is None else (parts[name] for name in task.hf_subsets)


def _encoded(task: Any, statistics: dict[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    for name, field in FIELDS.items():
        if (found := statistics.get(name)) and not (task.metadata.type == "Summarization" and field == "texts"):
            characters = found["total_text_length"]
            yield (
                field,
                {
                    "texts": round(characters / found["average_text_length"]),
                    "distinct": found["unique_texts"],
                    "characters": characters,
                },
            )


def _training(task: Any, statistics: dict[str, Any]) -> dict[str, int]:
    """Expected number of texts that are drawn for a label in at least one of the experiments, over all labels."""
    draw, times = task.samples_per_label, task.n_experiments
    counts = [label["count"] for label in statistics["label_statistics"]["labels"].values()]
    texts = round(sum(count * (1 - (1 - min(draw, count) / count) ** times) for count in counts))
    characters = round(texts * statistics["text_statistics"]["average_text_length"])
    return {"texts": texts, "distinct": texts, "characters": characters}


def write(path: Path) -> None:
    with writing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
