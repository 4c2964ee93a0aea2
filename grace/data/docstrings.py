"""Pairs of summary and description from the docstrings of installed packages, as plain prose.

Source files are read with `ast` and never imported. The same versions of the packages give the same rows on every
Python of the project, processor and build. Markup of numpydoc, Google style and reStructuredText is removed.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from grace.config.section import UserError
from grace.data.similarity import normal

# Folders that hold no documented library code; numpy has a distutils for Python 3.11 alone.
SKIPPED = {"test", "tests", "__pycache__", "node_modules", "distutils"}
OLDEST = (3, 11)  # of the Pythons of the project: what it cannot read, newer ones leave out too
MIN_QUERY, MAX_QUERY, MIN_DOCUMENT = 4, 60, 12  # words
SEED = 0  # of the draw of files
Row = dict[str, Any]
Job = tuple[str, str, Path]  # label, module, file


def corpus(packages: list[str], threads: int = 1, enough: int | None = None) -> Iterator[Row]:
    """Rows {"id", "query", "positive", "label", "sublabel"} in a fixed order, exact duplicates removed.

    Args:
        packages: top-level packages; label is the package.
        threads: processes that parse.
        enough: read only so many files, drawn over all packages by a fixed seed, as give this many rows or more.

    Raises:
        UserError: naming a package that is not installed.
    """
    jobs: list[Job] = [(package, module, path) for package in packages for module, path in package_files(package)]
    seen: set[tuple[str, str]] = set()
    times = Counter[str]()
    for row in (row for rows in _drawn(jobs, threads, enough) for row in rows):
        texts = normal(row["query"]), normal(row["positive"])
        if texts in seen:
            continue
        seen.add(texts)
        times[row["id"]] += 1
        if times[row["id"]] > 1:  # a name defined twice, under an if
            row["id"] += f"#{times[row['id']]}"
        yield row


def package_files(package: str) -> list[tuple[str, Path]]:
    """(dotted module, file) of each source file of an installed package but tests, sorted. Raises: UserError."""
    try:
        found = importlib.util.find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UserError(
            f"config: sources: the package {package!r} is not installed here; install it or take it from packages."
        )
    if not found.submodule_search_locations:  # a module of one file
        return [(package, Path(found.origin))] if found.origin and found.origin.endswith(".py") else []
    files = {}
    for root in map(Path, found.submodule_search_locations):
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if not SKIPPED.intersection(parts[:-1]) and not parts[-1].startswith(("test_", "conftest")):
                files[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return sorted(files.items())


def sublabel(module: str, path: Path) -> str:
    """The folder a module lies in, three levels at most: `scipy.optimize._lbfgsb_py` -> `scipy.optimize`."""
    parts = module.split(".")
    folder = parts if path.stem == "__init__" else parts[:-1]
    return ".".join(folder[:3] if len(folder) > 1 else parts[:2])


def unpinned(packages: list[str], lock: Path) -> list[str]:
    """`numpy 2.3.5 (2.4.6)` of each package whose installed version is not that of `lock`, a requirements.lock."""
    pins = dict(line.lower().replace("_", "-").split("==") for line in lock.read_text().splitlines() if "==" in line)
    owners = metadata.packages_distributions()
    names = sorted({name.lower().replace("_", "-") for package in packages for name in owners.get(package, [])})
    # What follows a + is the build, such as torch's for CUDA.
    found = {name: metadata.version(name).partition("+")[0] for name in names}
    return [f"{name} {found[name]} ({pins.get(name, 'none')})" for name in names if found[name] != pins.get(name)]


def _drawn(jobs: list[Job], threads: int, enough: int | None) -> Iterator[list[Row]]:
    if enough is None:
        yield from tqdm(_parsed(jobs, threads), "files", len(jobs), mininterval=1)
        return
    order = list(range(len(jobs)))
    random.Random(SEED).shuffle(order)
    found: dict[int, list[Row]] = {}
    total = 0
    with closing(_parsed([jobs[at] for at in order], threads)) as parsed:
        for at, rows in zip(order, parsed, strict=True):
            found[at] = rows
            total += len(rows)
            if total >= enough:
                break
    yield from (found[at] for at in sorted(found))


def _parsed(jobs: list[Job], threads: int) -> Generator[list[Row], None, None]:
    # A tree's nodes are freed without the collector, whose search through them doubles the time to parse.
    if threads <= 1:
        gc.disable()
        try:
            yield from map(_file_rows, jobs)
        finally:
            gc.enable()
        return
    with get_context().Pool(min(threads, 16), initializer=gc.disable) as pool:
        yield from pool.imap(_file_rows, jobs, chunksize=32)


def _file_rows(job: Job) -> list[Row]:
    """Rows of one source file; none of a file that is not Python of the oldest version."""
    label, module, path = job
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's code
            tree = ast.parse(path.read_bytes(), feature_version=OLDEST)
        found = list(_docstrings(tree, module))
    except (SyntaxError, ValueError, RecursionError, OSError):
        return []
    rows = []
    for name, own_names, text in found:
        if parts := document(text, MIN_DOCUMENT):
            query, positive = (mask(part, own_names) for part in parts)
            if MIN_QUERY <= words(query) <= MAX_QUERY and words(positive) >= MIN_DOCUMENT:
                labels = {"label": label, "sublabel": sublabel(module, path)}
                rows.append({"id": name, "query": query, "positive": positive, **labels})
    return rows


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, set[str], str]]:
    """(qualified name, names to mask, docstring) of a module and of its classes and functions."""
    pending: list[tuple[Any, str, tuple[str, ...]]] = [(tree, module, (module.rpartition(".")[2],))]
    while pending:
        node, name, own = pending.pop()
        if text := ast.get_docstring(node, clean=True):
            yield name, set(own), text
        for child in reversed(list(ast.iter_child_nodes(node))):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                # A method speaks of its class as often as of itself.
                outer = own[:1] if isinstance(node, ast.ClassDef) else ()
                pending.append((child, f"{name}.{child.name}", (child.name, *outer)))


# ---- from a docstring to plain prose -------------------------------------------------------

MASK = "[name]"
# Sections that list rather than tell: dropped, or read only where there is no prose.
LISTING = set(
    "parameters|parameter|other parameters|arguments|args|keyword arguments|keyword args|kwargs|attributes|returns|"
    "return|yields|receives|raises|warns|warnings|shape|inputs|outputs|input|output|methods|fields|options".split("|")
)
DROPPED = set(
    "see also|references|reference|examples|example|example usage|usage|doctest|todo|authors|author|license|copyright|"
    "index|routine listings|contents".split("|")
)
HEADINGS = LISTING | DROPPED
KEPT_DIRECTIVES = {"note", "warning", "important", "tip", "caution", "hint", "attention", "admonition", "rubric"}
UNDERLINE = re.compile(r"^\s*([=\-~^*#+_\"'.])\1{2,}\s*$")
CALL = re.compile(r"^[\w.]+\([^)]*\)?.*(?:->.*)?$")
FIELD = re.compile(
    r"^\s*:(param|parameter|type|return|returns|rtype|raise|raises|var|ivar|cvar|arg|keyword)\b[^:]*:\s*"
)
ITEM = re.compile(r"^\s*[`*]*\w[\w.]*[`*]*\s*\(.*\):\s*(.*)$")  # name (`int`, *optional*, defaults to 8): ...
NAMED = re.compile(r"^\s*[`*\w.,\[\] |]+:(?!:)\s*(.*)$")  # name: ...
BULLET = re.compile(r"^([-*+•]|\d+[.)])\s+")
DIRECTIVE = re.compile(r"^\.\.\s+([\w:-]+?)::\s*(.*)$")
COMMENT = re.compile(r"^\.\. |^\.\. ?\[")  # comment, target, citation
TABLE = re.compile(r"^[|+][-=+| ]{3,}|^\|.*\|$|^=+( +=+)+$|^-+( +-+)+$|^[%$] |^@\w+")
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|Eq|Eqs|Fig|Ref|Refs|Sec|al|no|St|Dr)|\b[A-Z])\.$")
LEGAL = re.compile(r"copyright|licen[sc]ed? under|all rights reserved|auto-?generated", re.I)
WORD = re.compile(r"\b\w*[^\W\d_]\w*\b")
MARKUP = re.compile(r"[`*|<>\[%\ud800-\udfff]|math:|://")
PLAIN: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [  # markup and what takes its place, in this order
    (r":[\w:+-]+:`([^`<]*?)\s*<[^`>]*>`", r"\1"),  # :role:`title <target>`
    (r":[\w:+-]+:`[~!]?([^`]*)`", lambda found: found[1].rpartition(".")[2] or found[1]),
    (r"`+([^`<]+?)\s*<[^`>]*>`+_*", r"\1"),  # `title <url>`_
    (r"\[([^\]]*)\]\([^)]*\)", r"\1"),  # [title](url)
    (r"\s?\[[\w#*]+\]_|\s\[\d+\]|%\(\w+\)s", ""),  # citation, template
    (r"`+([^`]*)`+_*", r"\1"),
    (r"\*\*([^*]+)\*\*|(?<!\w)\*([^*\s][^*]*)\*(?!\w)", lambda found: found[1] or found[2]),
    (r"\|([\w.]+)\||:?\bmath:", r"\1"),
    (r"https?://\S+|<[/!]?\w+[^<>]*>", ""),
]


def words(text: str) -> int:
    """Number of words that hold a letter."""
    return len(WORD.findall(text))


def letters(text: str) -> int:
    """Number of letters and spaces."""
    return sum(map(str.isalpha, text)) + text.count(" ")


def document(text: str, least: int) -> tuple[str, str] | None:
    """(summary, description) of a docstring whose indentation is cleaned.

    The summary is the first paragraph, or its first sentence where it is long. The description is the prose that
    follows; only where that has fewer than `least` words do the sentences of parameter lists follow it. None where
    there is no summary or it is no sentence.
    """
    prose, listing = _sections(text)
    while prose and (words(prose[0]) < 2 or (CALL.match(prose[0]) and "(" in prose[0].split(" ")[0])):
        prose.pop(0)  # a title, or the call that C functions put first
    if not prose or LEGAL.search(prose[0]) or LEGAL.search(" ".join(prose[:3])[:400]):
        return None
    summary, *rest = prose
    if words(summary) > 30 or not rest:
        summary, after = _first_sentence(summary)
        rest = [after, *rest] if after else rest
    if letters(summary) < 0.8 * len(summary) or summary.endswith(":") or not summary[:1].isalnum():
        return None
    if sum(map(words, rest)) < least:
        rest += [part + "." if part[-1].isalnum() else part for part in listing]
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
        call = r"(?:\(\))?" if re.search(r"_|\d|[a-z][A-Z]|[A-Z]{2}", bare) else r"(?:\(\))"
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
        indent = _indent(line)
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
        at_margin = section in LISTING and indent <= margin
        if at_margin and not UNDERLINE.match(lines[number - 1]) and not _is_numpydoc(lines, number):
            flush()  # Google style: text at the margin of the heading ends the section; numpydoc has its items there
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
            if indent <= margin and _is_numpydoc(lines, number):
                flush()  # `x : array_like`: the explanation is on the lines below
                continue
            if item := ITEM.match(line) or NAMED.match(line):
                flush()
                if item[1]:
                    paragraph.append(item[1])
                continue
        if BULLET.match(line.lstrip()):
            flush()
            bare = BULLET.sub("", bare)
        paragraph.append(bare)
    flush()
    return [part for part in prose if part], [part for part in listing if words(part) > 2]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_numpydoc(lines: list[str], number: int) -> bool:
    """Whether a line is the head of a numpydoc item: its explanation is indented below, or it is `name : type`."""
    following = next((other for other in lines[number + 1 :] if other.strip()), "")
    return _indent(following) > _indent(lines[number]) or " : " in lines[number]


def _without_blocks(lines: list[str]) -> list[str]:
    """Lines without doctests, fenced code, literal blocks, tables and directives."""
    kept: list[str] = []
    until: int | None = None  # skip while indented deeper than this
    fenced = doctest = False
    for line in lines:
        bare = line.strip()
        indent = _indent(line)
        if bare.startswith(("```", "~~~")):
            fenced = not fenced
            continue
        if fenced:
            continue
        if until is not None:
            if not bare or indent > until:
                continue
            until = None
        if doctest or bare.startswith(">>>"):
            doctest = bool(bare)
        elif directive := DIRECTIVE.match(bare):
            if directive[1] in KEPT_DIRECTIVES:
                kept.append("")
            else:
                until = indent
        elif COMMENT.match(bare):
            until = indent
        elif TABLE.match(bare):
            continue
        elif bare.endswith("::"):
            until = indent
            kept.append("" if bare.startswith("::") else line.rstrip()[:-1])
        else:
            kept.append(line)
    return kept


def _inline(text: str) -> str:
    """A paragraph without markup, on one line."""
    if MARKUP.search(text):
        for pattern, plain in PLAIN:
            text = re.sub(pattern, plain, text)
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be written
    return " ".join(text.split())


def _first_sentence(text: str) -> tuple[str, str]:
    """(first sentence, rest)."""
    for found in re.finditer(r"[.!?](?=\s+[A-Z\[])", text):
        sentence = text[: found.end()]
        if not ABBREVIATION.search(sentence):
            return sentence, text[found.end() :].strip()
    return text, ""
