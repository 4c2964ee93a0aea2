"""What a reader must know to read a table of scores; only what applies."""

from __future__ import annotations

from grace.config import Table
from grace.paper import numbers
from grace.report.sheets.cells import GRACE_3B, Cell
from grace.report.sheets.columns import ALIGNMENT, AVG_PAPER, AVG_TASKS, COSINE, TOKENS
from grace.report.sheets.grid import MISSING, Line, marked

LISTED = 5  # missing files that are named


def notes(
    table: Table,
    cells: list[Cell],
    resamples: int,
    missing: list[str],
    encoders: list[str],
    samples: dict[str, str],
) -> list[Line]:
    """Of a table's own cells, without those of the paper alone.

    Args:
        missing: result files that are not there. encoders: runs of an encoder-only model. samples: task -> what part
            of it was drawn.
    """
    found = [_intervals(resamples, max((cell["planned"] for cell in cells), default=0))]
    if any(cell["ours"] is None for cell in cells):
        found.append(f"{MISSING}: no result; the csv says why.")
    if any(cell["problems"] for cell in cells):
        found.append(
            "A raised letter leads to what is wrong behind a number. Such a number is not bold, unless all that is "
            "wrong is a missing hash, or equal scores."
        )
    if any(cell["difference"] is not None for cell in cells):
        found.append("In brackets behind the paper's number: ours minus the paper's, where both are of the same tasks.")
    elif any(cell["paper"] is not None for cell in cells):
        found.append("No difference to the paper's numbers is taken: they are not of the same tasks.")
    if table.ablations and any(cell["paper"] is not None for cell in cells) and numbers.rows("table4", GRACE_3B):
        found.append(
            "The paper prints these rows of *GRACE-3B* and does not say which of its two 3B backbones that is."
        )
    if samples:
        parts = "; ".join(f"{name}: {part}" for name, part in samples.items())
        found.append(
            f"Drawn at random, the same for all rows: {parts}. With fewer documents, or smaller sets to cluster, a "
            "task is easier, so these scores are not those of the whole task."
        )
    found += _columns(table, {cell["column"] for cell in cells})
    for run in encoders:
        found.append(
            f"*{run}* is an encoder-only model, evaluated as it is: no prompt, and pooling, normalisation and the "
            "longest text are its own. It is the same in the rows of all backbones."
        )
    if _absent(cells, "Summarization"):
        found.append("Summarization: the study has no such task, or no result of it.")
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        shown = ", ".join(f"`{path}`" for path in missing[:LISTED])
        found.append(f"Missing result files: {shown}{more}. To make them, run snakemake without `partial`.")
    return [marked(note) for note in found]


def _intervals(resamples: int, seeds: int) -> str:
    said = (
        f"[low, high] is the 95 % interval of {resamples} paired bootstrap resamples of the items within each task; it "
        "says nothing about how another training would turn out"
    )
    said += (
        ", which ± (standard deviation between seeds) does. " if seeds > 1 else ", of which there is one seed only. "
    )
    return said + (
        "**Bold**: the interval of the difference to `reasoning` of the same backbone excludes zero; the arrow gives "
        "its direction."
    )


def _columns(table: Table, names: set[str]) -> list[str]:
    found = []
    if AVG_PAPER in names:
        found.append(
            "Avg (tasks) is the mean over this study's tasks. Avg (paper) weighs the categories as the paper's "
            "printed averages do: 15/4/11/3/12/10/10 over 65, Summarization's one data set counted ten times; "
            "it needs all 56 data sets."
        )
    elif AVG_TASKS in names and table.kind == "mteb":
        found.append("Avg (tasks) is the mean over the subset's tasks, as the average that the paper prints here.")
    elif AVG_TASKS in names:
        found.append("Avg (tasks) is the mean over the tasks above.")
    if COSINE in names:
        found.append(f"{COSINE}: mean cosine of random pairs of the held-out texts, near 1 when all point one way.")
    if TOKENS in names:
        found.append(f"{TOKENS}: mean length of the rationales; none for runs without.")
    if ALIGNMENT in names:
        found.append(
            "Uniformity: logarithm of the mean of exp(-2 d²) over random pairs at distance d, 0 when all embeddings "
            f"are one and lower when they spread. {ALIGNMENT}: mean d² between a query and its positive, lower when "
            "they are near. Effective rank: how many directions the embeddings use, from 1 up to the width."
        )
    if "Perplexity" in names:
        found.append(
            "Perplexity: per token of the backbone's own tokenizer, on held-out text; lower is better, and it compares "
            "runs of one backbone only. Multiple choice: of four descriptions, chance is 25. Well-formed: share of "
            "rationales of held-out texts that keep the format. The paper's printed Avg exceeds the mean of its six "
            "columns by about 0.15 in the rows of supervised GRACE; ours is the mean."
        )
    return found


def reference(runs: list[str]) -> list[Line]:
    """Of the rows that only the paper has."""
    if not any(run in numbers.SHUFFLED for run in runs):
        return []
    order = ", ".join(next(iter(numbers.SHUFFLED.values())))
    return [marked(f"The columns of {' and '.join(numbers.SHUFFLED)} are printed in another order ({order}).")]


def _absent(cells: list[Cell], column: str) -> bool:
    found = [cell for cell in cells if cell["column"] == column]
    return bool(found) and all(cell["ours"] is None for cell in found)
