"""Rule `audit`: whether the paper's printed numbers agree with one another, each finding with its arithmetic."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from importlib import resources
from types import SimpleNamespace

from grace.config.specs import AuditSpec
from grace.jobs import manifest, stage
from grace.jobs.files import sha256, writing
from grace.paper import numbers
from grace.paper.checks import Finding, audit
from grace.report.markup import templates

VERDICTS = ("contradicted", "confirmed", "cannot be checked")


def render(findings: list[Finding]) -> str:
    """The page in Markdown: a summary, then each finding with its arithmetic."""
    return templates().get_template("audit.md.jinja").render(findings=findings, totals=totals(findings))


def totals(findings: list[Finding]) -> str:
    """One line: how many statements got which verdict."""
    counts = Counter[str](one.verdict for one in findings)
    return f"{len(findings)} checks: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)


@stage.entry(AuditSpec, outputs=("md", "json"))
def main(spec: AuditSpec, paths: SimpleNamespace) -> None:
    findings = audit(numbers.load(), spec.lambda1, spec.lambda2)
    with resources.as_file(resources.files("grace.paper").joinpath("printed.csv")) as path:
        printed = sha256(path)
    with writing(paths.md) as temporary:
        temporary.write_text(render(findings), encoding="utf-8")
    record = manifest.make("audit", spec, [], paths.started, printed=printed)
    manifest.write_result(paths.json, record, findings=[asdict(one) for one in findings])
    print(totals(findings))


if __name__ == "__main__":
    main()
