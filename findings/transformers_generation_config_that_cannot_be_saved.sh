#!/usr/bin/env bash
# transformers 5.19.0: a generation_config.json with a temperature and without sampling is loaded with a warning at most,
# and the same model cannot be saved: after a whole training save_pretrained raises. Where the file is cut off, it is
# passed over instead, and with it the tokens that end a reply: the model then ends on its config's eos alone.
#
# Seen: loading works; saving is a ValueError that names temperature; of the cut file eos_token_id is the config's 2 and
# not the file's [2, 3].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.19.0
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 venv/bin/python - 2> /dev/null <<'PYTHON'
import json
from pathlib import Path

from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=2, eos_token_id=2)).save_pretrained("model")
file = Path("model/generation_config.json")


def loaded(text):
    file.write_text(text)
    return AutoModelForCausalLM.from_pretrained("model")


model = loaded(json.dumps({"eos_token_id": [2, 3], "do_sample": False, "temperature": 0.6}))
try:
    model.save_pretrained("saved")
    said = "saved"
except ValueError as error:
    said = str(error)
print(said[:300])
whole, cut = (loaded(text).generation_config.eos_token_id for text in ('{"eos_token_id": [2, 3]}', '{"eos_token_id": [2'))
print(whole, cut)
assert "temperature" in said and whole == [2, 3] and cut == 2, "the behaviour has changed"
PYTHON
