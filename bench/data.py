"""Time and memory of the data stages on synthetic rows.

    python -m bench.data stream --rows 1500000 --folder DIR --tokenizer results/demo/models/tiny/backbone/seed0
    python -m bench.data mine --rows 100000 --folder DIR

`stream`: source -> pairs -> split -> triples -> lengths of triples from five files, with the paper's settings (queries
of 10 words, positives and negatives of 80, one row in 50 a copy, one in 1,000 without a field); seconds and the
largest resident set of a process of each stage. `mine`: one negative for each of as many pairs, by an embedding model
of width 384 that looks words up in a random table: it costs next to nothing, so the time is the miner's own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from grace.config.studies import read_config

# Not bench.common, which imports torch: a stage's largest memory begins with that of this process.
ROOT = Path(__file__).parents[1]
SOURCES = ("allnli", "hotpotqa", "msmarco", "nq", "squad")


@cache
def words() -> list[str]:
    """A million words of the documentation of installed packages, in its own frequencies."""
    from grace.data.docstrings import corpus

    found = [word for row in corpus(["numpy", "scipy", "sklearn"], 2, 3000) for word in row["positive"].split()]
    draw = random.Random(0)
    return [draw.choice(found) for _ in range(1_000_000)]


def write_rows(folder: Path, rows: int, fields: dict[str, int]) -> int:
    """Five files of rows whose fields have so many words; returns their bytes."""
    stream, draw = words(), random.Random(1)
    row: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        with open(folder / f"{name}.jsonl", "w") as handle:
            for at in range(rows // len(SOURCES)):
                if at % 50:  # else a copy
                    starts = {field: draw.randrange(len(stream) - size) for field, size in fields.items()}
                    row = {field: " ".join(stream[start : start + fields[field]]) for field, start in starts.items()}
                written = {"query": row["query"]} if at % 1000 == 999 else row
                handle.write(json.dumps(written) + "\n")
    return sum(path.stat().st_size for path in folder.iterdir())


def run(name: str, *arguments: object) -> None:
    """Run a stage and print its seconds and its largest process."""
    started = time.time()
    command = [sys.executable, "-m", f"grace.data.{name}", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    assert process.stderr is not None
    tail = process.stderr.read()[-2000:]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    print(
        f"{name:8} {time.time() - started:7.0f} s, cpu {usage.ru_utime + usage.ru_stime:7.0f} s, "
        f"largest process {usage.ru_maxrss / 1024:6.0f} MB",
        flush=True,
    )
    if status:
        sys.exit(tail.decode())


def show(report: Path) -> None:
    print(json.dumps({name: value for name, value in json.loads(report.read_text()).items() if name != "manifest"}))


def stream(folder: Path, rows: int, tokenizer: Path, threads: int) -> None:
    from grace.config.plan import Plan

    size = write_rows(folder / "files", rows, {"query": 10, "positive": 80, "negative": 80})
    print(f"{rows} rows, {size / 1e9:.2f} GB", flush=True)
    plan = Plan({**read_config(ROOT / "config.yaml"), "study": "paper"})
    source = {"kind": "jsonl", "form": "triples", "path": str(folder / "files")}
    spec = json.dumps({"name": "e5", "source": source, "max_rows": None})
    raw, pairs, card, triples = (folder / name for name in ("raw.jsonl", "pairs.jsonl", "c", "triples.jsonl"))
    parts = {name: folder / f"{name}.jsonl" for name in ("train", "validation", "test")}
    options = [word for name, path in parts.items() for word in (f"--{name}", path)]
    shared = ("--threads", threads, "--spec")
    run("source", *shared, spec, "--out", raw, "--lock", folder / "sources.lock")
    run("pairs", *shared, plan.spec_pairs("e5"), "--source", raw, "--out", pairs, "--card", card)
    run("split", *shared, plan.spec_split(), "--pairs", pairs, *options, "--report", folder / "split.json")
    out: tuple[object, ...] = ("--out", triples, "--report", folder / "triples.json")
    run("triples", *shared, plan.spec_triples(), "--train", parts["train"], *out)
    out = ("--out", folder / "rows.jsonl", "--report", folder / "lengths.json")
    run("lengths", *shared, plan.spec_lengths("supervised"), "--tokenizer", tokenizer, "--rows", triples, *out)
    show(card)
    for name in ("raw", "pairs", "train", "triples", "rows"):
        print(f"{name}.jsonl: {(folder / f'{name}.jsonl').stat().st_size / 1e9:.2f} GB")


def mine(folder: Path, rows: int, threads: int) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    write_rows(folder / "files", rows, {"query": 10, "positive": 80})
    with open(folder / "train.jsonl", "w") as handle:
        for name in SOURCES:
            for line in (folder / "files" / f"{name}.jsonl").read_text().splitlines():
                if '"positive": ' in line:
                    handle.write(line + "\n")
    known = {word: at for at, word in enumerate(["[UNK]", *sorted(set(words()))])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    weights = torch.randn(len(known), 384, generator=torch.Generator().manual_seed(0)).numpy()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)]).save(str(folder / "model"))
    mining = {"encoder": str(folder / "model"), "negatives": 1, "rank_min": 10, "rank_max": 50}
    spec = json.dumps({"mining": {**mining, "margin": None, "max_score": None}})
    out = ("--out", folder / "triples.jsonl", "--report", folder / "triples.json")
    run("triples", "--threads", threads, "--spec", spec, "--train", folder / "train.jsonl", *out)
    show(folder / "triples.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["stream", "mine"])
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="made, and deleted at the end")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if arguments.folder.exists():
        sys.exit(f"{arguments.folder} exists; give a folder that can be made and deleted.")
    try:
        if arguments.what == "stream":
            tokenizer = (arguments.tokenizer or parser.error("stream needs --tokenizer")).resolve()
            stream(arguments.folder, arguments.rows, tokenizer, arguments.threads)
        else:
            mine(arguments.folder, arguments.rows, arguments.threads)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
