"""`sidecar.cli.fit`: lines that fit into a terminal, in any alphabet."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli.fit import Line, cells, fit


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abcde", 5),
        ("日本語", 6),
        ("\uff46\uff55\uff4c\uff4c", 8),
        ("e\u0301e\u0301", 2),
        (unicodedata.normalize("NFD", "한글"), 4),
        ("\x1b[1;31mab\x1b[0mc", 3),
        ("", 0),
    ],
    ids=["ascii", "wide", "full width", "combining", "a syllable of parts", "colours", "nothing"],
)
def test_cells(text: str, width: int) -> None:
    """Wide characters take two cells, combining characters and colours none."""
    assert width == cells(text)


@pytest.mark.parametrize(
    ("line", "fitted"),
    [
        ("  a: one two", ["  a: one two"]),
        ("  a: one two three four", ["  a: one two", "    three four"]),
        ("abcdefghijklmnopqrst", ["abcdefghijklmn", "  opqrst"]),
        ("  日本語日本語日本語", ["  日本語日本語", "    日本語"]),
        ("x 日本語日本語日", ["x", "  日本語日本語", "  日"]),
        ("e\u0301" * 15, ["e\u0301" * 14, "  e\u0301"]),
        (Line("ready: since noon today", "ready: noon", "ready"), ["ready: noon"]),
        (Line("a long one, and more", "a long one, and"), ["a long one,", "  and"]),
    ],
    ids=["fits", "words", "a long word", "wide", "wide after a word", "combining", "a shorter form", "none is short"],
)
def test_a_line_of_fourteen_cells(line: str, fitted: list[str]) -> None:
    """It is broken between words where possible; continued lines are indented."""
    assert fitted == fit(line, 14)


@given(st.text(st.sampled_from("ab 語한\u0301\u1161\uff21-"), max_size=80), st.integers(2, 60))
def test_nothing_is_lost_and_nothing_is_wider(text: str, columns: int) -> None:
    """Except the spaces where a line is broken."""
    fitted = fit(text, columns)
    assert all(cells(line) <= columns for line in fitted)
    assert text.replace(" ", "") == "".join(fitted).replace(" ", "")
    assert all(line.strip(" ") for line in fitted[1:])
