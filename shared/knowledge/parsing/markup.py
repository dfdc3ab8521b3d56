"""HTML to Markdown: what a reader of the page sees, without scripts, styles and hidden parts."""

from __future__ import annotations

import re

from shared.errors import DocumentTooComplex, EmptyDocument, NoText
from shared.knowledge.media import Media
from shared.knowledge.parsing.document import (
    ParsedDocument,
    check_output,
    first_title,
    markdown_headings,
    normalise,
)
from shared.knowledge.parsing.limits import ParseLimits
from shared.knowledge.parsing.text import decode

_UNSEEN = (
    "script, style, template, noscript, iframe, object, embed, svg, canvas, head link, head meta, "
    "[hidden], [aria-hidden='true'], input[type='hidden'], [style*='display:none' i], "
    "[style*='display: none' i], [style*='visibility:hidden' i], [style*='visibility: hidden' i]"
)

# Elements that have no content, or whose end tag may be left out (WHATWG HTML, 13.1.2): they do not nest.
_VOID = "area base br col embed hr img input link meta param source track wbr"
_END_TAG_OPTIONAL = (
    "p li dt dd option optgroup tr td th thead tbody tfoot colgroup caption rb rt rtc rp html head body"
)
_FLAT = frozenset(f"{_VOID} {_END_TAG_OPTIONAL}".split())
_TAG = re.compile(r"<(?:(!--)|(/?)([a-zA-Z][^\s/>]*))")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.I)


def read(content: bytes, limits: ParseLimits, media: Media) -> ParsedDocument:
    declared = _META_CHARSET.search(content[:4096])
    html = decode(content, declared[1].decode("ascii") if declared else None)
    title, text = markdown(html, limits)
    if not text:
        if re.search(r"<(?:img|svg|canvas|video|object|script)\b", html, re.I):
            raise NoText("The page has no text of its own.")
        raise EmptyDocument()
    headings = markdown_headings(text)
    return ParsedDocument(text, title or first_title(headings), (), headings, (), media)


def markdown(html: str, limits: ParseLimits) -> tuple[str | None, str]:
    """Return the page's title and its content as normalised Markdown.

    Raises `DocumentTooComplex` before any tree is built for elements nested too deeply: building one takes
    time that grows with the square of the depth.
    """
    from html_to_markdown import ConversionOptions, convert
    from selectolax.lexbor import LexborHTMLParser

    _check_depth(html, limits)
    tree = LexborHTMLParser(_SURROGATE.sub("\ufffd", html).replace("\x00", ""))
    found = tree.css_first("title")
    title = normalise(" ".join(found.text().split())) if found else None
    for node in tree.css(_UNSEEN):
        node.decompose()
    for image in tree.css("img, source, video, audio"):
        for attribute in ("src", "srcset", "poster"):
            if attribute in image.attributes:
                del image.attrs[attribute]
    options = ConversionOptions(
        extract_metadata=False,
        bullets="-",
        compact_tables=True,
        max_depth=2 * limits.nesting_depth,
        infer_dimensions=False,
    )
    text = convert(tree.html or "", options).content or ""
    text = normalise(text).strip("\n").rstrip()
    check_output(len(text), limits)
    return title or None, text


_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_depth(html: str, limits: ParseLimits) -> None:
    opened: dict[str, int] = {}
    depth = position = 0
    while match := _TAG.search(html, position):
        position = match.end()
        comment, closes, name = match[1], match[2], (match[3] or "").lower()
        if comment:
            position = _after(html, "-->", position)
        elif name in ("script", "style") and not closes:
            position = _after(html, f"</{name}", position)
        elif name in _FLAT:
            continue
        elif not closes:
            opened[name] = opened.get(name, 0) + 1
            depth += 1
        elif opened.get(name):
            opened[name] -= 1
            depth -= 1
        if depth > limits.nesting_depth:
            raise DocumentTooComplex("The page's elements are nested too deeply.", limit=limits.nesting_depth)


def _after(html: str, end: str, position: int) -> int:
    found = html.find(end, position)
    return len(html) if found < 0 else found + len(end)
