#!/usr/bin/env bash
# transformers 5.19.0: AutoTokenizer gives the tokenizer of a folder whose config.json says `qwen2` the pre-tokenizer and
# normalizer of Qwen's own, whatever the folder's tokenizer.json has, and says nothing. A byte-level BPE that was trained
# for a new model of this architecture with another pre-tokenizer, and saved with `save_pretrained`, therefore cuts texts
# differently once it is loaded: at digits, blank lines and white space. With `llama` in config.json it does not.
#
# Seen: a tokenizer that was trained with ByteLevel alone makes other tokens of "in 1234 steps" after loading as qwen2,
# and the same as llama; tokenizer.json has ByteLevel in both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.19.0
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEXT = "in 1234 steps"
made = Tokenizer(models.BPE())
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
made.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
made.train_from_iterator([TEXT] * 50, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
own = PreTrainedTokenizerFast(tokenizer_object=made)
found = {}
for kind in ("qwen2", "llama"):
    own.save_pretrained(kind)
    Path(kind, "config.json").write_text(json.dumps({"model_type": kind}))
    assert json.loads(Path(kind, "tokenizer.json").read_text())["pre_tokenizer"]["type"] == "ByteLevel"
    loaded = AutoTokenizer.from_pretrained(kind)
    found[kind] = loaded.tokenize(TEXT)
    print(f"{kind:6}", type(loaded).__name__, found[kind])
print("saved ", own.tokenize(TEXT))
assert found["llama"] == own.tokenize(TEXT) != found["qwen2"], "the behaviour has changed"
PYTHON
