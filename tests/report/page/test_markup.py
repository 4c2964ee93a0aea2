"""What a figure or a text may bring into the page, and what not."""

import pytest

from grace.report.page import markup

SVG = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
 width="72pt" height="36pt" onload="alert(1)">
 <metadata><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style>
 <clipPath id="p1"><rect width="1" height="1"/></clipPath></defs>
 <script>alert(1)</script>
 <foreignObject><body xmlns="http://www.w3.org/1999/xhtml"><img src="http://example.org/x.png"/></body></foreignObject>
 <g id="figure_1" clip-path="url(#p1)"><use xlink:href="#p1" style="fill: url(#p1)"/><text>base &lt; grace</text>
 <image xlink:href="http://example.org/x.png" width="1"/><image href="data:image/png;base64,AA==" width="2"/></g>
</svg>"""


def test_a_figure_keeps_its_drawing_and_its_ids_become_its_own():
    text = markup.svg(SVG, "figure1")
    assert text.startswith("<svg") and 'viewBox="0 0 72 36"' in text
    assert 'id="figure1-p1"' in text and 'clip-path="url(#figure1-p1)"' in text and "fill: url(#figure1-p1)" in text
    assert 'href="#figure1-p1"' in text and "base &lt; grace" in text and 'href="data:image/png;base64,AA=="' in text


@pytest.mark.parametrize(
    "unwanted", ["script", "alert", "foreignObject", "example.org", "onload", "metadata", "<style"]
)
def test_a_figure_runs_and_loads_nothing(unwanted):
    assert unwanted in SVG and unwanted not in markup.svg(SVG, "figure1")


@pytest.mark.parametrize("text", ["", "<svg", "<html xmlns='http://www.w3.org/1999/xhtml'/>"])
def test_what_is_no_figure_is_refused(text):
    with pytest.raises(ValueError):
        markup.svg(text, "figure1")


def test_markdown_keeps_html_links_and_images_as_text():
    text = markup.html(
        "<b>x</b> ![i](http://example.org/i.png) [l](http://example.org) <http://example.org>\n\n| a |\n|---|\n| *b* |"
    )
    assert "<b>" not in text and "<img" not in text and "<a " not in text and "&lt;b&gt;" in text
    assert '<div class="scroll"' in text and "<td><em>b</em></td>" in text
