"""Pairs of summary and description from the docstrings of installed packages.

Source files are read with `ast` and never imported: real text about many subjects. The same versions of the packages
give the same rows on every Python of the project, processor and build.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import random
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from grace.data.prose import document, mask, words
from grace.data.similarity import normal
from grace.section import UserError

# Folders that hold no documented library code, and numpy's that is there for Python 3.11 alone.
SKIPPED = {"test", "tests", "__pycache__", "node_modules", "distutils"}
OLDEST = (3, 11)  # of the Pythons of the project: what it cannot read, newer ones leave out too
MIN_QUERY, MAX_QUERY, MIN_DOCUMENT = 4, 60, 12  # words
SEED = 0  # of the draw of files
Job = tuple[str, str, Path]  # label, module, file


def package_files(package: str) -> list[tuple[str, Path]]:
    """(dotted module, file) of each source file of an installed package, sorted by module. Tests are left out.

    Raises:
        UserError: naming the package that is not installed.
    """
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
                name = ".".join((package, *(part for part in parts if part != "__init__")))
                files[name] = path
    return sorted(files.items())


def sublabel(module: str, path: Path) -> str:
    """The folder a module lies in, three levels at most: `scipy.optimize._lbfgsb_py` -> `scipy.optimize`."""
    parts = module.split(".")
    folder = parts if path.stem == "__init__" else parts[:-1]
    return ".".join(folder[:3] if len(folder) > 1 else parts[:2])


def objects(tree: ast.Module, module: str) -> Iterator[tuple[str, set[str], str]]:
    """(qualified name, names to mask, raw docstring) of a module and of its classes and functions."""
    pending: list[tuple[ast.AST, str, tuple[str, ...]]] = [(tree, module, (module.rpartition(".")[2],))]
    while pending:
        node, name, own = pending.pop()
        assert isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        text = ast.get_docstring(node, clean=True)
        if text:
            yield name, set(own), text
        for child in reversed(list(ast.iter_child_nodes(node))):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                # A method speaks of its class as often as of itself.
                outer = own[:1] if isinstance(node, ast.ClassDef) else ()
                pending.append((child, f"{name}.{child.name}", (child.name, *outer)))


def pair(text: str, names: set[str]) -> tuple[str, str] | None:
    """(summary, description) of a cleaned docstring with its own names masked, or None when one is too short."""
    parts = document(text, MIN_DOCUMENT)
    if parts is None:
        return None
    query, positive = (mask(part, names) for part in parts)
    if not MIN_QUERY <= words(query) <= MAX_QUERY or words(positive) < MIN_DOCUMENT:
        return None
    return query, positive


def file_rows(job: Job) -> list[dict[str, Any]]:
    """Rows of one source file; a file that is not Python of the oldest version has none."""
    label, module, path = job
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's code
            tree = ast.parse(path.read_bytes(), feature_version=OLDEST)
        found = list(objects(tree, module))
    except (SyntaxError, ValueError, RecursionError, OSError):
        return []
    rows = []
    for name, names, text in found:
        if (parts := pair(text, names)) is not None:
            row = {"id": name, "query": parts[0], "positive": parts[1], "label": label}
            rows.append({**row, "sublabel": sublabel(module, path)})
    return rows


def corpus(packages: list[str], threads: int = 1, enough: int | None = None) -> Iterator[dict[str, Any]]:
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
    times: dict[str, int] = {}
    for row in (row for rows in _drawn(jobs, threads, enough) for row in rows):
        texts = normal(row["query"]), normal(row["positive"])
        if texts in seen:
            continue
        seen.add(texts)
        times[row["id"]] = times.get(row["id"], 0) + 1
        if times[row["id"]] > 1:  # a name defined twice, under an if
            row["id"] += f"#{times[row['id']]}"
        yield row


def unpinned(packages: list[str], lock: Path) -> list[str]:
    """`numpy 2.3.5 (2.4.6)` of each package whose installed version is not that of `lock`, a requirements.lock."""
    pins = dict(line.lower().replace("_", "-").split("==") for line in lock.read_text().splitlines() if "==" in line)
    owners = metadata.packages_distributions()
    names = sorted({name.lower().replace("_", "-") for package in packages for name in owners.get(package, [])})
    # What follows a + is the build, such as torch's for CUDA.
    found = {name: metadata.version(name).partition("+")[0] for name in names}
    return [f"{name} {found[name]} ({pins.get(name, 'none')})" for name in names if found[name] != pins.get(name)]


def _drawn(jobs: list[Job], threads: int, enough: int | None) -> Iterator[list[dict[str, Any]]]:
    if enough is None:
        yield from tqdm(_parsed(jobs, threads), "files", len(jobs), mininterval=1)
        return
    order = list(range(len(jobs)))
    random.Random(SEED).shuffle(order)
    found: dict[int, list[dict[str, Any]]] = {}
    total = 0
    with closing(_parsed([jobs[at] for at in order], threads)) as parsed:
        for at, rows in zip(order, parsed, strict=True):
            found[at] = rows
            total += len(rows)
            if total >= enough:
                break
    yield from (found[at] for at in sorted(found))


def _parsed(jobs: list[Job], threads: int) -> Generator[list[dict[str, Any]], None, None]:
    # A tree's nodes are freed without the collector, whose search through them doubles the time to parse.
    if threads <= 1:
        gc.disable()
        try:
            yield from map(file_rows, jobs)
        finally:
            gc.enable()
        return
    with get_context().Pool(min(threads, 16), initializer=gc.disable) as pool:
        yield from pool.imap(file_rows, jobs, chunksize=32)
