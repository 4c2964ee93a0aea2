"""Apply the backbone's token limit: drop, or only count, the training rows whose prompt is too long."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from types import SimpleNamespace
from typing import Any, Literal, Protocol

from tqdm import tqdm

from grace import manifest, stage
from grace.data.triples import quantiles
from grace.files import read_jsonl, write_json, write_jsonl
from grace.section import UserError
from grace.specs import LengthsSpec

BATCH = 1024  # rows tokenised at a time


class Prompt(Protocol):
    def count(self, texts: list[str]) -> list[int]:
        """Tokens of each text's whole prompt, before it is cut."""


class Limit:
    """Streams rows through the token limit and counts.

    Args:
        too_long: `drop` leaves out a supervised row whose positive's prompt, or an unsupervised one whose text's
            prompt, is over `limit`; `truncate` keeps it, as encoders cut the text on the right.
    """

    def __init__(self, prompt: Prompt, limit: int, too_long: Literal["drop", "truncate"]) -> None:
        self.prompt, self.limit, self.too_long = prompt, limit, too_long
        self.read = self.kept = 0
        self.tokens: dict[str, list[int]] = {}

    def __call__(
        self, rows: Iterator[dict[str, Any]], decides: Literal["positive", "text"]
    ) -> Iterator[dict[str, Any]]:
        while batch := list(islice(rows, BATCH)):
            for name in ("query", "positive", "text"):
                if name in batch[0]:
                    self.tokens.setdefault(name, []).extend(self.prompt.count([row[name] for row in batch]))
            if "negatives" in batch[0]:
                negatives = [text for row in batch for text in row["negatives"]]
                self.tokens.setdefault("negatives", []).extend(self.prompt.count(negatives))
            for row, length in zip(batch, self.tokens[decides][self.read :], strict=True):
                if length <= self.limit or self.too_long == "truncate":
                    self.kept += 1
                    yield row
            self.read += len(batch)

    def report(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": {"too long": self.read - self.kept},
            "prompt_tokens": {
                name: {**quantiles(values), "over_limit": sum(value > self.limit for value in values)}
                for name, values in self.tokens.items()
            },
        }


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    """The unsupervised row of a text, or of a pair's positive."""
    labels: dict[str, Any] = {name: row[name] for name in ("label", "sublabel", "source") if name in row}
    return {"id": row["id"], "text": row["text"] if "text" in row else row["positive"], **labels}


@stage.entry(LengthsSpec, inputs=("tokenizer", "rows"), outputs=("out", "report"))
def main(spec: LengthsSpec, paths: SimpleNamespace) -> None:
    from transformers import AutoTokenizer

    from grace.method.prompt import PromptTemplate

    try:
        tokenizer = AutoTokenizer.from_pretrained(paths.tokenizer)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(f"{paths.tokenizer}: holds no tokenizer that can be read ({reason}).") from None
    prompt = PromptTemplate.from_tokenizer(tokenizer, spec.prompt.instruction, spec.prompt.max_prompt_tokens)
    limit = Limit(prompt, spec.prompt.max_prompt_tokens, spec.too_long)
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
