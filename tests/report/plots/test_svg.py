"""SVG that stands in a page."""

from __future__ import annotations

from xml.etree import ElementTree

import matplotlib
import pytest

from grace.report.plots import style, svg


def drawn(salt: str = "a"):
    with matplotlib.rc_context({**style.RC, "svg.hashsalt": salt}):
        figure, [[axes]] = style.canvas(2)
        axes.plot([0, 1], [0, 1], "o-", label="A & B <c>")
        axes.bar([0], [1], hatch="//")
        axes.set_xlabel("λ₁ of $x$")
        style.legend(figure, axes.lines)
        return svg.render(figure, "figure3", 'A "title"', "Said of it.")


def test_text_is_text_and_a_reader_is_told_what_it_is():
    root = ElementTree.fromstring(drawn())
    text = "".join(root.itertext())
    assert "λ₁ of $x$" in text and "A & B <c>" in text
    assert [child.tag.rpartition("}")[2] for child in root][:2] == ["title", "desc"]
    assert (root[0].text, root[1].text, root.get("aria-label")) == ('A "title"', "Said of it.", 'A "title"')


def test_ids_are_its_own_and_every_reference_is_met():
    text = drawn()
    root = ElementTree.fromstring(text)
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids)) and all(one.startswith("figure3-") for one in ids)
    used = [value[1:] for node in root.iter() for key, value in node.items() if key.endswith("href")]
    used += [value[5:-1] for node in root.iter() for value in node.attrib.values() if value.startswith("url(#")]
    assert used and set(used) <= set(ids)


@pytest.mark.parametrize("outside", ["http://", "https://", "<style", "<metadata", "<!DOCTYPE", "<?xml"])
def test_nothing_reaches_outside_of_it(outside):
    names = {f'"{name}"' for name in (svg.SVG, svg.XLINK)}
    text = drawn()
    for name in names:
        text = text.replace(name, "")
    assert outside not in text


def test_it_is_the_same_each_time():
    assert drawn() == drawn()
