#!/usr/bin/env bash
# datasets 5.2.0 with pyarrow 26.0.1: load_dataset("json") makes timestamps of JSON strings where every one of a column
# looks like a date. The same column with one other string stays text, so whether a text is a text depends on the rest
# of the file. Naming the features does not help: the strings are parsed all the same and written out again in another
# form, so that the text has changed without a word.
#
# Seen: "2024-01-01" arrives as datetime.datetime(2024, 1, 1, 0, 0); beside "hello" as "2024-01-01"; with
# features={"text": Value("string")} as "2024-01-01 00:00:00".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import datetime
import json
from pathlib import Path

from datasets import Features, Value, disable_progress_bars, load_dataset

disable_progress_bars()


def load(name, texts, **more):
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return load_dataset("json", data_files=name, split="train", **more)[0]["text"]


dates = ["2024-01-01", "2023-05-06"]
found = load("dates.jsonl", dates), load("mixed.jsonl", [*dates, "hello"]), load(
    "named.jsonl", dates, features=Features({"text": Value("string")})
)
print(*map(repr, found), sep="\n")
assert found == (datetime.datetime(2024, 1, 1), "2024-01-01", "2024-01-01 00:00:00"), "the behaviour has changed"
PYTHON
