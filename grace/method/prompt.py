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

HEAD, LONGEST = 8, 64  # characters for each token that are tokenised first, and at most
SPARE = 16  # tokens at a head's end that the cut may have changed

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

    def text_ids(self, texts: list[str], room: int | None = None) -> list[list[int]]:
        """Token ids of the texts alone, the first `room` of each; chat markers inside a text are plain characters."""
        if room is None:
            return _batch_ids(self.tokenizer, texts)
        # Tokenising costs by the character, and all but a text's head is thrown away.
        made = _batch_ids(self.tokenizer, [text[: HEAD * room] for text in texts])
        short = [i for i, text in enumerate(texts) if len(text) > HEAD * room and len(made[i]) < room + SPARE]
        for i, ids in zip(short, _batch_ids(self.tokenizer, [head(texts[i], room) for i in short]), strict=True):
            made[i] = ids
        return [ids[:room] for ids in made]

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of the prompts, at most `max_prompt_tokens` each."""
        return [[*self.prefix, *ids, *self.suffix] for ids in self.text_ids(texts, self.text_room)]

    def count(self, texts: list[str]) -> list[int]:
        """Prompt length of each text in tokens, before anything is cut."""
        fixed = len(self.prefix) + len(self.suffix)
        return [fixed + len(ids) for ids in self.text_ids(texts)]


def head(text: str, room: int) -> str:
    """As much of a text as may be tokenised for its first `room` tokens: a megabyte would take minutes."""
    return text[: LONGEST * room]


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
    settings = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
    return tokenizer(texts, **settings)["input_ids"]
