"""Rule `audit`: whether the paper's printed numbers agree with one another, each finding with its arithmetic."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from importlib import resources
from types import SimpleNamespace

from grace import manifest, stage
from grace.files import sha256, writing
from grace.paper import numbers
from grace.paper.audit import audit
from grace.paper.finding import Finding
from grace.specs import AuditSpec

VERDICTS = ("contradicted", "confirmed", "cannot be checked")


def render(findings: list[Finding]) -> str:
    """The page in Markdown: a summary, then each finding with its arithmetic."""
    lines = [
        "# What the paper's own numbers say",
        "",
        "Each line sets a statement of the paper (arXiv 2510.04506v1) against arithmetic on the numbers that it "
        "prints, or against a run of its equations. Nothing here depends on a training of ours.",
        "",
        f"{totals(findings)}.",
        "",
        "| | what | where | verdict | found |",
        "|---:|---|---|---|---|",
    ]
    for number, one in enumerate(findings, 1):
        lines.append(f"| {number} | {one.title} | {one.where} | {one.verdict} | {one.found} |")
    for number, one in enumerate(findings, 1):
        lines += ["", f"## {number}. {one.title}", "", f"{one.where}. **{one.verdict.capitalize()}.**", ""]
        lines += [f"- Printed: {one.claim}", f"- Found: {one.found}", "", one.arithmetic]
    return "\n".join(lines) + "\n"


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
