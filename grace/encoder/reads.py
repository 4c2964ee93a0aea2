"""What the model reads of a text, and which of its tokens are pooled (eqs. 10-11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from grace.method.prompt import PromptTemplate
from grace.section import UserError
from grace.settings import TEXT, Pooling

NAMED = {"plain": TEXT}


class Read(NamedTuple):
    """Token ids, and the tokens from `start` on and before `stop` that are pooled: one or more."""

    ids: list[int]
    start: int
    stop: int
    text: int = 0  # where the text begins, the last time that it stands there, and of how many tokens it is
    size: int = 0


def whole(ids: list[int]) -> Read:
    return Read(ids, 0, len(ids))


def check(pooling: Pooling, rationales: bool) -> None:
    """Raises: UserError when `pooling` pools tokens that are not there, or none of the rationale that is written."""
    if wrong := pooling.misses(rationales):
        raise UserError(f"config: {wrong}.")


def closing_ids(template: PromptTemplate, pooling: Pooling) -> list[int]:
    """Token ids of `pooling.closing`; none without.

    Raises:
        UserError: when it has a token that ends a turn or stands for no text.
    """
    if pooling.closing is None:
        return []
    ids = template.tokenizer(pooling.closing, add_special_tokens=False)["input_ids"]
    plain = template.text_ids([pooling.closing])[0]
    if not ids or ids != plain:
        raise UserError(
            f"config: pooling.closing: {pooling.closing!r} has markers of the chat template, which would end the "
            "answer that it closes; give plain text."
        )
    return list(ids)


def direct(template: PromptTemplate, texts: list[str], prompt: str, pooling: Pooling, ends: list[int]) -> list[Read]:
    """Of texts that are embedded without rationale.

    Args:
        prompt: `chat` keeps the prompt with the instruction (the released code's way), `plain` is the text alone, any
            other has the text in place of each `{text}`. A text is cut to keep all within `max_prompt_tokens`.
        ends: tokens that end a turn; something must be pooled, so one of them stands for an empty plain text.

    Raises:
        UserError: when the prompt leaves no room for a text.
    """
    closing = closing_ids(template, pooling)
    if prompt == "chat":
        suffix, begin = len(template.suffix), len(template.prefix)
        after = suffix if pooling.tokens == "text" else 0
        return [
            _read(ids, begin + pooling.skip, len(ids) - after, closing, begin, len(ids) - begin - suffix)
            for ids in template.ids(texts)
        ]
    tokenizer = template.tokenizer
    opening = [tokenizer.bos_token_id] if tokenizer("")["input_ids"] == [tokenizer.bos_token_id] else []
    before, *gaps = (template.text_ids([part])[0] for part in NAMED.get(prompt, prompt).split(TEXT))
    end, room = len(gaps[-1]), template.max_prompt_tokens - sum(map(len, (opening, before, *gaps)))
    if room < len(gaps):
        raise UserError(
            f"config: evaluation.direct_prompt: leaves no room for a text in {template.max_prompt_tokens} tokens; "
            "shorten it, or raise prompt.max_prompt_tokens."
        )
    found = []
    for text in template.text_ids(texts, room // len(gaps)):
        ids = [*opening, *before]
        for gap in gaps:
            ids += [*text, *gap]
        last = len(ids) - end - len(text)
        first, stop = (last, last + len(text)) if pooling.tokens == "text" else (len(opening), len(ids))
        ids = ids or ends[:1]
        found.append(_read(ids, first + pooling.skip, max(1, stop), closing, last, len(text)))
    return found


def written(
    template: PromptTemplate,
    prompts: Sequence[list[int]],
    token_ids: Sequence[list[int]],
    pooling: Pooling,
    ends: list[int],
) -> list[Read]:
    """Of prompts and their rationales, which come with the end token where it was reached.

    The last token written has no part in an embedding: it is never read while the engine writes. Before a closing, all
    of the rationale is read but its end token.
    """
    closing, start, found = closing_ids(template, pooling), pooled_from(template, pooling), []
    begin, around = len(template.prefix), len(template.prefix) + len(template.suffix)
    for prompt, ids in zip(prompts, token_ids, strict=True):
        read = prompt + (ids if closing and ids[-1] not in ends else ids[:-1])
        first = min(start, len(prompt) - 1) % len(prompt)
        found.append(_read(read, first, len(read), closing, begin, len(prompt) - around))
    return found


def pooled_from(template: PromptTemplate, pooling: Pooling) -> int:
    """The first token of a prompt that is pooled before what is written; counted from its end where negative."""
    return -1 if pooling.tokens == "rationale" else len(template.prefix) + pooling.skip


def _read(ids: list[int], start: int, stop: int, closing: list[int], text: int, size: int) -> Read:
    """With a closing all is read up to its end, whatever comes after the text."""
    stop = len(ids) + len(closing) if closing else stop
    return Read(ids + closing, min(start, stop - 1), stop, text, size)
