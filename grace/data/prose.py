"""From a docstring to plain prose: numpydoc, Google and reStructuredText markup taken out."""

from __future__ import annotations

import re

MASK = "[name]"
UNDERLINE = re.compile(r"^\s*([=\-~^*#+_\"'.])\1{2,}\s*$")
SIGNATURE = re.compile(r"^[\w.]+\([^)]*\)?.*(?:->.*)?$")
FIELD = re.compile(
    r"^\s*:(param|parameter|type|return|returns|rtype|raise|raises|var|ivar|cvar|arg|keyword)\b[^:]*:\s*"
)
ITEM = re.compile(r"^\s*[`*]*\w[\w.]*[`*]*\s*\(.*\):\s*(.*)$")  # name (`int`, *optional*, defaults to 8): ...
TABLE = re.compile(r"^[|+][-=+| ]{3,}|^\|.*\|$|^=+( +=+)+$|^-+( +-+)+$|^[%$] |^@\w+")
# Sections that list rather than tell: dropped, or read only where there is no prose.
LISTING = {
    "parameters", "parameter", "other parameters", "arguments", "args", "keyword arguments", "keyword args", "kwargs",
    "attributes", "returns", "return", "yields", "receives", "raises", "warns", "warnings", "shape", "inputs",
    "outputs", "input", "output", "methods", "fields", "options",
}  # fmt: skip
DROPPED = {
    "see also", "references", "reference", "examples", "example", "example usage", "usage", "doctest", "todo",
    "authors", "author", "license", "copyright", "index", "routine listings", "contents",
}  # fmt: skip
HEADINGS = LISTING | DROPPED
KEPT_DIRECTIVES = {"note", "warning", "important", "tip", "caution", "hint", "attention", "admonition", "rubric"}
MARKUP = re.compile(r"[`*|<>\[%\ud800-\udfff]|math:|://")
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|Eq|Eqs|Fig|Ref|Refs|Sec|al|no|St|Dr)|\b[A-Z])\.$")
LEGAL = re.compile(r"copyright|licen[sc]ed? under|all rights reserved|auto-?generated", re.I)
WORD = re.compile(r"\b\w*[^\W\d_]\w*\b")
LISTED = re.compile(r"^\s*[`*\w.,\[\] |]+:(?!:)\s*(.*)$")  # name: ...
BULLET = re.compile(r"^([-*+•]|\d+[.)])\s+")
DIRECTIVE = re.compile(r"^\.\.\s+([\w:-]+?)::\s*(.*)$")


def words(text: str) -> int:
    """Number of words that hold a letter."""
    return len(WORD.findall(text))


def letters(text: str) -> int:
    """Number of letters and spaces."""
    return sum(map(str.isalpha, text)) + text.count(" ")


def document(text: str, least: int) -> tuple[str, str] | None:
    """(summary, description) of a docstring whose indentation is cleaned.

    The summary is the first paragraph, or its first sentence where it is long. The description is the prose
    that follows; only where that has fewer than `least` words do the sentences of parameter lists follow it.
    None where there is no summary or it is no sentence.
    """
    prose, listing = _sections(text)
    while prose and (words(prose[0]) < 2 or _is_call(prose[0])):
        prose.pop(0)  # a title, or the call that C functions put first
    if not prose or LEGAL.search(prose[0]) or LEGAL.search(" ".join(prose[:3])[:400]):
        return None
    summary, rest = prose[0], prose[1:]
    if words(summary) > 30 or not rest:
        summary, after = _first_sentence(summary)
        rest = [after, *rest] if after else rest
    if letters(summary) < 0.8 * len(summary) or summary.endswith(":") or not summary[:1].isalnum():
        return None
    if sum(map(words, rest)) < least:
        rest = [*rest, *(part + "." if part[-1].isalnum() else part for part in listing)]
    description = " ".join(rest)
    return (summary, description) if letters(description) >= 0.75 * len(description) else None


def mask(text: str, names: set[str]) -> str:
    """Replace an object's own names, so that no pair is found by its name alone.

    A plain English word (`mean`) is masked only where it is written as code: as a call.
    """
    for name in sorted(names, key=len, reverse=True):
        bare = name.strip("_")
        if len(bare) < 2 or bare not in text:
            continue
        identifier = bool(re.search(r"_|\d|[a-z][A-Z]|[A-Z]{2}", bare))
        call = r"(?:\(\))" if not identifier else r"(?:\(\))?"
        text = re.sub(rf"(?<!\w)(?:[\w.]+\.)?_*{re.escape(bare)}_*{call}(?!\w)", MASK, text)
    return text


def _sections(text: str) -> tuple[list[str], list[str]]:
    """(paragraphs of prose, sentences of listings), in order, without markup."""
    lines = _without_blocks(text.expandtabs().replace("\r", "").split("\n"))
    prose: list[str] = []
    listing: list[str] = []
    paragraph: list[str] = []
    section, margin = "", 0

    def flush() -> None:
        if paragraph:
            joined = _inline(" ".join(line.strip() for line in paragraph))
            if section not in DROPPED and joined:
                (listing if section in LISTING else prose).append(joined)
            paragraph.clear()

    for number, line in enumerate(lines):
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        following = lines[number + 1] if number + 1 < len(lines) else ""
        title = bare.rstrip(":").lower()
        if not bare:
            flush()
            continue
        if UNDERLINE.match(line):
            continue
        if UNDERLINE.match(following) or (bare.endswith(":") and title in HEADINGS):
            flush()
            section, margin = title, indent
            if section not in HEADINGS and section not in ("notes", "note") and not prose:
                prose.append(_inline(bare))  # the title of a module
            continue
        after_heading = UNDERLINE.match(lines[number - 1]) is not None
        if section in LISTING and indent <= margin and not after_heading and not _numpydoc(lines, number):
            flush()  # Google style: text at the heading's margin again ends the section; numpydoc's items lie there too
            section = ""
        if FIELD.match(line):
            flush()
            if "type" not in line.split(":")[1]:
                listing.append(_inline(FIELD.sub("", line)))
            continue
        if ITEM.match(line) and section not in DROPPED:
            flush()
            if section not in LISTING:
                section, margin = "parameters", -1  # a list without a heading ends at the next heading
        if section in LISTING:
            item = ITEM.match(line) or LISTED.match(line)
            if indent <= margin and _numpydoc(lines, number):
                flush()  # `x : array_like`: the explanation is on the lines below
                continue
            if item:
                flush()
                if item.group(1):
                    paragraph.append(item.group(1))
                continue
        if BULLET.match(line.lstrip()):
            flush()
            bare = BULLET.sub("", bare)
        paragraph.append(bare)
    flush()
    return [part for part in prose if part], [part for part in listing if words(part) > 2]


def _is_call(paragraph: str) -> bool:
    return SIGNATURE.match(paragraph) is not None and "(" in paragraph.split(" ")[0]


def _numpydoc(lines: list[str], number: int) -> bool:
    """Whether a line is the head of a numpydoc item: its explanation is indented below, or it is `name : type`."""
    line = lines[number]
    indent = len(line) - len(line.lstrip())
    following = next((other for other in lines[number + 1 :] if other.strip()), "")
    return len(following) - len(following.lstrip()) > indent or " : " in line


def _without_blocks(lines: list[str]) -> list[str]:
    """Lines without doctests, fences, literal blocks, tables and directives."""
    kept: list[str] = []
    until: int | None = None  # skip while indented deeper than this
    fence = doctest = False
    for line in lines:
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        if bare.startswith(("```", "~~~")):
            fence = not fence
            continue
        if fence:
            continue
        if until is not None:
            if not bare or indent > until:
                continue
            until = None
        if bare.startswith(">>>"):
            doctest = True
        if doctest:
            doctest = bool(bare)
            continue
        directive = DIRECTIVE.match(bare)
        if directive:
            if directive.group(1) in KEPT_DIRECTIVES:
                kept.append("")
            else:
                until = indent
            continue
        if bare.startswith(".. ") or re.match(r"^\.\. ?\[", bare):  # comment, target, citation
            until = indent
            continue
        if TABLE.match(bare):
            continue
        if bare.endswith("::"):
            until = indent
            line = line.rstrip()[:-1] if not bare.startswith("::") else ""
        kept.append(line)
    return kept


def _inline(text: str) -> str:
    if not MARKUP.search(text):
        return " ".join(text.split())
    text = re.sub(r":[\w:+-]+:`([^`<]*?)\s*<[^`>]*>`", r"\1", text)  # :role:`title <target>`
    text = re.sub(r":[\w:+-]+:`[~!]?([^`]*)`", lambda found: found.group(1).rpartition(".")[2] or found.group(1), text)
    text = re.sub(r"`+([^`<]+?)\s*<[^`>]*>`+_*", r"\1", text)  # `title <url>`_
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)  # [title](url)
    text = re.sub(r"\s?\[[\w#*]+\]_|\s\[\d+\]|%\(\w+\)s", "", text)  # citation, template
    text = re.sub(r"`+([^`]*)`+_*", r"\1", text)
    text = re.sub(
        r"\*\*([^*]+)\*\*|(?<!\w)\*([^*\s][^*]*)\*(?!\w)", lambda found: found.group(1) or found.group(2), text
    )
    text = re.sub(r"\|([\w.]+)\||:?\bmath:", r"\1", text)
    text = re.sub(r"https?://\S+|<[/!]?\w+[^<>]*>", "", text)
    text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be written
    return " ".join(text.split())


def _first_sentence(text: str) -> tuple[str, str]:
    for found in re.finditer(r"[.!?](?=\s+[A-Z\[])", text):
        head = text[: found.end()]
        if not ABBREVIATION.search(head):
            return head, text[found.end() :].strip()
    return text, ""
