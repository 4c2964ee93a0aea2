"""How rationales changed over training: the record of the rule `cases`, as the page shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grace import manifest
from grace.section import UserError

SHOWN = ("text", "tokens", "truncated", "well_formed")


def read(results: Path, backbone: str) -> tuple[dict[str, Any] | None, str]:
    """{"run", "rule", "cases": [{"id", "kind", "text", "steps": [...], "others": [...]}]}, or None and why.

    `steps` are the rationales of the run whose training is followed, in the order of training (step 0 is the backbone,
    step None the end); `others` those of other runs at their end.
    """
    path = results / "cases" / f"{backbone}.json"
    if not path.exists():
        return None, f"{path} is missing: snakemake makes it (rule cases)."
    try:
        record = manifest.read_result(path)
        cases = [_case(one) for one in record["cases"]]
        runs = {step["run"] for case in record["cases"] for step in case["rationales"] if step["step"] is not None}
        run = min(runs) if runs else "the backbone"
        return {"run": run, "rule": record["rule"], "cases": cases}, ""
    except (KeyError, TypeError, AttributeError):
        return None, f"{path} was written by another version of this workflow: run snakemake again."
    except UserError as error:
        return None, str(error)


def _case(case: dict[str, Any]) -> dict[str, Any]:
    said = case["rationales"]
    followed = {step["run"] for step in said if step["step"] is not None}
    steps = [step for step in said if step["run"] in followed]
    order = sorted(steps, key=lambda step: (step["step"] is None, step["step"] or 0))
    return {
        **{name: case[name] for name in ("id", "kind", "text")},
        "steps": [{"step": step["step"], **{name: step[name] for name in SHOWN}} for step in order],
        "others": [{"run": step["run"], **{name: step[name] for name in SHOWN}} for step in said if step not in steps],
    }
