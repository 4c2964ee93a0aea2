"""What a text may bring into the page, and what not."""

from grace.report.page import markup


def test_markdown_keeps_html_links_and_images_as_text():
    text = markup.html(
        "<b>x</b> ![i](http://example.org/i.png) [l](http://example.org) <http://example.org>\n\n| a |\n|---|\n| *b* |"
    )
    assert "<b>" not in text and "<img" not in text and "<a " not in text and "&lt;b&gt;" in text
    assert '<div class="scroll"' in text and "<td><em>b</em></td>" in text
