"""The page in a real browser without a network: search, maps, two models, hostile texts, size and speed."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import time

import numpy as np
import pytest

from grace.cli import explore
from grace.cli.page import analysis
from grace.config.section import UserError
from tests.cli.made_study import HUGE, WILD, Study
from tests.report.browser import browser, needs_chromium, opened

PAIRS = 60


def vectors(count, seed, like=None):
    """Queries near their documents; `like` other vectors, if given."""
    rng = np.random.default_rng(seed)
    documents = rng.normal(size=(count, 8)) if like is None else like[count:] + 0.4 * rng.normal(size=(count, 8))
    return np.concatenate([documents + 0.3 * rng.normal(size=(count, 8)), documents])


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_folder):
    made = Study(tmp_path_factory.mktemp("study"), PAIRS, tiny_folder / "tokenizer.json")
    base = vectors(PAIRS, 0)
    said = [[i % 50 + 20, 30, 40, 2] for i in range(2 * PAIRS)]
    made.add("reasoning", base, said, folder="backbone")
    made.add("grace", vectors(PAIRS, 1, base), said)
    made.add("base", base[:100], folder="backbone")
    made.add("grace.step-20", base, said)
    made.add_cases()
    return made


@pytest.fixture(scope="module")
def out(study):
    return explore.write(study.root)


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


def ready(chromium, out, size):
    with opened(chromium, out, *size) as (found, wrong):
        found.wait_for_selector("html[data-ready]")
        yield found
        assert wrong == []


@pytest.fixture(params=[(1280, 900, "light"), (320, 640, "dark")], ids=["desktop", "phone"])
def page(request, chromium, out):
    yield from ready(chromium, out, request.param)


@pytest.fixture
def desktop(chromium, out):
    yield from ready(chromium, out, (1280, 900, "light"))


def first(page, side=0):
    return page.locator(f'#nearest .half[data-side="{side}"] .hits > li').first


def loose(page):
    """What stands out of the page on the right."""
    return page.evaluate(
        """[...document.querySelectorAll('main *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1
           && !one.closest('.scroll, .unseen, details:not([open])')).map(one => one.outerHTML.slice(0, 80))
           .concat(document.documentElement.scrollWidth > innerWidth ? ['the page'] : [])"""
    )


@needs_chromium
def test_searching_by_keyboard_chooses_a_text_and_shows_its_documents(page, study):
    page.locator("#query").press_sequentially("number 7")
    box = page.locator("#query")
    assert box.get_attribute("aria-expanded") == "true"
    assert page.locator("#found").inner_text() == "12 texts."  # queries and documents 7, 17, ... 57
    box.press("ArrowDown")
    active = box.get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
    box.press("Enter")
    assert page.locator("#chosen .whole").inner_text() == "Question number 7"
    assert box.get_attribute("aria-expanded") == "false"
    base = study_ranking(vectors(PAIRS, 0), 7)
    assert first(page).get_attribute("data-text") == str(PAIRS + base[0])
    assert page.locator('#nearest .half[data-side="0"] .outcome').inner_text().endswith(f"rank {base.index(7) + 1}")
    assert page.locator(".hits .badge", has_text="true document").count() >= 1


def study_ranking(every, query):
    """Documents by cosine, in float64."""
    unit = every / np.linalg.norm(every, axis=1, keepdims=True)
    return np.argsort(-(unit[PAIRS:] @ unit[query]), kind="stable").tolist()


@needs_chromium
def test_another_model_changes_its_half_alone_and_the_shared_documents(desktop):
    page = desktop

    def halves():
        return [page.locator(f'#nearest .half[data-side="{side}"]').inner_text() for side in (0, 1)]

    assert page.locator("#nearest h3").all_inner_texts() == ["reasoning", "grace"]
    left, right = halves()
    numbers = [page.locator(f'.half[data-side="{side}"] .hits > li:not(.gap)') for side in (0, 1)]
    page.locator("#more").click()
    shown = [{one.get_attribute("data-text") for one in rows.all()[:10]} for rows in numbers]
    assert page.locator("#shared").inner_text().startswith(f"{len(shown[0] & shown[1])} of the 10")
    assert numbers[0].locator(".both").count() >= len(shown[0] & shown[1])
    page.locator("#more").click()
    page.select_option('.models select[data-side="1"]', label="base")
    page.wait_for_selector("#nearest h3:text('base')")
    assert halves()[0].replace("in both", "") != halves()[1] and halves()[1] != right
    assert halves()[0].splitlines()[0] == left.splitlines()[0] == "reasoning"
    assert "writes nothing" in halves()[1]
    assert "base" in page.locator('#maps figure[data-side="1"] figcaption').inner_text()
    assert "100 of 120 texts" in page.locator('#maps figure[data-side="1"] figcaption').inner_text()


@needs_chromium
def test_pointing_at_the_map_shows_a_text_and_clicking_chooses_it(page):
    canvas = page.locator("#maps canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    spot = None
    for x in np.linspace(0.2, 0.7, 12):  # until a point is met
        spot = (box["x"] + x * box["width"], box["y"] + box["height"] / 2)
        page.mouse.move(*spot)
        if page.locator("#tip").is_visible():
            break
    words = page.locator("#tip p").last.inner_text()
    assert words and not loose(page)
    page.mouse.click(*spot)
    assert page.locator("#chosen .whole").inner_text()[:20] == words[:20]


@needs_chromium
def test_the_map_is_walked_by_arrows_and_the_legend_filters_it(desktop):
    page = desktop

    def ink():
        return page.evaluate(
            """() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
              const [from, to] = [document.querySelector('#maps canvas'), document.createElement('canvas')];
              [to.width, to.height] = [from.width, from.height];
              const context = to.getContext('2d', { willReadFrequently: true });
              context.drawImage(from, 0, 0);
              const data = context.getImageData(0, 0, to.width, to.height).data;
              done(data.filter((value, at) => at % 4 === 3 && value > 0).length); })))"""
        )

    box = page.locator("#maps .map").first
    box.focus()
    for key in ("ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    assert page.locator("#pointed").inner_text().startswith(("query", "document"))
    words = page.locator("#pointed").evaluate("one => one.textContent").split(": ", 1)[1]
    page.keyboard.press("Enter")
    assert page.locator("#chosen .whole").evaluate("one => one.textContent")[:40] == words[:40]
    full = ink()
    page.locator("#labels button", has_text="red").click()
    assert page.locator("#labels button", has_text="red").get_attribute("aria-pressed") == "false"
    assert 0 < ink() < full
    page.locator("#labels .all").click()
    assert ink() == full
    for _ in range(3):
        page.locator("[data-zoom=in]").first.click()
    assert ink() != full
    page.select_option("#form", "main")
    assert "% of the variance" in page.locator("#maps figcaption").first.inner_text()


@needs_chromium
def test_hostile_and_endless_texts_are_shown_as_they_are_and_do_nothing(page):
    page.fill("#query", "onerror")
    page.keyboard.press("Enter")
    shown = page.locator("#chosen .whole").evaluate("one => one.textContent")
    assert shown == WILD
    page.fill("#query", "very long indeed")
    page.keyboard.press("Enter")
    assert page.locator("#chosen .whole").evaluate("one => one.textContent") == HUGE
    assert page.locator("#chosen").bounding_box()["height"] < 600
    assert page.evaluate("window.hit === undefined") and loose(page) == []


@needs_chromium
def test_the_slider_goes_through_training_and_marks_new_words(page):
    slider = page.locator("#step")
    assert page.locator("#at").inner_text() == "end of training"
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#at").inner_text() == "step 20"
    assert page.locator("#case-said").inner_text() == "<think> first new words </think> end"
    assert page.locator("#case-said mark").all_inner_texts() == ["new"]
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "step 0, the backbone"
    page.locator("#all-steps summary").click()
    assert page.locator("#all-steps dt").count() == 4
    assert loose(page) == []


@needs_chromium
def test_the_page_says_what_it_lacks_and_why(desktop):
    page = desktop
    said = page.locator("#about").inner_text()
    assert "base: 20 of the texts have no embedding in the store" in said
    assert "grace.step-20" not in said and "1 of ablations" in said
    assert "holds no *.safetensors" in said
    first(page).locator("summary").click()
    assert "No sentence's effect was computed" in first(page).inner_text()


@needs_chromium
def test_words_stand_out_from_their_ground_in_light_and_dark(page):
    low = page.evaluate(
        """() => {
          const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
            .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
          const parse = text => text.match(/[\\d.]+/g).map(Number);
          const ground = one => { for (; one; one = one.parentElement) {
            const found = parse(getComputedStyle(one).backgroundColor); if (found[3] !== 0) return found; }
            return [255, 255, 255]; };
          return [...document.querySelectorAll('main *')].filter(one => one.offsetParent && [...one.childNodes].some(
            node => node.nodeType === 3 && node.data.trim())).flatMap(one => {
            const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
            return (a + .05) / (b + .05) < 4.5 ? [one.outerHTML.slice(0, 90)] : []; });
        }"""
    )
    assert low == []


@needs_chromium
def test_five_thousand_texts_load_within_two_seconds(chromium, tmp_path, monkeypatch, tiny_folder):
    # t-SNE of so many takes half a minute; where the points lie makes no difference to the page.
    monkeypatch.setattr(analysis, "_neighbourhoods", lambda found, start: start)
    made = Study(tmp_path, 2500, tiny_folder / "tokenizer.json")
    said = [[(7 * i + j) % 300 + 5 for j in range(120)] + [2] for i in range(5000)]
    for seed, run in enumerate(("reasoning", "grace")):
        made.add(run, vectors(2500, seed), said)
    path = explore.write(tmp_path)
    with opened(chromium, path, 1280, 900) as (page, wrong):
        page.wait_for_selector("html[data-ready]")
        assert int(page.locator("html").get_attribute("data-ready")) <= 2000
        started = time.monotonic()
        page.fill("#query", "number 2431")
        page.keyboard.press("Enter")
        assert page.locator("#chosen .whole").inner_text().endswith("2431")
        assert time.monotonic() - started < 2 and wrong == []
    assert path.stat().st_size < 10e6


def test_the_page_has_no_address_to_load_from(out):
    text = out.read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "<b>green" not in text
    assert [
        part
        for part in ("src=", "@import", "url(", "http://", "https://")
        if part in text.replace("http://www.w3.org/2000/svg", "")
    ] == []


def test_too_many_texts_are_cut_to_whole_pairs_and_said(study, tmp_path):
    path = explore.write(study.root, tmp_path / "page.html", runs=["reasoning"], texts=20, why=0)
    assert "100 of 120 texts are left out" in path.read_text()
    assert (
        explore.write(study.root, tmp_path / "page.html", runs=["reasoning"], texts=20, why=0).read_bytes()
        == path.read_bytes()
    )


def test_nothing_to_show_is_one_sentence(study, tmp_path):
    def refused(match, *arguments, **more):
        with pytest.raises(UserError, match=match) as caught:
            explore.write(*arguments, **more)
        assert str(caught.value).count(". ") == 0

    refused("no such folder", tmp_path / "none")
    refused("no held-out texts", tmp_path)
    refused("did you mean 'grace'", study.root, runs=["grce"])
    refused("no evaluated backbone", study.root, backbone="other")
    refused("at least 2", study.root, texts=1)
    refused("cannot be written", study.root, study.root / "data", runs=["base"], why=0)
    lost = Study(tmp_path / "lost", 5)
    refused("no evaluated model", lost.root)
    lost.add("grace", np.eye(10))
    for path in (lost.root / "store").rglob("*.*"):
        path.unlink()
    refused("holds no embeddings by grace", lost.root)


META = {"study": "<demo>", "models": [], "missing": ["a & <b>"], "cases": None, "no_cases": "none", "shown": [0, 0]}


def test_packed_data_come_back_and_hold_no_markup():
    value = {"texts": ["</script><!-- \ud83e 😀 \u2028 ]]>", "x" * 100_000]}
    made = explore.packed(value)
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", made) and len(made) < 2000
    assert json.loads(gzip.decompress(base64.b64decode(made))) == value
    assert explore.packed(value) == made


def test_only_the_pages_own_script_and_style_may_run():
    page = explore.render(META, {"<i>": "&"}, {"corpus": {}})
    assert "<demo>" not in page and "a & <b>" not in page and "&lt;demo&gt;" in page
    for kind, found in (("script", re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)),
                        ("style", re.search(r"<style>(.*?)</style>", page, re.DOTALL))):  # fmt: skip
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page
    assert not re.search(r"\bstyle=|\bon\w+=", page.split("<script")[0])


@pytest.mark.skipif(shutil.which("node") is None, reason="no node is installed")
def test_the_script_is_whole(tmp_path):
    page = explore.render(META, {}, {"corpus": {}})
    path = tmp_path / "page.mjs"
    path.write_text(re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)[1])
    subprocess.run(["node", "--check", path], check=True)
