"""Whether a GGUF file becomes the model that llama.cpp runs: token ids of texts, and log-probabilities.

llama.cpp comes from PyPI's sdist, built in an environment of its own (an hour on 2 busy cores):

    python -m venv LLAMA && LLAMA/bin/pip install llama-cpp-python
    python -m bench.gguf FILE --llama LLAMA/bin/python --texts FOLDER

FOLDER holds JSON lines, of which every text is taken. llama.cpp's kernels for quantized weights round activations to 8
bits; on a copy of the file in float32 nothing is rounded, so that it says whether the model is the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench import common

# What the other interpreter runs: questions on standard input, answers on standard output.
LLAMA = """
import json, sys
import numpy as np
from llama_cpp import Llama
asked = json.load(sys.stdin)
model = Llama(asked["file"], vocab_only=asked["vocabulary"], logits_all=True, n_ctx=1024, n_threads=1, verbose=False,
              type_k=0, type_v=0)  # float32
ids = [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]
chosen, best = [], []
for some in [] if asked["vocabulary"] else ids:
    model.reset()
    model.eval(some)
    scores = np.array(model.scores[: len(some) - 1], dtype=np.float64)
    scores -= np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1, keepdims=True)) + scores.max(1, keepdims=True)
    chosen.append([float(row[id]) for row, id in zip(scores, some[1:])])
    best.append(scores.argmax(1).tolist())
json.dump({"ids": ids, "chosen": chosen, "best": best}, sys.stdout)
"""
BY_HAND = [
    "1. one\n2. two\n\n3. three\n\n\n10. ten", "\n\n1", "  \n 2", "\t3\n", "12345 1,234.50 3/4 2\u00b2 \u2167 \u0663",
    "def f(x):\n    return x[0]  # 1\n\n\nclass A:\n\tpass\n", "It's we'll I'M THEY'RE he'd 'tis", "a   b  \n \n d  ",
    "Gr\u00f6\u00dfe na\u00efve \u65e5\u672c\u8a9e \u0645\u0631\u062d\u0628\u0627 \u0939\u093f\u0928\u094d", "{}[]();",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u00a0\u2003x\u200by", "<|im_start|>user\nhi<|im_end|>",
    "...---###$$%^&*", "", " ", "\n", "\n\n\n", "\r\n\r\n4 lines\r", "x" * 300, "0" * 50,
]  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Print how many texts have other token ids, and how far log-probabilities are apart; 1 where ids differ."""
    parser = common.parser(__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--llama", required=True, help="the Python in whose environment llama-cpp-python is")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5000, help="of texts")
    parser.add_argument("--scored", type=int, default=100, help="of texts whose tokens' log-probabilities are compared")
    given = parser.parse_args(argv)
    texts = BY_HAND + drawn(given.texts, given.count - len(BY_HAND))
    from grace.encoder.gguf import SPLITS, convert

    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        for split in SPLITS:
            file = copy(given.file, Path(temporary) / f"{split}.gguf", split=split)
            theirs, ours = asked(given.llama, file, texts, vocabulary=True)["ids"], tokens(file, split, texts)
            unlike = [text for text, a, b in zip(texts, ours, theirs, strict=True) if a != b]
            rows.append([split, f"{len(texts):,}", f"{sum(map(len, theirs)):,}", len(unlike)])
            wrong += len(unlike)
            for text in unlike[:5]:
                print(f"{split}: other token ids of {text[:60]!r}")
        print(common.table(("split", "texts", "tokens", "texts with other ids"), rows), flush=True)
        some = [text for text in texts if 2 < len(text) < 1000][:: max(1, len(texts) // given.scored)]
        (folder := Path(temporary) / "model").mkdir()
        convert(given.file, folder, "float32")
        whole = copy(given.file, Path(temporary) / "float32.gguf", tensors=True)
        for name, file in (("float32", whole), ("as it is", given.file)):
            print(f"{name}: {apart(folder, asked(given.llama, file, some, vocabulary=False))}", flush=True)
    return int(wrong > 0)


def drawn(folder: Path, count: int) -> list[str]:
    """`count` of the texts in a folder's JSON lines, the same each time."""
    found = sorted({text for path in sorted(folder.rglob("*.jsonl")) for text in strings(path)})
    chosen = np.random.default_rng(0).permutation(len(found))[:count]
    return [found[i] for i in chosen]


def strings(path: Path) -> list[str]:
    rows = map(json.loads, path.read_text(encoding="utf-8").strip().split("\n"))
    return [value for row in rows for value in row.values() if isinstance(value, str)]


def asked(python: str, file: Path, texts: list[str], vocabulary: bool) -> dict[str, Any]:
    """llama.cpp's answers about texts, each of 2 tokens or more unless only the vocabulary is asked."""
    question = json.dumps({"file": str(file), "texts": texts, "vocabulary": vocabulary})
    done = subprocess.run([python, "-c", LLAMA], input=question, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {python}: llama.cpp gave no answer ({done.stderr.strip().split(chr(10))[-1]}).")
    return json.loads(done.stdout)


def copy(file: Path, out: Path, split: str | None = None, tensors: bool = False) -> Path:
    """A copy of a GGUF file, with texts split in another way; its tensors in float32, or none."""
    import gguf

    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind, *of = field.types
        value = split if split and key == "tokenizer.ggml.pre" else field.contents()
        writer.add_key_value(key, value, kind, of[0] if of else None)
    for tensor in reader.tensors if tensors else []:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def tokens(file: Path, split: str, texts: list[str]) -> list[list[int]]:
    from grace.encoder.gguf import load_split
    from grace.method.prompt import _batch_ids

    return _batch_ids(load_split(file, split), texts)


def apart(folder: Path, theirs: dict[str, Any]) -> str:
    """How far log-probabilities of the given tokens are apart, in nats."""
    import torch

    from grace.encoder.loading import load_causal

    model = load_causal(folder, torch.float32)
    off: list[float] = []
    same: list[bool] = []
    for ids, chosen, best in zip(theirs["ids"], theirs["chosen"], theirs["best"], strict=True):
        with torch.inference_mode():
            scores = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        ours = scores.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        off += np.abs(np.subtract(ours, chosen)).tolist()
        same += [a == b for a, b in zip(scores.argmax(1).tolist(), best, strict=True)]
    return (
        f"log-probabilities of {len(off):,} tokens: {np.mean(off):.1e} nats apart on average, {max(off):.1e} at "
        f"most; the likeliest token is the same for {100 * np.mean(same):.1f} %"
    )


if __name__ == "__main__":
    sys.exit(main())
