"""Apply the backbone's token limit: drop, or only count, the training rows whose prompt is too long."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from grace.config.section import UserError
from grace.config.specs import LengthsSpec
from grace.jobs import manifest, stage
from grace.jobs.files import read_json, write_json, write_jsonl
from grace.jobs.reader import read_jsonl
from grace.method.prompt import PromptTemplate

BATCH = 1024  # rows tokenised at a time
BINS = (64, 128, 256, 512, 768, 1024, 2048, 4096)  # tokens
MOST_KNOWN = 1 << 16  # texts of which a process remembers the count
# The classes that hold nothing but the folder's tokenizer.json: AutoTokenizer gives the same for them.
GENERIC = {"TokenizersBackend", "PreTrainedTokenizerFast"}
QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}

Row = dict[str, Any]
Counts = dict[str, list[int]]  # prompt tokens of each text of a batch, by field


def quantiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean and quantiles; empty for no values."""
    if not len(values):
        return {}
    numbers = np.asarray(values, dtype=np.float64)
    found = [np.mean(numbers), *np.quantile(numbers, list(QUANTILES.values()))]
    return {name: round(float(value), 4) for name, value in zip(("mean", *QUANTILES), found, strict=True)}


def histogram(values: Sequence[int] | np.ndarray, edges: Sequence[int]) -> dict[str, int]:
    """Number of values in each of the bins `0-7`, `8-15`, `16-` for the edges 8, 16: an edge opens the next bin."""
    names = [f"{low}-{high - 1}" for low, high in pairwise([0, *edges])] + [f"{edges[-1]}-"]
    counts = np.bincount(np.searchsorted(edges, np.asarray(values), side="right"), minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


class TokenCounter:
    """Counts prompt tokens. It remembers the texts, as a mined negative is the positive of another row."""

    def __init__(self, prompt: PromptTemplate) -> None:
        self.prompt = prompt
        self.known: dict[str, int] = {}

    def count(self, rows: list[Row]) -> Counts:
        """Tokens of the whole prompt of each text, before it is cut; `negatives` of all rows one after the other."""
        fields = [name for name in ("query", "positive", "text") if name in rows[0]]
        texts: dict[str, list[str]] = {name: [row[name] for row in rows] for name in fields}
        if "negatives" in rows[0]:
            texts["negatives"] = [text for row in rows for text in row["negatives"]]
        new = dict.fromkeys(text for some in texts.values() for text in some if text not in self.known)
        self.known.update(zip(new, self.prompt.count([*new]), strict=True))
        counts = {name: [self.known[text] for text in some] for name, some in texts.items()}
        if len(self.known) > MOST_KNOWN:
            self.known.clear()
        return counts


class Limit:
    """Streams rows through the token limit and counts; `threads` processes tokenise.

    `drop` leaves out a row whose deciding text (the positive, or the text) has a prompt over `limit`; otherwise the row
    stays, as encoders cut the text on the right.
    """

    def __init__(self, prompt: PromptTemplate, limit: int, drop: bool, threads: int = 1) -> None:
        self.counter, self.limit, self.drop, self.threads = TokenCounter(prompt), limit, drop, threads
        self.read = self.kept = 0
        self.kept_per_source: Counter[str] = Counter()
        self.tokens: dict[str, array] = {}

    def __call__(self, rows: Iterator[Row], decides: Literal["positive", "text"]) -> Iterator[Row]:
        for batch, counts in self._counted(rows):
            for name, values in counts.items():
                self.tokens.setdefault(name, array("q")).extend(values)
            self.read += len(batch)
            for row, length in zip(batch, counts[decides], strict=True):
                if length <= self.limit or not self.drop:
                    self.kept += 1
                    if "source" in row:
                        self.kept_per_source[row["source"]] += 1
                    yield row

    def _counted(self, rows: Iterator[Row]) -> Iterator[tuple[list[Row], Counts]]:
        """Batches with their counts, in order. Twice as many batches as processes are in memory."""
        batches = iter(lambda: list(islice(rows, BATCH)), [])
        if self.threads <= 1:
            for batch in batches:
                yield batch, self.counter.count(batch)
            return
        # Forked (where the system forks) before this process tokenises anything: a tokenizer's own threads do not
        # survive a fork, and they would wait for the Python objects that its results become.
        with ProcessPoolExecutor(self.threads, initializer=_start_worker, initargs=(self.counter,)) as pool:
            pending: deque[tuple[list[Row], Future[Counts]]] = deque()
            for batch in batches:
                pending.append((batch, pool.submit(_count, batch)))
                if len(pending) > 2 * self.threads:
                    done, future = pending.popleft()
                    yield done, future.result()
            for done, future in pending:
                yield done, future.result()

    def report(self) -> dict[str, Any]:
        per_source = {"kept_per_source": dict(sorted(self.kept_per_source.items()))} if self.kept_per_source else {}
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": {"too long": self.read - self.kept},
            **per_source,
            "prompt_tokens": {
                name: {
                    **quantiles(values),
                    "over_limit": int((np.asarray(values) > self.limit).sum()),
                    "histogram": histogram(values, BINS),
                }
                for name, values in self.tokens.items()
            },
        }


_counter: TokenCounter  # of this worker process, sent once


def _start_worker(counter: TokenCounter) -> None:
    global _counter
    _counter = counter


def _count(rows: list[Row]) -> Counts:
    return _counter.count(rows)


def as_text(row: Row) -> Row:
    """The unsupervised row of a text, or of a pair's positive."""
    labels: Row = {name: row[name] for name in ("label", "sublabel", "source") if name in row}
    return {"id": row["id"], "text": row.get("text", row.get("positive")), **labels}


def load_tokenizer(folder: Path) -> Any:
    """A folder's tokenizer. Raises: UserError when there is none that can be read."""
    from transformers import PreTrainedTokenizerFast

    kind: Any = PreTrainedTokenizerFast
    try:
        settings = folder / "tokenizer_config.json"
        if not settings.exists() or read_json(settings).get("tokenizer_class") not in GENERIC:
            from transformers import AutoTokenizer  # importing all generation code takes seconds

            kind = AutoTokenizer
        return kind.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(f"{folder}: holds no tokenizer that can be read ({reason}).") from None


@stage.entry(LengthsSpec, inputs=("tokenizer", "rows"), outputs=("out", "report"))
def main(spec: LengthsSpec, paths: SimpleNamespace) -> None:
    tokenizer = load_tokenizer(paths.tokenizer)
    prompt = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
    limit = Limit(prompt, spec.prompt.max_prompt_tokens, spec.too_long == "drop", paths.threads)
    rows: Iterator[Row] = iter(tqdm(read_jsonl(paths.rows), "lengths", mininterval=1))
    fitting = limit(rows, "positive") if spec.data == "supervised" else limit(map(as_text, rows), "text")
    first = next(fitting, None)
    if first is None:
        raise UserError(
            f"{paths.rows}: of {limit.read} rows none fits in prompt.max_prompt_tokens = {limit.limit}; raise it, or "
            "set data.too_long to truncate."
        )
    write_jsonl(paths.out, chain([first], fitting))
    inputs = [paths.rows, paths.tokenizer]
    write_json(paths.report, {**limit.report(), "manifest": manifest.make("lengths", spec, inputs, paths.started)})


if __name__ == "__main__":
    main()
