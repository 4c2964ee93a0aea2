"""The committed sizes of the MTEB tasks against the installed mteb."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from grace.evaluation.task_sizes import write

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "grace/report/task_sizes.csv"
BANKING = ROOT.parent / "shared/data/banking77/train.jsonl"


def test_committed_sizes_are_those_of_the_installed_mteb(tmp_path):
    write(tmp_path / "sizes.csv")
    assert (tmp_path / "sizes.csv").read_text() == COMMITTED.read_text()


def test_expected_training_texts_are_what_mteb_draws():
    if not BANKING.exists():
        pytest.skip("needs ../shared/data/banking77, which a clone does not have")
    labels = [json.loads(line)["label"] for line in BANKING.read_text().splitlines()]
    order, drawn = list(range(len(labels))), set()
    for _ in range(10):  # mteb's undersampling: the first 8 of each label, ten times
        np.random.RandomState(42).shuffle(order)
        seen = Counter()
        for row in order:
            seen[labels[row]] += 1
            if seen[labels[row]] <= 8:
                drawn.add(row)
    with open(COMMITTED, encoding="utf-8", newline="") as handle:
        row = next(r for r in csv.DictReader(handle) if r["task"].startswith("Banking77") and "training" in r["field"])
    assert int(row["texts"]) == pytest.approx(len(drawn), rel=0.01)
