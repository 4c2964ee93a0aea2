"""How much text each MTEB task encodes, from the statistics that mteb ships, for the plan of a study.

    python -m grace.evaluation.task_sizes grace/report/task_sizes.csv

The CSV is committed, so that planning needs no mteb; a test compares it with the installed mteb.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from grace.jobs.files import writing

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
Count = tuple[str, int, int, int]  # field, texts, distinct, characters


def write(path: Path) -> None:
    """One row per task and field that is encoded, of the 56 tasks of MTEB(eng, v1).

    `texts` and `characters` count repeats, `distinct` does not. It is counted within each field and subset, so
    it is an upper bound where they overlap. The training texts of a classification are drawn at random, so
    their number is the expected one.
    """
    import mteb

    counts = [
        (task.metadata.name, *count)
        for task in mteb.get_benchmark("MTEB(eng, v1)").tasks
        for part in getattr(task, "tasks", [task])  # CQADupstackRetrieval is twelve
        for count in _counts(part)
    ]
    table = pd.DataFrame(counts, columns=["task", "field", "texts", "distinct", "characters"])
    table = table.groupby(["task", "field"], sort=False, as_index=False).sum()
    table["same_as"] = [SAME_AS.get(key, "") for key in zip(table["task"], table["field"], strict=True)]
    table = table.sort_values("task", key=lambda names: names.str.lower(), kind="stable")
    with writing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def _counts(task: Any) -> Iterator[Count]:
    for split in task.eval_splits:
        for statistics in _subsets(task, split):
            for name, field in FIELDS.items():
                found = statistics.get(name)
                if found and not (task.metadata.type == "Summarization" and field == "texts"):
                    characters = found["total_text_length"]
                    yield field, round(characters / found["average_text_length"]), found["unique_texts"], characters
    if task.metadata.type == "Classification":
        # Expected number of texts that are drawn for a label in at least one of the experiments, over all labels.
        draw, times = task.samples_per_label, task.n_experiments
        for statistics in _subsets(task, task.train_split):
            labels = [label["count"] for label in statistics["label_statistics"]["labels"].values()]
            texts = round(sum(count * (1 - (1 - min(draw, count) / count) ** times) for count in labels))
            yield "training texts", texts, texts, round(texts * statistics["text_statistics"]["average_text_length"])


def _subsets(task: Any, split: str) -> list[dict[str, Any]]:
    """The statistics of a split, of the subsets that the benchmark takes only."""
    statistics = task.metadata.descriptive_stats[split]
    parts = statistics.get("hf_subset_descriptive_stats")
    return [statistics] if parts is None else [parts[name] for name in task.hf_subsets]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
