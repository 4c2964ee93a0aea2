"""Markdown as a part of a page that runs nothing and loads nothing.

It may hold text that a model wrote or a data set brought along: HTML, chat markers, links. It is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

# Images, links and raw HTML stay text: none of ours has any.
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])


def inline(text: str) -> Markup:
    """A sentence of Markdown."""
    return Markup(MARKDOWN.renderInline(text))


def html(text: str) -> Markup:
    """Markdown as HTML, tables as they come."""
    return Markup("".join(f'<div class="scroll">{part}</div>' if "<table>" in part else part for part in _parts(text)))


def _parts(text: str) -> Iterator[str]:
    for tokens in _top(MARKDOWN.parse(text)):
        yield MARKDOWN.renderer.render(tokens, MARKDOWN.options, {})


def _top(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Tokens of one block of the text at a time."""
    block: list[Token] = []
    for token in tokens:
        block.append(token)
        if token.level == 0 and token.nesting <= 0:
            yield block
            block = []
