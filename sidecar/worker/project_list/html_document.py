"""The names in the HTML of PEP 503, in bounded memory: the links that devpi's `ProjectHTMLParser` takes.

The usual form of a link is read by an expression, anything else by the standard library's parser, which takes ten times
as long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser

from sidecar.worker.project_list.names import NotAList, normalize

LARGEST = 2**16
"""Characters of one tag, comment or link."""

_LINK = re.compile(r'\s*<a href="([^"<>&]*)">([^<>&]*)</a>(?:\s*<br\s*/?>)?')


def names(pieces: Iterator[str], base: str, *, delimited: bool) -> Iterator[list[object]]:
    """Return what is in the place of the names, in batches; None: a link whose text is not what it links to.

    `base` is the URL of the list. If the document is not delimited, its body or `html` must end. Raises NotAList.
    """
    document = _Parser()
    is_below = _below(base)
    rest = ""
    for piece in pieces:
        links, rest = _links(document, rest + piece)
        yield [_name(href, text) for href, text in links if _is_taken(href, text, is_below)]
    document.read(rest)
    links = document.taken()
    yield [_name(href, text) for href, text in links if _is_taken(href, text, is_below)]
    if document.is_inside or not (delimited or document.has_ended):
        raise NotAList("it is cut off", "cut")


def _links(document: _Parser, text: str) -> tuple[list[tuple[str, str]], str]:
    """Return the links in `text`, and its rest, which is incomplete."""
    links: list[tuple[str, str]] = []
    at = 0
    while True:
        if not document.is_inside:
            for match in _LINK.finditer(text, at):
                if match.start() != at:
                    break
                links.append((match[1], match[2]))
                at = match.end()
        end = text.find("</a>", at)
        if not document.is_inside and end < 0 and len(text) - at < LARGEST and text.find("<a ", at) >= 0:
            return links, text[at:]  # the next link may be complete with the next piece
        end = text.find(">", at) + 1
        if not end:
            if len(text) - at >= LARGEST:
                document.read(text[at:])
                return links, ""
            return links, text[at:]
        document.read(text[at:end])
        links += document.taken()
        at = end


def _is_taken(href: str, text: str, is_below: Callable[[str], bool]) -> bool:
    return bool(href.rstrip("/") and text.strip()) and ("://" not in href or is_below(href))


def _name(href: str, text: str) -> str | None:
    """Return a link's name. A page for people (a login) has links with other texts."""
    name = text.strip().removesuffix("/")
    path = href.rstrip("/").rpartition("/")[2]
    return name if path == name or normalize(path) == normalize(name) else None


def _below(base: str) -> Callable[[str], bool]:
    def is_below(href: str) -> bool:
        from urllib.parse import urlsplit

        try:
            ours, theirs = urlsplit(base), urlsplit(href)
        except ValueError:
            return False
        same_host = theirs.scheme in {"http", "https"} and theirs.hostname == ours.hostname
        return same_host and theirs.path.startswith(ours.path)

    return is_below


class _Parser(HTMLParser):
    """Links: the `href`, and the last text before the end."""

    def __init__(self) -> None:
        super().__init__()
        self._href: str | None = None
        self._text = ""
        self._taken: list[tuple[str, str]] = []
        self.has_ended = False
        """Whether the end tag of the body or the document was read."""

    def read(self, text: str) -> None:
        try:
            self.feed(text)
        except (AssertionError, ValueError):  # "unknown status keyword"
            raise NotAList("it is not valid HTML") from None
        if len(self.rawdata) + len(self._text) > LARGEST:
            raise NotAList(f"a tag, comment or link in it has more than {LARGEST} characters")

    @property
    def is_inside(self) -> bool:
        """Whether a tag, comment, script or link has begun and not ended."""
        return bool(self.rawdata) or self.cdata_elem is not None or self._href is not None

    def taken(self) -> list[tuple[str, str]]:
        taken, self._taken = self._taken, []
        return taken

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._href = dict(attrs).get("href")
        self._text = ""

    def handle_data(self, data: str) -> None:
        if self._href is not None:
            self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in {"body", "html"}:
            self.has_ended = True
        if tag == "a" and self._href is not None:
            self._taken.append((self._href, self._text))
            self._href = None
            self._text = ""
