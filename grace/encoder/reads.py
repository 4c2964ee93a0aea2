"""What the model reads of a text, and which of its tokens are pooled (eqs. 10-11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from grace.config.schema import TEXT, Pooling
from grace.config.section import UserError
from grace.method.prompt import PromptTemplate


class Read(NamedTuple):
    """Token ids, of which those in [start, stop) are pooled: one or more."""

    ids: list[int]
    start: int
    stop: int
    text: int = 0  # the first token of the text, where it stands last
    size: int = 0  # tokens of the text


def whole(ids: list[int]) -> Read:
    return Read(ids, 0, len(ids))


def checked_texts(texts: list[str]) -> list[str]:
    """Raises: TypeError when `texts` is no list of strings."""
    if isinstance(texts, str):
        raise TypeError("encode takes a list of texts; wrap the one text in a list")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is a {type(text).__name__}, not a string")
    return texts


def check(pooling: Pooling, rationales: bool) -> None:
    """Raises: UserError when `pooling` does not fit texts that are embedded with, or without, rationales."""
    if wrong := pooling.misses(rationales):
        raise UserError(f"config: {wrong}.")


def closing_ids(template: PromptTemplate, pooling: Pooling) -> list[int]:
    """Token ids of `pooling.closing`; [] without. Raises: UserError when it has a marker of the chat template."""
    if pooling.closing is None:
        return []
    ids = template.tokenizer(pooling.closing, add_special_tokens=False)["input_ids"]
    if not ids or ids != template.text_ids([pooling.closing])[0]:
        raise UserError(
            f"config: pooling.closing: {pooling.closing!r} has markers of the chat template, which would end the "
            "answer that it closes; give plain text."
        )
    return list(ids)


def direct(template: PromptTemplate, texts: list[str], prompt: str, pooling: Pooling, ends: list[int]) -> list[Read]:
    """Sequences of texts that are embedded without rationale.

    Args:
        prompt: `chat` keeps the prompt with the instruction (as the released code does), `plain` is the text alone,
            any other has the text in place of each `{text}`. A text is cut to keep all within `max_prompt_tokens`.
        ends: tokens that end a turn. Something must be pooled, so one of them stands for an empty plain text.

    Raises:
        UserError: when the prompt leaves no room for a text.
    """
    closing = closing_ids(template, pooling)
    if prompt == "chat":
        begin, suffix = len(template.prefix), len(template.suffix)
        after = suffix if pooling.tokens == "text" else 0
        return [
            _read(ids, begin + pooling.skip, len(ids) - after, closing, begin, len(ids) - begin - suffix)
            for ids in template.ids(texts)
        ]
    bos = template.tokenizer.bos_token_id
    opening = [bos] if template.tokenizer("")["input_ids"] == [bos] else []
    parts = (TEXT if prompt == "plain" else prompt).split(TEXT)
    before, *gaps = (template.text_ids([part])[0] for part in parts)
    room = template.max_prompt_tokens - sum(map(len, (opening, before, *gaps)))
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
        last = len(ids) - len(gaps[-1]) - len(text)
        start, stop = (last, last + len(text)) if pooling.tokens == "text" else (len(opening), len(ids))
        found.append(_read(ids or ends[:1], start + pooling.skip, max(1, stop), closing, last, len(text)))
    return found


def written(
    template: PromptTemplate,
    prompts: Sequence[list[int]],
    token_ids: Sequence[list[int]],
    pooling: Pooling,
    ends: list[int],
) -> list[Read]:
    """Sequences of prompts and their rationales, which have the end token where it was reached.

    The last token written has no part in an embedding: the engine never reads it. Before a closing, all of the
    rationale is read but its end token.
    """
    closing, start = closing_ids(template, pooling), pooled_from(template, pooling)
    begin, found = len(template.prefix), []
    for prompt, ids in zip(prompts, token_ids, strict=True):
        read = prompt + (ids if closing and ids[-1] not in ends else ids[:-1])
        first = min(start, len(prompt) - 1) % len(prompt)
        found.append(_read(read, first, len(read), closing, begin, len(prompt) - begin - len(template.suffix)))
    return found


def pooled_from(template: PromptTemplate, pooling: Pooling) -> int:
    """The first token of a prompt that is pooled before a rationale; counted from its end where negative."""
    return -1 if pooling.tokens == "rationale" else len(template.prefix) + pooling.skip


def _read(ids: list[int], start: int, stop: int, closing: list[int], text: int, size: int) -> Read:
    stop = len(ids) + len(closing) if closing else stop
    return Read(ids + closing, min(start, stop - 1), stop, text, size)
