"""The whole audit: every check, once, on the paper's numbers."""

import subprocess
import sys

from grace.paper import numbers
from grace.paper.audit import audit
from tests.paper.altered import frame

VERDICTS = {
    "average-weights": "contradicted",
    "gain-supervised": "contradicted",
    "gain-unsupervised": "contradicted",
    "column-order": "contradicted",
    "negatives-cancel": "contradicted",
    "unsupervised-negatives": "contradicted",
    "table5-averages": "contradicted",
    "lambda-grid": "cannot be checked",
    "figure3-and-table4": "cannot be checked",
    "whole-answers": "cannot be checked",
    "general-capability": "confirmed",
    "table5-deltas": "confirmed",
    "table4-averages": "confirmed",
    "repeated-rows": "confirmed",
    "above-baselines": "confirmed",
    "reasoning-baseline": "cannot be checked",
}


def test_verdicts_on_the_papers_numbers():
    findings = audit(numbers.load(), 0.2, 0.2)
    assert {one.id: one.verdict for one in findings} == VERDICTS
    assert len(findings) == len(VERDICTS)
    assert all(one.claim and one.found and one.arithmetic and one.where for one in findings)


def test_of_no_numbers_only_the_reward_code_can_be_checked():
    everything = tuple(numbers.load()["table"].unique())
    findings = audit(frame(without=everything), 0.2, 0.2)
    judged = {one.id for one in findings if one.verdict != "cannot be checked"}
    assert judged == {"negatives-cancel", "unsupervised-negatives"}


def test_importing_the_audit_does_not_import_torch():
    code = "import sys, grace.paper.audit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
