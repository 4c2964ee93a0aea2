#!/usr/bin/env bash
# peft 0.21.2: of a list of target_modules the names that the model does not have are passed over without a word, as long
# as one of them is there. A misspelt name trains fewer layers than asked for, and nothing says so. Only a list of which
# no name is there raises.
#
# Seen: ["q_proj", "v_prj"] adapts q_proj alone, without an error or a warning; ["v_prj"] is a ValueError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check peft==0.21.2 transformers==5.19.0
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import warnings

from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def adapted(targets):
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=2))
    made = get_peft_model(model, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    return {name.split(".lora_A")[0].split(".")[-1] for name, _ in made.named_parameters() if ".lora_A" in name}


with warnings.catch_warnings():
    warnings.simplefilter("error")
    found = adapted(["q_proj", "v_prj"])
print(found)
assert found == {"q_proj"}, "the behaviour has changed"
try:
    adapted(["v_prj"])
except ValueError as error:
    print("ValueError:", str(error)[:80])
else:
    raise AssertionError("the behaviour has changed")
PYTHON
