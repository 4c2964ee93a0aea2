"""Apply the backbone's token limit: drop, or only count, the training rows whose prompt is too long."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Protocol

import numpy as np
from tqdm import tqdm

from grace import manifest, stage
from grace.data.summary import histogram, quantiles
from grace.files import read_json, write_json, write_jsonl
from grace.method.prompt import PromptTemplate
from grace.reader import read_jsonl
from grace.section import UserError
from grace.specs import LengthsSpec

BATCH = 1024  # rows tokenised at a time
BINS = (64, 128, 256, 512, 768, 1024, 2048, 4096)  # tokens
MOST_KNOWN = 1 << 16  # texts of which a process remembers the count
# The classes that hold nothing but the folder's tokenizer.json: of them AutoTokenizer gives the same.
GENERIC = {"TokenizersBackend", "PreTrainedTokenizerFast"}
Rows = list[dict[str, Any]]


class Prompt(Protocol):
    def count(self, texts: list[str]) -> list[int]:
        """Tokens of each text's whole prompt, before it is cut."""


class Once:
    """A prompt that does not count a text it knows: a mined negative is another row's positive."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.known: dict[str, int] = {}

    def count(self, texts: list[str]) -> list[int]:
        new = list({text: None for text in texts if text not in self.known})
        self.known.update(zip(new, self.prompt.count(new), strict=True))
        found = [self.known[text] for text in texts]
        if len(self.known) > MOST_KNOWN:
            self.known.clear()
        return found


class Limit:
    """Streams rows through the token limit and counts.

    Args:
        too_long: `drop` leaves out a supervised row whose positive's prompt, or an unsupervised one whose text's
            prompt, is over `limit`; `truncate` keeps it, as encoders cut the text on the right.
        threads: processes that tokenise.
    """

    def __init__(self, prompt: Prompt, limit: int, too_long: Literal["drop", "truncate"], threads: int = 1) -> None:
        self.prompt, self.limit, self.too_long, self.threads = prompt, limit, too_long, threads
        self.read = self.kept = 0
        self.kept_per_source: Counter[str] = Counter()
        self.tokens: dict[str, array] = {}

    def __call__(
        self, rows: Iterator[dict[str, Any]], decides: Literal["positive", "text"]
    ) -> Iterator[dict[str, Any]]:
        for batch, counts in self._counted(rows):
            for name, values in counts.items():
                self.tokens.setdefault(name, array("q")).extend(values)
            self.read += len(batch)
            for row, length in zip(batch, counts[decides], strict=True):
                if length <= self.limit or self.too_long == "truncate":
                    self.kept += 1
                    if "source" in row:
                        self.kept_per_source[row["source"]] += 1
                    yield row

    def _counted(self, rows: Iterator[dict[str, Any]]) -> Iterator[tuple[Rows, dict[str, list[int]]]]:
        """Batches with their counts, in order; twice as many batches as processes are under way at a time."""
        batches = iter(lambda: list(islice(rows, BATCH)), [])
        if self.threads <= 1:
            for batch in batches:
                yield batch, count(self.prompt, batch)
            return
        # Forked, as far as the system forks, before anything here is tokenised: a tokenizer's own threads do not
        # survive a fork, and they would wait for the Python objects that its results become.
        with ProcessPoolExecutor(self.threads, initializer=_keep, initargs=(self.prompt,)) as pool:
            pending: deque[tuple[Rows, Future]] = deque()
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


def count(prompt: Prompt, batch: Rows) -> dict[str, list[int]]:
    """Prompt tokens of each text of a batch, by field; `negatives` one after the other."""
    names = [name for name in ("query", "positive", "text") if name in batch[0]]
    found: dict[str, list[int]] = {name: prompt.count([row[name] for row in batch]) for name in names}
    if "negatives" in batch[0]:
        found["negatives"] = prompt.count([text for row in batch for text in row["negatives"]])
    return found


_of_process: list[Prompt] = []  # the prompt of a worker process, sent once


def _keep(prompt: Prompt) -> None:
    _of_process[:] = [prompt]


def _count(batch: Rows) -> dict[str, list[int]]:
    return count(_of_process[0], batch)


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    """The unsupervised row of a text, or of a pair's positive."""
    labels: dict[str, Any] = {name: row[name] for name in ("label", "sublabel", "source") if name in row}
    return {"id": row["id"], "text": row["text"] if "text" in row else row["positive"], **labels}


def load_tokenizer(folder: Path) -> Any:
    """A folder's tokenizer. Raises: UserError when there is none that can be read."""
    from transformers import PreTrainedTokenizerFast

    kind: Any = PreTrainedTokenizerFast
    try:
        settings = folder / "tokenizer_config.json"
        if not settings.exists() or read_json(settings).get("tokenizer_class") not in GENERIC:
            from transformers import AutoTokenizer  # it imports all that can generate, which takes seconds

            kind = AutoTokenizer
        return kind.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(f"{folder}: holds no tokenizer that can be read ({reason}).") from None


@stage.entry(LengthsSpec, inputs=("tokenizer", "rows"), outputs=("out", "report"))
def main(spec: LengthsSpec, paths: SimpleNamespace) -> None:
    tokenizer = load_tokenizer(paths.tokenizer)
    prompt = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
    limit = Limit(Once(prompt), spec.prompt.max_prompt_tokens, spec.too_long, paths.threads)
    rows: Iterator[dict[str, Any]] = iter(tqdm(read_jsonl(paths.rows), "lengths", mininterval=1))
    supervised = spec.data == "supervised"
    fitting = limit(rows, "positive") if supervised else limit(map(as_text, rows), "text")
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
