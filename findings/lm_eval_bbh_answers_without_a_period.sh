#!/usr/bin/env bash
# lm-eval 0.4.13, group bbh (cot_fewshot): its filter takes what follows "the answer is " but for the last character,
# whatever that is. "So the answer is (B)." gives "(B)", and the same answer without its period "(B", which is wrong. Its
# stop strings hold the letter Q, so that generation ends within "(Q)", an answer that reasoning_about_colored_objects
# has: no model can give it.
#
# Seen: "(B)", "(B", and of "So the answer is (Q)." the filter is handed "So the answer is (", which gives "".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check lm-eval==0.4.13
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
from pathlib import Path

import lm_eval
import yaml
from lm_eval.filters.extraction import RegexFilter

template = Path(lm_eval.__file__).parent / "tasks/bbh/cot_fewshot/_cot_fewshot_template_yaml"
settings = yaml.safe_load(template.read_text())
stops = settings["generation_kwargs"]["until"]
pattern = settings["filter_list"][0]["filter"][0]["regex_pattern"]
print("stop strings:", stops, "pattern:", pattern)


def extracted(said):
    for stop in stops:
        said = said.split(stop)[0]
    return RegexFilter(regex_pattern=pattern).apply([[said]], [{}])[0][0]


found = [extracted(f"So the answer is {answer}") for answer in ("(B).", "(B)", "(Q).")]
print(found)
assert found == ["(B)", "(B", ""], "the behaviour has changed"
PYTHON
