"""A study's folder with everything that the page reads, small and made up."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from grace.config import specs
from grace.jobs.files import sha256
from grace.report import report
from grace.report.sheets import formats
from grace.report.sheets.grid import Grid, Piece, Sheet, TableCell
from tests.config.test_schema import CONFIG

WILD = (
    "<think><img src=http://example.org/x.png onerror=window.hit=1><script>window.hit=1</script></think> *a* | <|end|>"
)
SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="432pt" height="288pt" viewBox="0 0 432 288">
<defs><clipPath id="area"><rect width="400" height="260"/></clipPath></defs>
<g id="axes" clip-path="url(#area)"><path d="M 0 0 L 400 260" stroke="black"/><text x="9" y="9">base</text></g></svg>"""
COLUMNS = ["Retrieval", "PairClassification", "Summarization", "Avg (tasks)", "Avg (paper)", "Random-pair cosine"]
RUNS = ["base", "reasoning", "cl", "grace", "grace-unsup-rollout"]


def exhibit(name: str, form: Any, shown: bool = True) -> specs.Exhibit:
    title = f"{form.capitalize()} {name[-1]}. What it shows"
    return specs.Exhibit(name=name, form=form, title=title, caption=f"The *caption* of {name}.", shown=shown)


def claim(verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"claim-{verdict}", "group": "Embeddings, supervised", "text": f"A claim that is {verdict}",
        "measure": "mean of 6 tasks", "backbone": "tiny", "printed": 11.52, "bound": None, "ours": -2.5, "low": -4.0,
        "high": -1.0, "levels": [32.5, 35.0], "verdict": verdict, "word": verdict, "comparable": False,
        "runs": ["grace", "base"], "seeds": 1, "where": "Table 1", "problems": [], "headline": True, **more,
    }  # fmt: skip


def scores(name: str) -> Sheet:
    def row(run: str) -> list[TableCell]:
        numbers = [TableCell([Piece("16.11", "bold")], [Piece("[14.3, 18.1]")], [Piece("22.15")]) for _ in COLUMNS]
        return [TableCell([Piece("tiny")]), TableCell([Piece(run)]), *numbers]

    grid = Grid(["backbone", "run", *COLUMNS], [row(run) for run in RUNS], notes=[("", [Piece("A note.")])])
    printed = Grid(["backbone", "run", "Avg"], [row("base")[:3]], heading="For reference: what the paper prints")
    return Sheet(
        name, f"Table {name[-1]}", [Piece(f"The caption of {name}.")], "Study mine; 1 seed.", [], [grid, printed]
    )


def rationales(name: str) -> Sheet:
    rows = [[TableCell([Piece(run)]), TableCell([Piece(WILD, "prose")])] for run in RUNS]
    return Sheet(name, "Rationales", [], "Study mine.", [], [Grid(["run", "rationale"], rows, 1, True)])


class Sample:
    """The folder `root`; `write` puts a file there, `page` makes the page and returns its path."""

    def __init__(self, root: Path, study: str = "demo") -> None:
        self.root, self.study, self.out = root, study, root / "report.html"
        self.config = {**copy.deepcopy(CONFIG), "study": study}
        self.exhibits = [exhibit("table1", "table"), exhibit("table6", "table"), exhibit("figure1", "figure")]
        self.exhibits += [exhibit("figure3", "figure", shown=False)]
        made = {"stage": "x", "hardware": {"cpus": 2, "cpu": "C"}, "versions": {"torch": "2"}, "commit": "a" * 40}
        for sheet in (scores("table1"), rationales("table6")):
            self.write(f"tables/{sheet.name}.html", formats.html(sheet))
            self.write(f"tables/{sheet.name}.csv", "a,b\n")
            about = {"line": sheet.line, "sheet": sheet.as_json(), "missing": [], "problems": []}
            self.write(f"tables/{sheet.name}.json", {"manifest": made, **about})
        problem = "results/mine/x.json was edited after it was made"
        missing = ["results/mine/mteb/tiny/cl/seed0/docstrings.json"]
        about = {"line": "Run grace, 1 seed.", "missing": missing, "problems": [problem]}
        drawing = self.write("figures/figure1.svg", SVG)
        self.write("figures/figure1.json", {"manifest": made, "svg": sha256(drawing), **about})
        beyond = claim("reproduced", id="more", group="Beyond the paper", word="holds")
        tests = [claim("reproduced"), claim("contradicted"), claim("not separable", bound=0.4), beyond]
        tests += [claim("not run", ours=None, low=None, high=None, levels=None, seeds=0)]
        self.write(
            "claims.json", {"manifest": made, "claims": tests, "notes": ["One seed."], "missing": [], "problems": []}
        )
        finding = {
            "id": "f",
            "title": "Averages",
            "claim": "c",
            "found": "f",
            "verdict": "contradicted",
            "where": "Table 1",
        }
        self.write("audit.json", {"findings": [{**finding, "arithmetic": "| a | b |\n|---|---:|\n| x | 1.00 |"}]})
        self.write("benchmarks/train/tiny/cl/seed0.tsv", "s\tmax_rss\tcpu_time\n75\t1500\t60\n")
        train = {**made, "stage": "train", "steps": 80, "seconds": 70.0, "peak_memory_mb": 1400, "resumed_from": None}
        self.write("models/tiny/cl/seed0/manifest.json", train)

    def write(self, path: str, content: Any) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return target

    def page(self) -> Path:
        spec = specs.PageSpec(study=self.study, title="The <demo>", exhibits=self.exhibits, config=self.config)
        records = [str(path) for kind in ("tables", "figures") for path in sorted(self.root.glob(f"{kind}/*.json"))]
        arguments = ["--spec", spec.model_dump_json(), "--out", str(self.out), "--records", *records]
        report.main([*arguments, "--audit", str(self.root / "audit.json"), "--claims", str(self.root / "claims.json")])
        return self.out
