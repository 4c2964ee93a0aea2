"""The command of an evaluation: with other settings, and what it writes."""

from __future__ import annotations

import json

from grace.evaluation import evaluate


def results(arguments, out, store):
    evaluate.main([*arguments, "--store", str(store)])
    written = json.loads(out.read_text())
    del written["manifest"]
    return written


def changed(arguments, **spec):
    """Arguments of the command with other settings, and with those of `encode` that stand in a dictionary."""
    old = json.loads(arguments[1])
    encode = old["encode"] | spec.pop("encode", {})
    return ["--spec", json.dumps(old | {"encode": encode} | spec), *arguments[2:]]
