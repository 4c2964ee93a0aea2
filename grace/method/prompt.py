"""The prompt P(x) and the shape of a rationale (eq. 9)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from grace.section import UserError

# Stands for the text while the chat template is rendered; the text itself never passes through the
# template, so it cannot change the prompt's structure.
PLACEHOLDER = "\u2039text\u203a"
# Llama's template prints today's date otherwise, and the same text would embed differently tomorrow.
DATE = "26 Jul 2024"

RATIONALE = re.compile(r"\s*<think>(?P<thought>.*?)</think>(?P<statement>.*)", re.DOTALL)


@dataclass(frozen=True)
class PromptTemplate:
    """A chat prompt with a hole for the text, held as token ids: prefix + text + suffix.

    Attributes:
        tokenizer: the backbone's tokenizer.
        prefix: ids of the system prefix, the L_sys tokens before the text (eq. 11 does not pool them).
        suffix: ids of the template's glue after the text, up to where the rationale starts.
        max_prompt_tokens: limit of prefix + text + suffix; the text is cut on the right to keep it.
    """

    tokenizer: Any
    prefix: list[int]
    suffix: list[int]
    max_prompt_tokens: int

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, instruction: str, max_prompt_tokens: int) -> PromptTemplate:
        """Render the tokenizer's chat template around `instruction` (system turn) and the text (user turn).

        Raises:
            UserError: when there is no chat template, when it refuses a system turn or drops the
                text, or when max_prompt_tokens leaves no room for a text.
        """
        where = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(f"{where}: the checkpoint has no chat template; use an instruction-tuned model.")
        turns = [{"role": "system", "content": instruction}, {"role": "user", "content": PLACEHOLDER}]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, date_string=DATE)
        except Exception as error:  # jinja raises whatever the template's author chose
            raise UserError(f"{where}: its chat template refuses a system and a user turn ({error}).") from None
        if text.count(PLACEHOLDER) != 1:
            raise UserError(f"{where}: its chat template does not show the user's text exactly once.")
        prefix, suffix = (_ids(tokenizer, part) for part in text.split(PLACEHOLDER))
        if len(prefix) + len(suffix) >= max_prompt_tokens:
            raise UserError(
                f"config: prompt.max_prompt_tokens: template and instruction alone take {len(prefix) + len(suffix)} "
                f"tokens, so {max_prompt_tokens} leave no room for a text; raise it or shorten prompt.instruction."
            )
        return cls(tokenizer, prefix, suffix, max_prompt_tokens)

    @property
    def text_room(self) -> int:
        """Tokens that a text may take."""
        return self.max_prompt_tokens - len(self.prefix) - len(self.suffix)

    def text_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of the texts alone, uncut; chat markers inside a text are plain characters."""
        return _batch_ids(self.tokenizer, texts)

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of the prompts, at most `max_prompt_tokens` each."""
        # A megabyte of text costs minutes to tokenise, and all but its head is thrown away.
        heads = [text[: 64 * self.text_room] for text in texts]
        return [[*self.prefix, *ids[: self.text_room], *self.suffix] for ids in self.text_ids(heads)]

    def count(self, texts: list[str]) -> list[int]:
        """Prompt length of each text in tokens, before anything is cut."""
        fixed = len(self.prefix) + len(self.suffix)
        return [fixed + len(ids) for ids in self.text_ids(texts)]


def is_well_formed(rationale: str) -> bool:
    """Whether a finished rationale has one non-empty thought and a non-empty statement after it."""
    match = RATIONALE.fullmatch(rationale)
    if match is None or rationale.count("<think>") != 1 or rationale.count("</think>") != 1:
        return False
    return bool(match["thought"].strip()) and bool(match["statement"].strip())


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _batch_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    # A lone surrogate (broken UTF-16 somewhere upstream) is no text; tokenizers refuse it.
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
