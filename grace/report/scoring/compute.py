"""What a model took to train, from the manifests of its training and of the rationales that it learnt from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from grace.report.scoring import results
from grace.specs import Cell


class Compute(NamedTuple):
    """Of one model; a number that is not known is None.

    seconds: of CPU, or of GPU, of all processes together, with `rationales`, its share of what the backbone took to
    write the rationales that it learnt from. read, written: tokens. device: cpu or gpu, None where nothing was trained.
    problems: sentences.
    """

    seconds: float | None = None
    rationales: float | None = None
    read: int | None = None
    written: int | None = None
    device: str | None = None
    problems: tuple[str, ...] = ()


def compute(cell: Cell) -> Compute:
    """Of the model of a cell of `specs.Traded.costs`; without files it was not trained."""
    if not cell.results:
        return Compute(seconds=0.0)
    training, problems = _read(cell.results[0])
    if training is None:
        return Compute(problems=tuple(problems))
    seconds, device = _seconds(training)
    if training.get("resumed_from"):
        problems.append(f"{cell.results[0]}: the training was resumed, and its time is that of the last start alone.")
    share, tokens = None, training.get("tokens")
    for path in cell.results[1:]:
        record, more = _read(path)
        problems += more
        share = _share(record, training) if record else None
        texts, written = (_whole(record.get(key)) for key in ("texts", "written")) if record else (None, None)
        if texts and written is not None and written < texts:
            problems.append(
                f"{path}: {texts - written} of {texts} rationales are of an earlier job, whose time is not known."
            )
        seconds = None if seconds is None or share is None else seconds + share
    counted = {key: _whole(tokens.get(key)) for key in ("read", "written")} if isinstance(tokens, dict) else {}
    return Compute(seconds, share, **counted, device=device, problems=tuple(problems))


def _read(path: str) -> tuple[dict[str, Any] | None, list[str]]:
    """A manifest, or the content of a record with its manifest in `manifest`; None where there is none."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, [f"No result: {path}."]
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        return None, [f"{path} cannot be read, so its time is not known: {results.AGAIN}."]
    return value, []


def _seconds(manifest: dict[str, Any]) -> tuple[float | None, str]:
    """CPU-seconds, or on GPUs seconds x processes."""
    hardware = manifest.get("hardware")
    gpu = bool(hardware.get("gpus")) if isinstance(hardware, dict) else False
    value = manifest.get("seconds" if gpu else "cpu_seconds")
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) * _processes(manifest) if known else None, "gpu" if gpu else "cpu"  # type: ignore[arg-type]


def _processes(manifest: dict[str, Any]) -> int:
    settings = manifest.get("settings")
    sections = [settings.get(key) for key in ("contrastive", "grace")] if isinstance(settings, dict) else []
    return max([at.get("processes", 1) for at in sections if isinstance(at, dict)], default=1)


def _share(record: dict[str, Any], training: dict[str, Any]) -> float | None:
    """Seconds of writing the rationales of the rows that a training read, of those that were written for several."""
    made = record.get("manifest")
    if not isinstance(made, dict):
        return None
    seconds, _ = _seconds(made)
    wanted = (training.get("settings") or {}).get("rationales") or {}
    rows, written = _whole(wanted.get("rows")), _whole(record.get("rows"))
    if seconds is None:
        return None
    return seconds * min(1.0, rows / written) if rows and written else seconds


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
