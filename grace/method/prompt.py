"""The prompt P(x) and the shape of a rationale (eq. 9)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from grace.config.section import UserError

# Stands for the text while the chat template is rendered; the text itself never passes through the
# template, so it cannot change the prompt's structure.
PLACEHOLDER = "\u2039text\u203a"
REPLY, NEXT = "\u2039reply\u203a", "\u2039next\u203a"  # of the model, and what the user says then
SYSTEM = "Reply."  # an instruction without marks
ROLES = ("system", "user", "assistant", "user")
# What templates call their switch for thinking. Where they know <think> it is on, since a rationale has a thought; else
# off, since the thought would stand between marks of the model's own.
SWITCHES = ("enable_thinking", "thinking")
RENDERINGS = 8  # that must be equal; a template may draw lots
NOW = datetime(2024, 7, 26)
# What the locale or the time zone decides of a date, in English.
WORDS = {
    "a": "Fri", "A": "Friday", "b": "Jul", "B": "July", "h": "Jul", "p": "AM", "P": "am", "x": "07/26/24",
    "X": "00:00:00", "c": "Fri Jul 26 00:00:00 2024", "r": "12:00:00 AM", "s": "1721952000",
}  # fmt: skip

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
        opening: what the suffix has of the rationale already, such as "<think>\\n"; usually nothing.
    """

    tokenizer: Any
    prefix: list[int]
    suffix: list[int]
    max_prompt_tokens: int
    opening: str = ""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, instruction: str, max_prompt_tokens: int) -> PromptTemplate:
        """Render the tokenizer's chat template around `instruction` (system turn) and the text (user turn).

        Raises:
            UserError: when there is no chat template, when it refuses a system turn, drops instruction or text, gives
                another prompt each time or leaves no place for a thought between <think> and </think>, or when
                max_prompt_tokens leaves no room for a text.
        """
        where = _name(tokenizer)
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(f"{where}: the checkpoint has no chat template; use an instruction-tuned model.")
        try:
            made = {_render(tokenizer, instruction, PLACEHOLDER) for _ in range(RENDERINGS)}
        except Exception as error:  # jinja raises whatever the template's author chose
            reason = " ".join(str(error).split())
            raise UserError(f"{where}: its chat template refuses a system and a user turn ({reason}).") from None
        text = made.pop()
        if made:
            raise UserError(f"{where}: its chat template gives another prompt each time; take out what is random.")
        if text.count(PLACEHOLDER) != 1:
            raise UserError(f"{where}: its chat template does not show the user's text exactly once.")
        if instruction.strip() not in text:
            raise UserError(f"{where}: its chat template does not show the system turn, which has the instruction.")
        before, after = text.split(PLACEHOLDER)
        opening = _opening(tokenizer)
        prefix, suffix = _ids(tokenizer, before), _ids(tokenizer, after)
        if len(prefix) + len(suffix) >= max_prompt_tokens:
            raise UserError(
                f"config: prompt.max_prompt_tokens: template and instruction alone take {len(prefix) + len(suffix)} "
                f"tokens, so {max_prompt_tokens} leave no room for a text; raise it or shorten prompt.instruction."
            )
        return cls(tokenizer, prefix, suffix, max_prompt_tokens, opening)

    @property
    def digest(self) -> str:
        """A hash of all that the model reads beside the text, and of the tokens that end its turn."""
        fixed = [self.prefix, self.suffix, self.tokenizer.eos_token_id, turn_end(self.tokenizer)]
        return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:16]

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
    """Whether a finished rationale, with the template's `opening`, has one non-empty thought and then a statement."""
    match = RATIONALE.fullmatch(rationale)
    if match is None or rationale.count("<think>") != 1 or rationale.count("</think>") != 1:
        return False
    return bool(match["thought"].strip()) and bool(match["statement"].strip())


def clock(format: str) -> str:
    """`strftime` of one fixed time in English, in place of the one by which chat templates print today's date."""

    def settled(match: re.Match[str]) -> str:
        return WORDS.get(match["code"], f"%{match['flags']}{match['code']}")

    return NOW.strftime(re.sub(r"%(?P<flags>[-_0^#]*)[EO]?(?P<code>.)", settled, format))


def turn_end(tokenizer: Any) -> list[int]:
    """The id of the token by which the chat template ends a reply, or begins the turn after it; [] of neither.

    Raises:
        UserError: when replies end in a mark that is no token, so that no rationale would ever end.
    """
    if (last := _reply(tokenizer)) is None:
        return []
    # White space may be an added token too (Gemma), and would end rationales anywhere.
    known = {id for token, id in tokenizer.get_added_vocab().items() if token.strip(" \n\t\u2581")}
    known |= {*tokenizer.all_special_ids}
    between = _reply(tokenizer, NEXT) or last
    for after in (last[1], between[1]):
        if found := [id for id in _ids(tokenizer, after) if id in known]:
            return found[:1]
        if after.strip():
            break
    if mark := last[1].strip():
        raise UserError(
            f"{_name(tokenizer)}: its chat template ends a reply with {mark!r}, for which the tokenizer has no token; "
            "add it to its special tokens."
        )
    return []


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or "the tokenizer"


def _render(tokenizer: Any, *contents: str) -> str:
    """The chat of these turns, on every machine and day the same; it asks for a reply unless it ends with one."""
    turns = [{"role": role, "content": content} for role, content in zip(ROLES, contents, strict=False)]
    thinks = "<think>" in tokenizer.get_chat_template()
    return tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=turns[-1]["role"] == "user", strftime_now=clock,
        **dict.fromkeys(SWITCHES, thinks),
    )  # fmt: skip


def _reply(tokenizer: Any, *then: str) -> tuple[str, str] | None:
    """What stands between a user's text and the reply to it, and after that; None of a template without replies."""
    try:
        text = _render(tokenizer, SYSTEM, PLACEHOLDER, REPLY, *then)
    except Exception:  # as above; what a prompt needs is there without
        return None
    if text.count(PLACEHOLDER) != 1 or text.count(REPLY) != 1:
        return None
    before, after = text.split(REPLY)
    return before.split(PLACEHOLDER)[-1], after.split(NEXT)[0]


def _opening(tokenizer: Any) -> str:
    """What a prompt has begun of the rationale.

    Raises:
        UserError: when the prompt holds the whole thought, or replies have marks other than those of a rationale.
    """
    where, reply = _name(tokenizer), _reply(tokenizer)
    after = _render(tokenizer, SYSTEM, PLACEHOLDER).split(PLACEHOLDER)[-1]
    _, mark, thought = after.rpartition("<think>")
    if "</think>" in (thought if mark else after):
        raise UserError(
            f"{where}: its chat template closes the thought before the model can write one; give it a template whose "
            "generation prompt does not hold </think>."
        )
    frames = [re.split("</?think>", part)[0].split() for part in (after, reply[0] if reply else after)]
    if "".join(frames[0]) != "".join(frames[1]):
        asked, shown = (" ".join(frame) for frame in frames)
        raise UserError(
            f"{where}: its chat template asks for a reply after {asked!r} but shows one after {shown!r}, so its marks "
            "stand where a rationale has its own; give another template or model."
        )
    return mark and mark + thought


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _batch_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    # A lone surrogate (broken UTF-16 somewhere upstream) is no text; tokenizers refuse it.
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    settings = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
    return tokenizer(texts, **settings)["input_ids"]
