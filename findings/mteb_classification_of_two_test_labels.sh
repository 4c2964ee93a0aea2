#!/usr/bin/env bash
# mteb 2.26.24: a classification task whose test split holds exactly two labels is scored as a binary one, with an average
# precision that takes 1 for the positive label. A test split with the labels 0 and 2 of a task with three ends in a
# ValueError after everything has been encoded; with 1 and 2, or with all three, the same task is scored.
#
# Seen: accuracy 1.0 for {0, 1}, {1, 2} and {0, 1, 2}; for {0, 2} "pos_label=1 is not a valid label. It should be one of
# [0 2]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check mteb==2.26.24
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 venv/bin/python - 2> /dev/null <<'PYTHON'
import mteb
import numpy as np
from datasets import Dataset, DatasetDict
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

WORDS = ("good", "bad", "odd")


class Encoder(AbsEncoder):
    def __init__(self):
        about = {"name": "made/up", "revision": "1", "similarity_fn_name": ScoringFunction.COSINE}
        self.mteb_model_meta, self.model = ModelMeta.create_empty(overwrites=about), self

    def encode(self, inputs, **_):
        texts = [text for batch in inputs for text in batch["text"]]
        return np.array([[float(word in text) for word in WORDS] for text in texts], dtype=np.float32)


def rows(labels):
    return Dataset.from_list([{"text": f"{WORDS[n]} {i}", "label": n} for n in labels for i in range(8)])


def accuracy(test):
    task = mteb.get_task("Banking77Classification")
    task.dataset, task.data_loaded = DatasetDict({"train": rows((0, 1, 2)), "test": rows(test)}), True
    try:
        found = mteb.evaluate(Encoder(), task, cache=None, show_progress_bar=False, co2_tracker=False)
        return found.task_results[0].scores["test"][0]["accuracy"]
    except ValueError as error:
        return str(error)


found = {labels: accuracy(labels) for labels in ((0, 1), (1, 2), (0, 1, 2), (0, 2))}
for labels, result in found.items():
    print(labels, result)
assert [found[labels] for labels in ((0, 1), (1, 2), (0, 1, 2))] == [1.0] * 3, "the behaviour has changed"
assert "pos_label=1 is not a valid label" in str(found[0, 2]), "the behaviour has changed"
PYTHON
