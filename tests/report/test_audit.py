"""The stage `audit`: its two files say the same, and the page is Markdown that can be read."""

import json

import pytest
from markdown_it import MarkdownIt

from grace.paper.checks import Finding
from grace.report import audit

SPEC = '{"study": "demo", "lambda1": 0.1, "lambda2": 0.2}'


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "demo"
    md, js = folder / "audit.md", folder / "audit.json"
    audit.main(["--spec", SPEC, "--threads", "1", "--md", str(md), "--json", str(js)])
    return md.read_text(), json.loads(js.read_text())


def test_the_json_holds_manifest_and_findings_and_the_page_shows_each(made):
    page, found = made
    assert set(found) == {"manifest", "findings"} and len(found["manifest"]["printed"]) == 64
    assert found["manifest"]["stage"] == "audit" and found["manifest"]["settings"]["lambda1"] == 0.1
    for number, one in enumerate(found["findings"], 1):
        assert set(one) == {"id", "title", "claim", "found", "verdict", "arithmetic", "where"}
        assert one["verdict"] in audit.VERDICTS and f"## {number}. {one['title']}\n" in page
        assert one["claim"] in page and one["found"] in page and one["arithmetic"] in page
    assert len({one["id"] for one in found["findings"]}) == len(found["findings"])
    assert page.index("7 contradicted, 5 confirmed, 4 cannot be checked") < page.index("## 1.")


def test_the_pages_tables_are_tables(made):
    page, found = made
    grids = sum(one["arithmetic"].count("|---|") for one in found["findings"])
    assert MarkdownIt("commonmark").enable("table").render(page).count("<table>") == 1 + grids


def test_totals_are_counted_by_verdict():
    one = Finding("a", "A", "c", "f", "confirmed", "", "w")
    assert audit.totals([one, one]) == "2 checks: 0 contradicted, 2 confirmed, 0 cannot be checked"


def test_a_spec_without_weights_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"error: config: spec\.lambda1: this key is missing\."):
        audit.main(["--spec", '{"study": "demo"}', "--md", str(tmp_path / "a.md"), "--json", str(tmp_path / "a.json")])
