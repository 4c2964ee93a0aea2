"""What a chat model answered to a question of table 5, and whether that is right.

lm-eval's filters fit the form of its worked examples; chat models add bold type, a sentence, a unit, a code block.
A judge here takes a whole reply, not cut at stop strings, and the row of the data set. It returns whether the answer
is right, or None where the reply holds none. docs/general.md states the rules.
"""

from __future__ import annotations

import ast
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from typing import Any

LONGEST = 200  # characters of a line that may be TriviaQA's answer

# What announces an answer; "#### 18" is the end of GSM8K's own answers.
_ANNOUNCED = re.compile(
    r"####|\b(?:answer|(?:correct|right|best|final) (?:option|choice|letter|result))\b[^.\n]{0,40}?"
    r"(?:\bis\b|\bbe\b|:|=)(?!\W*not\b)",
    re.I,
)
# Of a chat model that runs past the end of its turn, the next turn's role is left when marks are not decoded.
_NEXT_QUESTION = re.compile(r"(?<=\S)\s+(?:(?:Question|Q):|(?:user|assistant)\n)")
_SENTENCE_END = re.compile(r"(?<=\S)[.!?]+(?:\s|$)")


def without_thought(reply: str) -> str | None:
    """A reply without its thought; None when the thought has not ended."""
    *thought, rest = re.split(r"</think(?:ing)?>", reply)
    shown, *unfinished = re.split(r"<think(?:ing)?>", rest, maxsplit=1)
    if unfinished and not shown.strip():
        return None
    return shown.lstrip("\n") if thought else shown


def cut_at_stops(reply: str, stops: Iterable[str]) -> str:
    """A reply as lm-eval hands it to its filters: without its thought, up to the first stop string."""
    text = without_thought(reply) or ""
    for stop in stops:
        text = text.split(stop)[0]
    return text


def _plain(reply: str) -> str:
    """A reply without marks of type, with "####" for a box or tag, up to a further question that it asks itself."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", without_thought(reply) or "")
    text = re.sub(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"\n#### \1\n", text)
    text = re.sub(r"<answer>(.*?)</answer>", r"\n#### \1\n", text, flags=re.DOTALL)
    text = re.sub(r"\*\*|__|`|\\[()\[\]]", "", text)
    return _NEXT_QUESTION.split(text.strip())[0]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _stated(text: str) -> list[str]:
    """What follows each announcement of an answer, to the end of its line or the next one."""
    return [lines[0] for part in _ANNOUNCED.split(text)[1:] if (lines := _lines(part.lstrip(" \n:*")))]


def _sentence(text: str) -> str:
    """The first sentence, up to what the answer is not."""
    return re.split(r",?\s+(?:and\s+)?not\b", _SENTENCE_END.split(text)[0])[0]


# ---- numbers: GSM8K, BBH --------------------------------------------------------------------

# Not in a word (CO2), an exponent (m^2) or the decimals of one left out.
_NUMBER = re.compile(
    r"(?<![\w^])(?<!\d\.)"
    r"(-?(?:(?:\d{1,3}(?:[,' \u00a0\u2009\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?)"
    r"(?:\s?/\s?(\d+)|\s?(thousand|million|billion|k)\b)?",
    re.I,
)
_SCALE = {"k": 1e3, "thousand": 1e3, "million": 1e6, "billion": 1e9}


def _numbers(text: str) -> list[float]:
    text = re.sub(r"[\u2212\u2013]", "-", text.replace("{,}", ","))
    text = re.sub(r"(-?)\\?[$€£¥₹]\s?(-?)", r" \1\2", re.sub(r"\\[,!;]", "", text))
    text = re.sub(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}", r"\1/\2", text)
    text = re.sub(r"(?<=\d)\s*(?:×|x|\*|·|\\times|\\cdot)\s*10\^\{?(-?\d+)\}?", r"e\1", text)
    text = re.sub(r"\b\d+([/-])\d+\1\d+\b|\b\d+:\d\d\b", " ", text)  # a date, a time
    text = re.sub(r"(?<![\d.,/^])(\d+)\s+(\d+)\s?/\s?0*([1-9]\d*)", _mixed, text)
    text = re.sub(r"(?<![\w.])(\d+)\^\{?(\d)\b\}?", lambda power: str(int(power[1]) ** int(power[2])), text)
    text = re.sub(r"\b(?:negative|minus)\s(?=[\d.])", "-", text, flags=re.I)
    return [
        float(re.sub(r"[^\d.e+-]", "", digits.lower())) / (float(under or 1) or 1) * _SCALE.get(scale.lower(), 1)
        for digits, under, scale in _NUMBER.findall(text)
    ]


def _mixed(found: re.Match[str]) -> str:
    """A whole number and a fraction, such as 2 1/2."""
    return str(int(found[1]) + int(found[2]) / int(found[3]))


def last_number(text: str) -> float | None:
    """The last number of a text; one in parentheses only where there is no other."""
    found = _numbers(re.sub(r"\([^()]*\)", " ", text)) or _numbers(text)
    return found[-1] if found else None


def gsm8k(reply: str, doc: dict[str, Any]) -> bool | None:
    """The last number of the sentence that announces the answer, else of the reply; compared as a number."""
    text = _plain(reply)
    parts = [*(_sentence(part) for part in reversed(_stated(text))), text]
    found = next((value for part in parts if (value := last_number(part)) is not None), None)
    return None if found is None else found == last_number(doc["answer"].split("####")[-1])


# ---- letters: MMLU, BBH ---------------------------------------------------------------------

_BEFORE_LETTER = (
    r"\W*(?:(?:answer|option|choice|letter|the|most|likely|probably|definitely|so|thus|therefore|hence|it|is|it[’']s|i|would"
    r"|think|choose|pick|select|go|with)\b\W+)*"
)
_NO_CHOICE = re.compile(
    r"\W{0,3}(?:or|and|/|,|&)\W{0,3}[A-R]\b|\W*isn[’']t|\W{0,3}(?:wrong|incorrect|false)\b"
    r"|\W*(?:is|are)\s+(?:not|wrong|incorrect|false|(?:ruled )?out)\b"
)
_CALLED_RIGHT = re.compile(r"\b([A-D])\)? is (?:the )?(?:correct|right|best)\b")


def _letter(text: str, last: str) -> str | None:
    """The option, A to `last`, that a text begins with; None too for two of them, or for one that is called wrong."""
    found = re.match(rf"(?i:{_BEFORE_LETTER})(?:([A-{last}])(?![\w’'])|([a-{last.lower()}])(?=[.):]|\W*$))", text)
    if found is None or _NO_CHOICE.match(rest := text[found.end() :]):
        return None
    a_word = found[1] in ("A", "I") and re.match(r" (?!is\b|because\b|since\b|as\b)[a-z]", rest)  # "A lot", "I know"
    return None if a_word else (found[1] or found[2]).upper()


def _single(text: str) -> bool:
    return len(re.findall(r"\w", text)) == 1


def mmlu(reply: str, doc: dict[str, Any]) -> bool | None:
    """Of the first line that has one: the letter that is announced, that it begins with, or a choice word for word.

    Lines after the first must announce it, or be a letter alone. What is announced may stand on the next line.
    """
    choices = [_bare(str(choice)) for choice in doc["choices"]]
    text = re.sub(r"(\banswer\b[^.\n]{0,40}?(?:\bis|:)+)\s*\n\s*", r"\1 ", _plain(reply), flags=re.I)
    for place, line in enumerate(_lines(text)):
        for part in [*reversed(_stated(line)), *_CALLED_RIGHT.findall(line), *[line] * (place == 0 or _single(line))]:
            if not _single(part) and choices.count(_bare(_sentence(part))) == 1:
                return choices.index(_bare(_sentence(part))) == doc["answer"]
            if letter := _letter(part, "D"):
                return "ABCD".index(letter) == doc["answer"]
    return None


# ---- words: TriviaQA, BBH -------------------------------------------------------------------

_IS = re.compile(r"(.*?)\b(?:is|was|are|were|be|(?:it|that)[’']s)\s+((?:.*?\bby\s+)?(.*))", re.I)


def _bare(text: str) -> str:
    """Letters and digits in lower case, without accents or a leading article; the text itself where it has none."""
    plain = unicodedata.normalize("NFKD", text).casefold().strip()
    return "".join(re.findall(r"[^\W_]+|(?<=\w)[+#]+", re.sub(r"^\W*(?:the|an?|in)\s+", "", plain))) or plain


def triviaqa(reply: str, doc: dict[str, Any]) -> bool | None:
    """Whether an alias is the whole answer, its beginning up to a punctuation mark, or a side of "is" in it."""
    text = _plain(reply)
    lines = _stated(text) or _lines(text)
    if not lines:
        return None
    line = lines[0][:LONGEST]
    sides = [line]
    if not re.search(r"\b(?:not|never|cannot|incorrect|wrong)\b|n[’']t\b", line) and (sentence := _IS.match(line)):
        sides += [part for part in sentence.groups() if part]
    ends = r"[.,;:!?](?=\s|$)|\s[(\[–—-]|$"
    found = {_bare(side[: end.start()]) for side in sides for end in re.finditer(ends, side)} - {""}
    return bool(found & {_bare(alias) for alias in doc["answer"]["aliases"]})


def bbh(reply: str, doc: dict[str, Any]) -> bool | None:
    """What is announced last, else a last line of no more words than the right answer; words with their case."""
    text, gold = _plain(reply), str(doc["target"]).strip()
    stated = _stated(text)
    part = (stated or _lines(text) or [""])[-1]
    if not part or (not stated and len(part.split()) > len(gold.split())):
        return None
    if re.fullmatch(r"\([A-R]\)", gold):
        letter = _letter(part, "R")
        return None if letter is None else letter == gold[1]
    part = _sentence(part)
    if re.fullmatch(r"-?\d+", gold):
        number = last_number(part)
        return None if number is None else number == float(gold)
    if gold.isalpha():
        word = re.match(r"\W*(\w+)\b(?!\W*(?:or\b|and\b|/))", part)
        return None if word is None else word[1] == gold
    return _joined(part) == _joined(gold)


def _joined(text: str) -> str:
    return re.sub(r"[\s,\"'“”‘’]", "", text)


JUDGES: dict[str, Callable[[str, dict[str, Any]], bool | None]] = {
    "gsm8k": gsm8k,
    "mmlu": mmlu,
    "triviaqa": triviaqa,
    "bbh": bbh,
}


# ---- code: HumanEval ------------------------------------------------------------------------


def program(reply: str, doc: dict[str, Any]) -> str | None:
    """The function's head and the code of a reply that continues it, or that begins anew; None without any code.

    The code is the last part between fences that defines the function, else the first that is indented. What follows
    it unindented and is no Python is cut off; statements that run something, such as examples of use, are left out.
    """
    parts = re.split(r"```[^\n]*", without_thought(reply) or "")
    fenced = [textwrap.dedent(part) for part in parts[1::2]]
    whole = "\n".join(fenced)  # a helper may stand between fences of its own
    parts = [*parts, *fenced, *[whole] * (len(fenced) > 1)]
    anew = [part for part in parts if re.search(rf"^(?:async )?def {re.escape(doc['entry_point'])}\b", part, re.M)]
    if anew:
        start = re.search(r"^(?:import |from \S+ import |@|(?:async )?def |class )", anew[-1], re.M)
        assert start is not None
        tries = [anew[-1], anew[-1][start.start() :]]
    else:
        tries = [part for part in parts if re.match(r"(?:[ \t]*\n)*[ \t]+\S", part)][:1]
    made = [_python(doc["prompt"], code) for code in tries]
    return next(filter(None, made), f"{doc['prompt']}\n{tries[-1]}" if tries else None)


def _python(head: str, code: str) -> str | None:
    """`head` and as much of `code` as makes Python with it, cut before an unindented line, without what runs."""
    for end in [len(code), *(line.start() for line in reversed([*re.finditer(r"^\S", code, re.M)]))]:
        if not code[:end].strip():
            return None
        text = f"{head}\n{code[:end]}"
        try:
            with warnings.catch_warnings(action="ignore"):  # of a sample's own escapes
                tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        lines = text.split("\n")
        for node in tree.body:
            if isinstance(node, ast.Expr | ast.Assert | ast.If):
                lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
        return "\n".join(lines)
    return None
