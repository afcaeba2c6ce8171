"""Fit lines into a terminal: drop the least important parts first, then wrap the rest between words, indented.

The standard library knows a character's width well enough. wcwidth is better only for sequences of emoji, which our
lines hardly contain: not worth a dependency.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_COLOR = re.compile("\x1b\\[[0-9;]*m")
_PIECE = re.compile("\x1b\\[[0-9;]*m|.", re.DOTALL)
_HANGING = 2
"""The extra indent of a continued line."""
_LEAST = 10
"""Minimum cells for words: in a narrower terminal, indents shrink."""


class Line(str):
    """A line with shorter forms for narrow terminals, the longest first. The last one is wrapped."""

    shorter: tuple[str, ...]

    def __new__(cls, text: str, *shorter: str) -> Line:
        """`shorter` may be empty."""
        line = super().__new__(cls, text)
        line.shorter = shorter
        return line


def cells(text: str) -> int:
    """Return the width in cells: colours and combining characters take none, East Asian wide characters two."""
    text = _COLOR.sub("", text)
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me") or "\u1160" <= character <= "\u11ff":  # vowels within a syllable
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(line: str, columns: int) -> list[str]:
    """Split the line, or a shorter form, into lines of at most `columns` cells; nothing is cut off."""
    forms = [line, *(line.shorter if isinstance(line, Line) else ())]
    for form in forms:
        if cells(form) <= columns:
            return [str(form)]
    return list(_wrapped(forms[-1], columns))


def _wrapped(line: str, columns: int) -> Iterator[str]:
    words, most = line.lstrip(" "), max(0, columns - _LEAST)
    begin = len(line) - len(words)
    indent = " " * min(begin + _HANGING, most)
    made, used, empty = " " * min(begin, most), min(begin, most), True
    for found in re.findall(" *[^ ]+", words):
        word: str = found
        if not empty and used + cells(word) > columns:
            yield made
            made, used, empty = indent, len(indent), True
        if empty:
            word = word.lstrip(" ")
        while used + cells(word) > columns:  # a word longer than a line continues in the next one
            part, word = _split(word, max(1, columns - used))
            yield made + part
            made, used = indent, len(indent)
        made, used, empty = made + word, used + cells(word), False
    yield made


def _split(word: str, room: int) -> tuple[str, str]:
    """Split off as much of the word as fits: at least one character with its combining characters."""
    used = end = 0
    for piece in _PIECE.finditer(word):
        width = cells(piece[0])
        if end and width and used + width > room:
            break
        used, end = used + width, piece.end()
    return word[:end], word[end:]
