"""Markdown and SVG as parts of a page that runs nothing and loads nothing.

Both may hold text that a model wrote or a data set brought along: HTML, chat markers, links. It is shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
DRAWN = {
    "svg", "g", "defs", "use", "symbol", "clipPath", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon",
    "text", "tspan", "textPath", "title", "desc", "marker", "mask", "pattern", "linearGradient", "radialGradient",
    "stop", "image",
}  # fmt: skip
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


def svg(text: str, name: str) -> Markup:
    """A figure to stand within a page: no scripts, no outside addresses, ids of its own.

    Args:
        text: the content of an svg file.
        name: put before each id.

    Raises:
        ValueError: when it is not SVG.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None
    if root.tag != f"{{{SVG}}}svg":
        raise ValueError("its root is not <svg>")
    _clean(root)
    for one in root.iter():
        for key, value in list(one.attrib.items()):
            one.attrib[key] = _attribute(key, value, name)
    if "viewBox" not in root.attrib and {"width", "height"} <= root.attrib.keys():
        size = [re.sub(r"[a-z]+$", "", root.attrib[key]) for key in ("width", "height")]
        root.attrib["viewBox"] = f"0 0 {size[0]} {size[1]}"
    # What matplotlib says of every element, in a style sheet that would reach the whole page.
    root.attrib["style"] = "stroke-linejoin: round; stroke-linecap: butt"
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _clean(node: ElementTree.Element) -> None:
    for child in list(node):
        space, _, tag = str(child.tag).rpartition("}")
        if space != f"{{{SVG}" or tag not in DRAWN:
            node.remove(child)
        else:
            _clean(child)
    for key, value in list(node.attrib.items()):
        local = key.rpartition("}")[2].lower()
        outside = local == "href" and not value.startswith(("#", "data:image/"))
        if local.startswith("on") or outside or re.search(r"url\(\s*['\"]?(?!#)", value):
            del node.attrib[key]


def _attribute(key: str, value: str, name: str) -> str:
    local = key.rpartition("}")[2]
    if local == "id":
        return f"{name}-{value}"
    if local == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return re.sub(r"url\(#", f"url(#{name}-", value)
