"""The names in the JSON of PEP 691, in bounded memory.

The standard library's C parser gets pieces of some 60 KB: one element of `projects`, or as many as are in memory. A
streaming parser takes longer (ijson 3.6 with YAJL: 1.05 CPU-s for 650,000 names, this 0.7), and has no bounds: ijson
needs 4 GB for a million `[`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from sidecar.worker.project_list.names import NotAList, shown

LARGEST = 2**18
"""Characters of one element of `projects`, or of another value: PyPI's have 60."""

_decode = json.JSONDecoder().raw_decode
_spaces = re.compile(r"[ \t\n\r]*").match


def names(pieces: Iterator[str]) -> Iterator[list[object]]:
    """Return what is in the place of the names, in batches. Raises NotAList."""
    return _Document(pieces).names()


class _Document:
    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._text = ""
        self._at = 0
        self._whole_tried = False

    def names(self) -> Iterator[list[object]]:
        self._take("{")
        seen: set[str] = set()
        separator = "," if self._peek() != "}" else self._take("}")
        while separator == ",":
            self._peek()
            key = self._value()
            if not isinstance(key, str) or key in seen or len(seen) == 100:
                raise NotAList("its keys are not those of a list of projects")
            seen.add(key)
            self._take(":")
            self._peek()
            if key == "projects":
                yield from self._projects()
            elif key == "meta":
                _check_version(self._value())
            else:
                self._value()
            separator = self._take(",}")
        if self._peek():
            raise NotAList("there is more after its end")
        if "projects" not in seen:
            raise NotAList("it is not a list of projects: `projects` is missing")

    def _projects(self) -> Iterator[list[object]]:
        self._take("[")
        if self._peek() == "]":
            self._take("]")
            return
        while True:
            self._peek()
            elements = self._all_here() or [self._value()]
            try:
                yield [element["name"] for element in elements]  # type: ignore[index]
            except (KeyError, TypeError, IndexError):
                yield [element.get("name") if isinstance(element, dict) else None for element in elements]
            if self._take(",]") == "]":
                return

    def _all_here(self) -> list[object] | None:
        """Return the complete elements in memory, if the last `}` is an element's end."""
        if self._whole_tried:
            return None
        self._whole_tried = True
        end = self._text.rfind("}", self._at) + 1
        try:
            elements: list[object] = json.loads(f"[{self._text[self._at : end]}]")
        except (ValueError, RecursionError):
            return None
        if elements:
            self._at = end
        return elements

    def _value(self) -> object:
        """Return the value that begins here."""
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except RecursionError:
                raise NotAList("it is nested too deeply") from None
            except ValueError:
                if self._more():
                    continue
                raise NotAList("it is cut off, or not valid JSON", "cut") from None
            if end == len(self._text) and not isinstance(value, (dict, list, str)) and self._more():
                continue  # a number may go on
            self._at = end
            return value

    def _peek(self) -> str:
        """Skip white space. Return the next character, or nothing at the end."""
        while True:
            self._at = _spaces(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _take(self, characters: str) -> str:
        """Skip white space and one of `characters`. Return it."""
        found = self._peek()
        if not found:
            raise NotAList("it is cut off", "cut")
        if found not in characters:
            raise NotAList(f"it is not valid JSON: {shown(found)} is in the place of {characters!r}")
        self._at += 1
        return found

    def _more(self) -> bool:
        if len(self._text) - self._at > LARGEST:
            raise NotAList(f"it is not valid JSON, or a value in it has more than {LARGEST} characters")
        if (piece := next(self._pieces, None)) is None:
            return False
        self._text = self._text[self._at :] + piece
        self._at = 0
        self._whole_tried = False
        return True


def _check_version(meta: object) -> None:
    if not isinstance(meta, dict):
        raise NotAList("its `meta` is not an object")
    version = meta.get("api-version", "1.0")
    if not isinstance(version, str) or version.split(".")[0] != "1":
        raise NotAList(f"its api-version is {shown(version)}; only 1 is supported")
