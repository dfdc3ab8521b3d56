"""PDF: text by page with the lines of a paragraph joined, and headings from the outline."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from shared.errors import CorruptDocument, DocumentError, DocumentTooComplex, NoText, PasswordProtected
from shared.knowledge.media import Media
from shared.knowledge.parsing.document import Heading, Page, ParsedDocument, TextBuilder, normalise
from shared.knowledge.parsing.limits import ParseLimits

# fpdfview.h, FPDF_GetLastError
_ERROR_PASSWORD, _ERROR_SECURITY = 4, 5

# An outline of more entries than this is machine-made; each entry costs a search of its page.
_OUTLINE_ENTRIES = 5_000

_LINEARISED = re.compile(rb"/Linearized\b[^>]{0,300}?/L\s+(\d{1,12})")


def read(content: bytes, limits: ParseLimits, media: Media) -> ParsedDocument:
    import pypdfium2

    _check_complete(content)
    try:
        pdf = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        raise _failure(getattr(error, "err_code", None)) from None
    try:
        return _read(pdf, limits)
    finally:
        pdf.close()


def _check_complete(content: bytes) -> None:
    """Refuse a file that was cut off: the reader would repair it silently and leave pages out."""
    if b"%%EOF" not in content:
        raise CorruptDocument("The PDF is cut off: it has no end mark.")
    linearised = _LINEARISED.search(content[:2048])
    if linearised and int(linearised[1]) > len(content):
        raise CorruptDocument("The PDF is cut off: it is shorter than it says.")


def _failure(code: int | None) -> DocumentError:
    if code in (_ERROR_PASSWORD, _ERROR_SECURITY):
        return PasswordProtected()
    return CorruptDocument("The PDF's structure cannot be read.")


def _read(pdf: Any, limits: ParseLimits) -> ParsedDocument:
    count = len(pdf)
    if count == 0:
        raise CorruptDocument("The PDF has no pages.")
    if count > limits.pages:
        raise DocumentTooComplex("The document has too many pages.", limit=limits.pages)
    builder = TextBuilder(limits)
    pages, without_text, unreadable = [], [], 0
    for index in range(count):
        raw = _page_text(pdf, index)
        unreadable += raw is None
        start, end = builder.add(_paragraphs(raw or ""))
        pages.append(Page(index + 1, start, end))
        if start == end:
            without_text.append(index + 1)
    if len(without_text) == count:
        if unreadable == count:
            raise CorruptDocument("None of the PDF's pages can be read.")
        raise NoText(pages=count)
    text = builder.text()
    title = normalise(" ".join(pdf.get_metadata_value("Title").split())) or None
    headings = tuple(sorted(_outline(pdf, text, pages), key=lambda heading: heading.start))
    return ParsedDocument(text, title, tuple(pages), headings, tuple(without_text), Media.PDF)


def _page_text(pdf: Any, index: int) -> str | None:
    import pypdfium2

    try:
        page = pdf[index]
        text_page = page.get_textpage()
    except pypdfium2.PdfiumError:
        return None
    try:
        text = text_page.get_text_range()
        return _right_to_left(text_page) if _RIGHT_TO_LEFT.search(text) else text
    finally:
        text_page.close()
        page.close()


_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")


def _right_to_left(text_page: Any) -> str:
    """The page's text with the letters of right-to-left words in the order they are read.

    PDFium leaves some such words in the order they are drawn, and reverses the letters of a glyph that
    stands for a whole word. Either way the letters' boxes tell: those of a word that reads right run to the
    left.
    """
    from pypdfium2.raw import FPDFText_GetUnicode

    text: list[str] = []
    word: list[tuple[str, float]] = []
    for index in range(text_page.count_chars()):
        letter = chr(FPDFText_GetUnicode(text_page, index))
        if _RIGHT_TO_LEFT.match(letter):
            left, _, right, _ = text_page.get_charbox(index)
            word.append((letter, left + right))
            continue
        text += _as_read(word)
        text.append(letter)
        word = []
    return "".join(text + _as_read(word))


def _as_read(word: list[tuple[str, float]]) -> list[str]:
    places = [place for _, place in word]
    leftward = sum(after < before for before, after in pairwise(places))
    rightward = sum(after > before for before, after in pairwise(places))
    letters = [letter for letter, _ in word]
    return letters if leftward > rightward else letters[::-1]


# Typographic forms of letters: Latin ligatures, and Arabic letters by their position in a word.
_FORMS = re.compile("[\ufb00-\ufb06\ufb50-\ufdff\ufe70-\ufefc]+")
_LIST_ITEM = re.compile(r"(?:[-*•‣▪◦·–—]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s")

# A line at least this long, relative to the page's long lines, was broken by the margin, not by its writer.
_FULL_LINE_SHARE = 0.75
_FULL_LINE_CHARS = 30


def _paragraphs(raw: str) -> str:
    """Join the lines that the margin broke, and the words that were hyphenated there."""
    text = normalise(raw.replace("\ufffe", ""))  # PDFium's mark for a hyphen at a line's end
    text = _FORMS.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    lines = [" ".join(line.split()) for line in text.split("\n")]
    lines = [line for line in lines if line]
    lengths = sorted(map(len, lines))
    full = max(_FULL_LINE_CHARS, _FULL_LINE_SHARE * lengths[len(lengths) * 9 // 10]) if lengths else 0
    joined: list[str] = []
    previous = ""
    for line in lines:
        if previous and _continues(previous, line, full):
            joined[-1] += f" {line}"
        else:
            joined.append(line)
        previous = line
    return "\n".join(joined)


def _continues(previous: str, line: str, full: float) -> bool:
    if _LIST_ITEM.match(line):
        return False
    if line[0].islower():
        return len(previous) >= full / 2
    return len(previous) >= full and previous[-1] not in ".:!?"


def _outline(pdf: Any, text: str, pages: list[Page]) -> Iterator[Heading]:
    """Yield the outline's entries at the place of their title on their page, else at the page's start."""
    import pypdfium2

    try:
        for number, entry in enumerate(pdf.get_toc(max_depth=6)):
            if number >= _OUTLINE_ENTRIES:
                return
            title = normalise(" ".join(entry.get_title().split()))
            target = entry.get_dest()
            index = target.get_index() if target is not None else None
            if not title or index is None or not 0 <= index < len(pages):
                continue
            page = pages[index]
            if page.start < page.end:
                yield Heading(entry.level + 1, title, _find(title, text, page))
    except pypdfium2.PdfiumError:
        return


def _find(title: str, text: str, page: Page) -> int:
    pattern = r"\s+".join(map(re.escape, title[:200].split()))
    match = re.compile(pattern, re.I).search(text, page.start, page.end)
    return match.start() if match else page.start
