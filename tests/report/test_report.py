"""The page in a real browser without a network, and what it says when its files are missing or broken."""

import re
import shlex
from html import unescape
from urllib.parse import unquote

import pytest
import yaml

from grace.report.page.folder import markdown
from tests.report.browser import browser, needs_chromium, opened
from tests.report.sample import RUNS, WILD, Sample, claim

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


# Clicks each link of the contents: where its section then is, and whether the page could not be scrolled further.
FOLLOWED = """async selector => {
  document.documentElement.style.scrollBehavior = 'auto';
  const landed = {};
  for (const link of document.querySelectorAll(selector)) {
    link.click();
    await new Promise(requestAnimationFrame);
    const top = document.querySelector(link.hash).getBoundingClientRect().top;
    landed[link.hash] = [top, innerHeight + scrollY >= document.documentElement.scrollHeight - 2];
  }
  delete landed['#top'];
  return landed;
}"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    made = Sample(tmp_path_factory.mktemp("study"))
    made.page()
    return made


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module", params=SIZES)
def page(request, chromium, sample):
    with opened(chromium, sample.out, *SIZES[request.param]) as (found, wrong):
        yield found, wrong, request.param


def text(made: Sample) -> str:
    return made.page().read_text(encoding="utf-8")


def words(page: str) -> str:
    """What a reader sees, without markup."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@needs_chromium
def test_every_figure_and_table_is_shown_without_an_error_or_a_request(page):
    found, wrong, _ = page
    assert wrong == []
    [drawing] = found.locator("#figures figure svg").all()
    box = drawing.bounding_box()
    assert drawing.is_visible() and box["width"] > 200 and box["height"] > 130
    assert found.locator("#figures svg path").first.bounding_box()["width"] > 100
    for name in ("table1", "table6"):
        rows = found.locator(f"#{name} > .scroll table tbody tr:not(.group) th")
        assert rows.all_inner_texts() == RUNS and rows.first.is_visible()
    assert found.locator("#table1 .printed").first.inner_text() == "paper 22.15"


@needs_chromium
def test_nothing_but_a_table_scrolls_sideways(page):
    found, _, size = page
    wide, room = found.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= room
    loose = found.evaluate(
        """[...document.querySelectorAll('main *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1
           && !one.closest('.scroll, .drawing, details:not([open])')).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert loose == []
    box = found.locator("#table6 .prose").nth(1).bounding_box()  # running text is read without scrolling
    assert box["x"] >= 0 and box["x"] + box["width"] <= room
    if size == "phone":  # the run stays in sight while its numbers pass
        found.locator("#table1 .scroll").first.evaluate("one => one.scrollLeft = 200")
        name = found.locator("#table1 tbody tr:not(.group) th").first.bounding_box()
        assert found.evaluate("document.querySelector('#table1 .scroll').scrollLeft") == 200
        assert 0 <= name["x"] < 30


@needs_chromium
def test_the_contents_lead_to_each_section(page):
    found, _, size = page
    assert found.locator("nav.side").is_visible() == (size == "desktop")
    if size == "phone":
        found.locator("details.toc > summary").click()
    landed = found.evaluate(FOLLOWED, "nav.side a" if size == "desktop" else ".toc a")
    exhibits = {"#table1", "#table6", "#figure1", "#not-made"}
    assert {"#summary", *exhibits, "#audit", "#cost", "#deviations"} <= landed.keys()
    for address, (top, at_end) in landed.items():
        assert -5 <= top <= 60 or (at_end and top < SIZES[size][1]), address


@needs_chromium
def test_what_a_model_wrote_does_nothing_and_a_finding_opens_to_its_arithmetic(page):
    found, wrong, _ = page
    assert found.locator("#table6 td.prose").first.inner_text() == WILD
    assert found.evaluate("window.hit") is None and not wrong
    assert found.locator("h1").inner_text() == "The <demo>"
    cell = found.locator("#audit .arithmetic td").first
    assert not cell.is_visible()
    found.locator("#audit summary").first.click()
    assert cell.is_visible() and cell.inner_text() == "x"


def test_the_page_needs_nothing_else_and_links_only_to_files_that_are_there(sample):
    page = text(sample)
    assert not re.search(r"<(script|img|iframe|object|embed)\b|@import|url\((?!#)", page)
    assert [one for one in re.findall(r"<link [^>]*>", page) if "data:," not in one] == []
    links = re.findall(r'href="([^"]+)"', re.sub(r"<link [^>]*>", "", page))
    inside = {one[1:] for one in links if one.startswith("#")}
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and inside <= set(ids)
    files = [one for one in links if not one.startswith("#")]
    assert {"tables/table1.csv", "figures/figure1.svg", "claims.json", "models/"} <= set(files)
    assert all((sample.root / unquote(one)).exists() for one in files)


def test_the_summary_counts_the_papers_claims_and_says_that_a_demo_is_not_comparable(sample):
    said = words(text(sample))
    for count, verdict in ((1, "reproduced"), (1, "contradicted"), (1, "not separable"), (1, "not run")):
        assert f"{count} {verdict} " in said
    assert "These numbers cannot be compared with the paper's." in said
    assert "−2.50 [−4.00, −1.00] +11.52 contradicted" in said and "bound ±0.4" in said
    assert "grace 32.50 − base 35.00" in said and "holds" in said


def test_problems_missing_files_cost_deviations_and_what_was_not_made_are_named(sample):
    said = words(text(sample))
    assert "Problems in the results: 1 results/mine/x.json was edited after it was made" in said
    assert "Result files that are missing: 1 results/mine/mteb/tiny/cl/seed0/docstrings.json" in said
    assert "Figure 3. What it shows snakemake --cores all figure3 --config study=demo —" in said
    assert "all together with snakemake --cores all --config study=demo ablations=true ." in said
    assert "train 1 1 min 15 s 1 min 00 s — 1.5 GB" in said and "cl tiny 0 80 1 min 10 s — 1.4 GB" in said
    assert "lambda1 0.2 0.1" in said and "2 x C" in said and "torch 2" in said


def test_a_command_keeps_what_the_study_was_made_with(tmp_path):
    made = Sample(tmp_path)
    made.config |= {"seeds": ["0", "1"], "preset": "as_released", "backbones": ["tiny", "tiny-smoke"]}
    kept = "--config study=demo 'seeds=[0,1]' preset=as_released 'backbones=[tiny,tiny-smoke]'"
    said = words(text(made))
    assert f"snakemake --cores all figure3 {kept} —" in said
    assert f"snakemake --cores all {kept} ablations=true ." in said
    given = {one.split("=")[0]: one.split("=")[1] for one in shlex.split(kept)[1:]}
    assert yaml.safe_load(given["seeds"]) == [0, 1] and yaml.safe_load(given["backbones"]) == ["tiny", "tiny-smoke"]


def test_a_claim_counts_once_and_says_where_its_measures_disagree(tmp_path):
    made = Sample(tmp_path)
    one, other = ({"id": name, "text": f"Claim {name}."} for name in "ab")
    tests = [claim("reproduced", **one), claim("contradicted", measure="another", headline=False, **one)]
    tests += [claim("reproduced", backbone=name, **other) for name in ("tiny", "big")]
    tests += [claim("contradicted", backbone="big", measure="another", headline=False, **other)]
    made.write("claims.json", {"claims": tests})
    said = words(text(made))
    assert "3 reproduced as the paper claims 0 contradicted the other way round" in said
    assert "Claim a. Table 1 1 reproduced measures disagree tiny" in said
    assert "Claim b. Table 1 2 reproduced measures disagree on 1 of 2 backbones tiny" in said
    assert "0 not run a run has no result" in said


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("tables/table1.json", "{", "tables/table1.json is not whole (broken JSON)"),
        ("tables/table1.json", "[1]", "tables/table1.json is no record of this workflow"),
        ("tables/table1.json", None, "tables/table1.json is not there"),
        ("tables/table1.json", '{"line": "x"}', "tables/table1.json holds no table, so there is none to show"),
        ("tables/table1.json", '{"sheet": {"grids": [1]}}', "tables/table1.json holds no table, so there is none"),
        ("figures/figure1.svg", None, "figures/figure1.svg is missing, so there is no figure to show"),
        ("figures/figure1.svg", "<svg", "figures/figure1.svg was changed after it was made, so it is not shown"),
        ("claims.json", "{}", "No claim was tested."),
        ("claims.json", '{"claims": [{"id": 1}]}', "No claim was tested."),
        ("claims.json", "", "claims.json is not whole"),
        ("audit.json", '{"findings": 3}', "The file of the audit is missing or holds no finding."),
        ("models/tiny/cl/seed0/manifest.json", '{"hardware": 3, "versions": []}', "The <demo>"),
        ("benchmarks/train/tiny/cl/seed0.tsv", "", "holds no time"),
    ],
)
def test_a_missing_or_broken_file_is_said_and_the_rest_is_shown(tmp_path, path, content, said):
    made = Sample(tmp_path)
    if content is None:
        (tmp_path / path).unlink()
    else:
        made.write(path, content)
    found = words(text(made))
    assert said in found and "Table 6. What it shows" in found and "Deviations" in found


def test_problems_that_say_the_same_of_many_files_are_one_and_a_file_is_named_once(tmp_path):
    made = Sample(tmp_path)
    path = made.write("mteb/tiny/cl/seed0/docstrings.json", "{")
    assert words(text(made)).count(f"{path} is not whole (broken JSON): make it again") == 1
    told = [{"text": f"results/x/{n}.json was edited by hand."} for n in range(5)] + ["A sentence of its own."]
    told += [f"{path} is not whole (broken JSON), so nothing of it is shown."]
    made.write("tables/table1.json", {"problems": told})
    said = words(text(made))
    assert "Problems in the results: 8" in said and "Each of 5 files was edited by hand." in said
    assert "results/x/4.json" in said and "A sentence of its own." in said
    assert said.count(str(path)) == 1 and "so nothing of it is shown" in said


def test_results_of_the_papers_kind_are_called_comparable(tmp_path):
    made = Sample(tmp_path, "paper")
    made.write("claims.json", {"claims": [claim("reproduced", comparable=True), claim("not run")]})
    said = words(text(made))
    assert "1 of 2 tests have the paper's backbones and tasks." in said
    assert "in these alone" in said and "No setting differs." in said


def test_a_page_without_any_exhibit_or_the_papers_study_is_made(tmp_path):
    made = Sample(tmp_path)
    made.exhibits = []
    del made.config["studies"]["paper"]
    said = words(text(made))
    assert "Summary" in said and "Not made" not in said
    assert "studies.paper: this key is missing" in said and "No setting differs." not in said


def test_markdown_keeps_html_links_and_images_as_text():
    found = markdown(
        "<b>x</b> ![i](http://example.org/i.png) [l](http://example.org) <http://example.org>\n\n| a |\n|---|\n| *b* |"
    )
    assert "<b>" not in found and "<img" not in found and "<a " not in found and "&lt;b&gt;" in found
    assert '<div class="scroll"' in found and "<td><em>b</em></td>" in found
