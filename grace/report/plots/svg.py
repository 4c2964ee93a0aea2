"""SVG that stands alone and within a page: text as text, ids of its own, nothing from outside."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def render(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an <svg> element, the same for the same figure.

    Args:
        name: put before each id, so that several figures can stand in one page.
        title, description: what a reader who does not see it is told.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    root = ElementTree.fromstring(buffer.getvalue().encode())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    # The style sheet of matplotlib holds for every element, so it would reach the whole page.
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt; max-width: 100%; height: auto")
    _own_ids(root, name)
    root.set("role", "img")
    root.set("aria-label", title)
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        child = ElementTree.Element(f"{{{SVG}}}{tag}")
        child.text, child.tail = text, "\n "
        root.insert(place, child)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _own_ids(root: ElementTree.Element, name: str) -> None:
    prefix = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    for node in root.iter():
        for key, value in list(node.attrib.items()):
            if key == "id":
                node.set(key, f"{prefix}-{value}")
            elif key.rpartition("}")[2] == "href" and value.startswith("#"):
                node.set(key, f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                node.set(key, value.replace("url(#", f"url(#{prefix}-"))
