"""Does a reward do more than its control on a real model? Held-out pairs, three real tasks, and what is written.

    python -m bench.reward score --study laptop --config CONFIG --data DATA --pairs FILE --model FOLDER RUN SEED
    python -m bench.reward table --data DATA --out results/reward --to docs/results/reward RUN-over-CONTROL ...
    python -m bench.reward race --study laptop --backbone FOLDER --rows FILE ... --seconds 600 RUN CONTROL

`score` embeds with one trained or untrained run and keeps its scores item by item (OUT/RUN.seedS.json):

- pairs: nDCG@10 of 200 held-out pairs of the training source, the first by hash: each query among all 200 documents.
- sts: Spearman's correlation of cosines with the scores of 150 pairs, every tenth of STSBenchmark's validation split.
- banking: accuracy of mteb's classifier (logistic regression) on 250 test texts of Banking77, learnt from 4 a label.
- cacm: nDCG@10 of CACM's first 26 judged queries among the documents judged for them and 100 others.

A rationale is *acceptable* when it is finished (an end token within the limit), does not loop (no four words occur
twice), and is about its text: it has at least two content words, and a third of them or more stem from the text. A
content word has four letters or more and is neither a stop word of scikit-learn nor one of "text", "sentence" and the
like; it stems from the text if a word there has the same first four letters. Counted over the documents of the pairs.

`table` writes, of all that was scored, means and differences with paired intervals, and rationales before and after
training. `race` is for a machine that is lent for minutes: it times a few steps, trains a run and its control for as
many as fit, scores both and the untrained model, and writes the table. At the paper's batch on a GPU:

    --set '{"grace": {"instances": 64, "rollouts": 8, "rollouts_per_forward": 64, "precision": "bf16"},
            "generation": {"max_new_tokens": 128, "batch_size": 640}, "evaluation": {"max_new_tokens": 128}}'
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.linear_model import LogisticRegression

from bench import common
from bench.ceiling import ndcg_of_each
from grace.config.plan import Plan
from grace.config.section import build
from grace.config.specs import EncodeSpec
from grace.config.studies import read_config
from grace.encoder.encoder import Rationale, RationaleEncoder
from grace.encoder.explain import cosines
from grace.evaluation.tasks import by_hash
from grace.jobs import manifest
from grace.jobs.files import read_json, write_json, writing
from grace.jobs.reader import read_jsonl
from grace.report.scoring import bootstrap

PAIRS, RESAMPLES, SHOWN = 200, 2000, 10
REAL = ("sts", "banking", "cacm")
TASKS = ("pairs", *REAL)
ABOUT_TEXTS = [
    "text",
    "texts",
    "sentence",
    "sentences",
    "describes",
    "describe",
    "described",
    "means",
    "mean",
    "refers",
]


def content_words(text: str) -> list[str]:
    words = re.findall(r"[^\W\d_]{4,}", text.lower())
    return [word for word in words if word not in ENGLISH_STOP_WORDS and word not in ABOUT_TEXTS]


def about(text: str, rationale: str) -> float:
    """Share of a rationale's content words that stem from the text; 0 for fewer than two."""
    known = {word[:4] for word in re.findall(r"[^\W\d_]{4,}", text.lower())}
    words = content_words(rationale)
    return float(np.mean([word[:4] in known for word in words])) if len(words) > 1 else 0.0


def loops(rationale: str) -> bool:
    words = rationale.lower().split()
    runs = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(set(runs)) < len(runs)


def acceptable(text: str, rationale: Rationale) -> bool:
    return not rationale.truncated and not loops(rationale.text) and about(text, rationale.text) >= 1 / 3


def sts_rows(data: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(data / "stsbenchmark/validation.jsonl"))[::10]


class Tasks:
    """The texts of all tasks, and a score per item from their embeddings."""

    def __init__(self, pairs: Path, data: Path) -> None:
        held = by_hash(pairs)[:PAIRS]
        self.queries, self.documents = [row["query"] for row in held], [row["positive"] for row in held]
        self.sts = sts_rows(data)
        seen: dict[Any, list[str]] = {}
        for row in read_jsonl(data / "banking77/train.jsonl"):
            seen.setdefault(row["label"], []).append(row["text"])
        self.learnt = [(text, label) for label, texts in seen.items() for text in texts[:4]]
        tested = list(read_jsonl(data / "banking77/test.jsonl"))
        drawn = np.random.default_rng(0).permutation(len(tested))[:250]
        self.tested = [(tested[i]["text"], tested[i]["label"]) for i in drawn]
        corpus = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in read_jsonl(data / "cacm/corpus.jsonl")}
        asked = {str(row["_id"]): row["text"] for row in read_jsonl(data / "cacm/queries.jsonl")}
        judged: dict[str, set[str]] = {}
        for row in read_jsonl(data / "cacm/qrels.jsonl"):
            judged.setdefault(str(row["query-id"]), set()).add(row["corpus-id"])
        kept = [query for query in asked if query in judged][:26]
        wanted = sorted(set().union(*(judged[query] for query in kept)))
        others = sorted(set(corpus) - set(wanted))
        wanted += [others[i] for i in np.random.default_rng(0).permutation(len(others))[:100]]
        self.asked, self.corpus = [asked[query] for query in kept], [corpus[one] for one in wanted]
        self.relevant = np.array([[one in judged[query] for one in wanted] for query in kept])

    def texts(self) -> list[str]:
        sts = [row[side] for row in self.sts for side in ("sentence1", "sentence2")]
        banking = [text for text, _ in (*self.learnt, *self.tested)]
        return list(dict.fromkeys([*self.queries, *self.documents, *sts, *banking, *self.asked, *self.corpus]))

    def items(self, vectors: dict[str, np.ndarray]) -> dict[str, list[float]]:
        """Of each task what its score is computed from, one number an item (of sts the cosine)."""

        def rows(texts: list[str]) -> np.ndarray:
            return np.stack([vectors[text] for text in texts])

        learner = LogisticRegression(max_iter=100, random_state=42)
        learner.fit(rows([text for text, _ in self.learnt]), [label for _, label in self.learnt])
        said = learner.predict(rows([text for text, _ in self.tested]))
        one, other = (rows([row[side] for row in self.sts]) for side in ("sentence1", "sentence2"))
        return {
            "pairs": ndcg_of_each(cosines(rows(self.queries), rows(self.documents)), np.eye(len(self.queries))),
            "sts": [float(cosines(a, b)[0, 0]) for a, b in zip(one[:, None], other[:, None], strict=True)],
            "banking": [float(is_) for is_ in said == np.array([label for _, label in self.tested])],
            "cacm": ndcg_of_each(cosines(rows(self.asked), rows(self.corpus)), self.relevant),
        }


def score(arguments: argparse.Namespace) -> None:
    plan = Plan({**read_config(arguments.config), "study": arguments.study})
    tasks = Tasks(arguments.pairs, arguments.data)
    scored(plan, tasks, arguments.run, arguments.seed, arguments.model, arguments.out)


def scored(plan: Plan, tasks: Tasks, name: str, seed: int, model: Path, out: Path) -> None:
    """Embed all texts with a model by the prompt and pooling of run `name`, or RUN.direct, and keep its scores."""
    texts, (run, _, mode) = tasks.texts(), name.partition(".")
    spec = build(EncodeSpec, plan.encode(run, seed).model_dump(), "spec")
    spec = spec.model_copy(update={"engine": "transformers", "sampling_temperature": 0.0})
    if mode == "direct":
        spec = spec.model_copy(update={"rationales": False})
    started = time.perf_counter()
    made = RationaleEncoder.from_spec(model, spec).encode(texts)
    seconds = time.perf_counter() - started
    items = tasks.items(dict(zip(texts, made.embeddings, strict=True)))
    kept: dict[str, Any] = {
        "run": name,
        "seed": seed,
        "command": common.command(),
        "hardware": common.hardware(),
        "commit": manifest.commit(),
        "seconds": round(seconds, 1),
        "items": {task: np.round(values, 4).tolist() for task, values in items.items()},
    }
    if made.rationales is not None:
        written = dict(zip(texts, made.rationales, strict=True))
        said = [(text, written[text]) for text in tasks.documents]
        kept["written"] = {
            "finished": [not one.truncated for _, one in said],
            "acceptable": [acceptable(text, one) for text, one in said],
            "about": [about(text, one.text) for text, one in said],
            "tokens": [len(one.token_ids) for _, one in said],
        }
        kept["shown"] = [[text, one.text, one.truncated] for text, one in said[:SHOWN]]
    write_json(out / f"{name}.seed{seed}.json", kept)
    found = scores_of(kept, [row["score"] for row in tasks.sts])
    print(name, seed, {key: round(value, 3) for key, value in found.items()}, f"{seconds:.0f} s", flush=True)


def race(arguments: argparse.Namespace) -> None:
    """Train a run and its control for as many steps as fit, score both and the untrained model, say the differences."""
    plan = Plan({**read_config(arguments.config), "study": arguments.study}).changed(json.loads(arguments.set))
    tasks = Tasks(arguments.pairs, arguments.data)

    def train(run: str, steps: int, name: str) -> tuple[Path, list[float]]:
        made = arguments.out / "models" / name / "manifest.json"
        spec = json.loads(plan.spec_train(run, arguments.seed, []))
        spec["grace"]["max_steps"] = steps
        command = [sys.executable, "-m", "grace.training.train", "--spec", json.dumps(spec), "--out", str(made)]
        command += ["--backbone", str(arguments.backbone), "--rows", str(arguments.rows)]
        subprocess.run([*command, "--store", str(arguments.out / "store")], check=True)
        return made.parent, [one["step_time"] for one in read_json(made)["history"] if "step_time" in one]

    _, seconds = train(arguments.run, arguments.trial, "trial")
    each = float(np.median([float(one) for one in seconds[1:]]))  # the first compiles and allocates
    steps = max(1, int(arguments.seconds / 2 / each))
    print(f"{each:.2f} s a step: {steps} steps of each run", flush=True)
    for run in (arguments.run, arguments.control):
        folder, _ = train(run, steps, run)
        scored(plan, tasks, run, arguments.seed, folder, arguments.out)
    for run in arguments.untrained:
        scored(plan, tasks, run, arguments.seed, arguments.backbone, arguments.out)
    arguments.to = arguments.out / "tables"
    arguments.differences = [f"{arguments.run}-over-{other}" for other in (arguments.control, *arguments.untrained)]
    table(arguments)


def resampled(kept: dict[str, Any], gold: list[float]) -> dict[str, np.ndarray]:
    """[RESAMPLES] scores of each task, and the mean of the real ones; the same draws for every run. gold: of sts."""
    found = {}
    for task in TASKS:
        values = np.array(kept["items"][task])
        name, other = ("spearman", np.array(gold)) if task == "sts" else ("mean", None)
        drawn = bootstrap.counts(len(values), RESAMPLES, 0, task)
        found[task] = np.concatenate([bootstrap.statistic(name, values, other, one) for one in drawn])
    return {**found, "real": np.mean([found[task] for task in REAL], axis=0)}


def scores_of(kept: dict[str, Any], gold: list[float]) -> dict[str, float]:
    found = {task: float(np.mean(kept["items"][task])) for task in TASKS}
    found["sts"] = float(spearmanr(kept["items"]["sts"], gold).statistic)
    found["real"] = float(np.mean([found[task] for task in REAL]))
    return found | {name: float(np.mean(values)) for name, values in kept.get("written", {}).items()}


def table(arguments: argparse.Namespace) -> None:
    kept = [read_json(path) for path in sorted(arguments.out.glob("*.seed*.json"))]
    gold = [row["score"] for row in sts_rows(arguments.data)]
    scores = pd.DataFrame([{"run": one["run"], "seed": one["seed"], **scores_of(one, gold)} for one in kept])
    pairs = [pair.split("-over-") for pair in arguments.differences]
    if unknown := {run for pair in pairs for run in pair} - {one["run"] for one in kept}:
        raise SystemExit(f"error: {arguments.out}: holds no scores of {min(unknown)}; run `score` for it first.")
    differences = pd.DataFrame([row for run, control in pairs for row in difference(kept, run, control, gold)])
    means = scores.groupby("run").mean().drop(columns="seed")
    means.insert(0, "seeds", scores.groupby("run").size())
    arguments.to.mkdir(parents=True, exist_ok=True)
    for name, frame in (("scores", scores), ("differences", differences)):
        with writing(arguments.to / f"{name}.csv") as temporary:
            frame.round(4).to_csv(temporary, index=False)
    parts = [
        "## Scores: means over the seeds",
        common.table(
            ["run", *means.columns], [[name, *(_number(cell) for cell in row)] for name, *row in means.itertuples()]
        ),
        "## Differences in points, with paired 95 % intervals over the items of a task",
        common.table(
            list(differences.columns),
            [[_number(cell, 1) for cell in row] for row in differences.itertuples(index=False)],
        ),
        f"## Rationales of the first {SHOWN} documents by hash (`[cut]`: not finished)",
    ]
    shown = [one for one in kept if "shown" in one]
    for number in range(SHOWN if shown else 0):
        lines = [f"**{shown[0]['shown'][number][0]}**", ""]
        for one in shown:
            _, said, cut = one["shown"][number]
            lines.append(f"- {one['run']}, seed {one['seed']}: {' '.join(said.split())}{' [cut]' * cut}")
        parts.append("\n".join(lines))
    with writing(arguments.to / "tables.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(parts[:4]))


def _number(cell: Any, digits: int = 3) -> str:
    return "" if pd.isna(cell) else f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)


def difference(kept: list[dict[str, Any]], run: str, control: str, gold: list[float]) -> Iterator[dict[str, Any]]:
    """Of each task run - control in points: the mean over the seeds that both have. A control of one seed, such as an
    untrained run, is that of every seed. Intervals are over the items of the tasks, the same draws for both."""
    of = {name: {one["seed"]: one for one in kept if one["run"] == name} for name in (run, control)}
    if len(of[control]) == 1:
        of[control] = dict.fromkeys(of[run], *of[control].values())
    both = sorted(of[run].keys() & of[control].keys())
    drawn = [(resampled(of[run][seed], gold), resampled(of[control][seed], gold)) for seed in both]
    exact = [(scores_of(of[run][seed], gold), scores_of(of[control][seed], gold)) for seed in both]
    for task in (*TASKS, "real"):
        low, high = bootstrap.interval(np.mean([a[task] - b[task] for a, b in drawn], axis=0))
        each = [100 * (a[task] - b[task]) for a, b in exact]
        points = {"points": float(np.mean(each)), "low": 100 * low, "high": 100 * high}
        yield {"run": run, "control": control, "task": task, **points, "seeds": " ".join(f"{one:+.1f}" for one in each)}


def main() -> None:
    parser = common.parser(__doc__)
    commands = parser.add_subparsers(required=True)
    given = argparse.ArgumentParser(add_help=False)
    given.add_argument("--study", default="laptop")
    given.add_argument("--config", type=Path, default=Path("config.yaml"))
    given.add_argument("--pairs", type=Path, required=True, help="held-out rows {id, query, positive}")
    given.add_argument("--data", type=Path, required=True, help="folder of stsbenchmark, banking77 and cacm")
    given.add_argument("--out", type=Path, default=Path("results/reward"))
    one = commands.add_parser("score", parents=[given])
    one.set_defaults(call=score)
    one.add_argument("--model", type=Path, required=True)
    one.add_argument("run", help="a run of the study: its prompt and pooling; RUN.direct embeds without rationales")
    one.add_argument("seed", type=int)
    two = commands.add_parser("race", parents=[given])
    two.set_defaults(call=race)
    two.add_argument("--backbone", type=Path, required=True)
    two.add_argument("--rows", type=Path, required=True, help="training rows, data/rows/BACKBONE/supervised.jsonl")
    two.add_argument("--seconds", type=float, default=600, help="for both trainings")
    two.add_argument("--set", default="{}", help="settings of the study, as JSON")
    two.add_argument("--seed", type=int, default=0)
    two.add_argument("--trial", type=int, default=3, help="steps that are timed before")
    two.add_argument("--untrained", nargs="*", default=["reasoning", "one-word"])
    two.add_argument("run")
    two.add_argument("control")
    other = commands.add_parser("table")
    other.set_defaults(call=table)
    other.add_argument("--out", type=Path, default=Path("results/reward"))
    other.add_argument("--to", type=Path, required=True)
    other.add_argument("--data", type=Path, required=True, help="for the scores of STSBenchmark's pairs")
    other.add_argument("differences", nargs="+", metavar="RUN-over-CONTROL")
    arguments = parser.parse_args()
    arguments.call(arguments)


if __name__ == "__main__":
    main()
