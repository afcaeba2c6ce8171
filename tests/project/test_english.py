"""Plain English: odd and archaic words that the project's texts never use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AREAS = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "bench", "testbed", "docker", "deploy", "tests", ".ci"),
    *(f"sidecar/{path.parent.name}" for path in sorted((ROOT / "sidecar").glob("*/__init__.py"))),
)
PLAIN = {
    "mend(s|ed|ing)?": "fix, hint",
    "remed(y|ies)": "fix",
    "lest": "so that … not",
    "(there|where)by": "so that",
    "hence": "so",
    "anew": "again; to make anew: to recreate",
    "for want of": "for lack of; because … is missing",
    "nobody but": "only",
    "at hand": "available",
    "(is|are) gone": "no longer exists; was removed",
    "(is|are) let in": "is admitted",
    "taken away": "removed",
    "half[- ]made": "partial, incomplete",
    "half a state": "a partial state",
    "last words": "last output",
    "the way (up|down)": "start-up; shutdown",
    "see to it": "to ensure",
    "in vain": "without effect",
    "whoever": "a client that …, a process that …",
    "of late": "recently",
}
"""Word → what to write instead."""
ODD = re.compile(rf'(?<![`"\w])({"|".join(PLAIN)})(?![`"\w])'.replace(" ", r"[\s#*/]+"), re.IGNORECASE)
"""One of the words, also across lines of a comment; not as code or as a quoted name."""


def texts(area: str) -> list[Path]:
    """Return the text files of an area, except what Python compiles and the build converts."""
    place = ROOT / area
    paths = sorted(place.rglob("*")) if place.is_dir() else [place]
    return [
        path
        for path in paths
        if path.is_file()
        and path != Path(__file__)
        and path.name != "openapi.json"
        and "__pycache__" not in path.parts
        and b"\0" not in path.read_bytes()
    ]


def odd_words(text: str) -> list[tuple[int, str]]:
    """Return line number and text of each odd word."""
    return [(text.count("\n", 0, found.start()) + 1, " ".join(found[0].split())) for found in ODD.finditer(text)]


@pytest.mark.parametrize("area", AREAS)
def test_plain_words(area: str) -> None:
    """No text of the area has an odd word; `PLAIN` has a plain one for each."""
    paths = texts(area)
    assert paths, f"{area} has no text"
    assert [] == [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in paths
        for line, word in odd_words(path.read_text(encoding="utf-8", errors="replace"))
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# it is\n# mended", [(2, "mended")]),
        ("for\n    want of memory", [(1, "for want of")]),
        ("a\n\nNobody  but root", [(3, "Nobody but")]),
        ('recommended, `mend`, "mend"', []),
    ],
)
def test_odd_words(text: str, found: list[tuple[int, str]]) -> None:
    """In any case and across lines; not within another word, and not as a name."""
    assert found == odd_words(text)
