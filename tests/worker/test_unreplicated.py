"""`sidecar.worker.unreplicated`: devpi's record of files that it could not replicate is JSON, complete, and bounded."""

from __future__ import annotations

import json
from types import SimpleNamespace

import httpx

from sidecar.devpi.protocol import UNREPLICATED
from sidecar.worker.unreplicated import Unreplicated


def error(path: str) -> dict[str, object]:
    """Return an error as devpi adds it: the URL of an answer is an object."""
    return {"url": httpx.URL(f"http://primary.example/{path}"), "message": "Not Found", "relpath": path}


def test_it_is_json() -> None:
    """`+status` contains it."""
    errors = Unreplicated()
    errors.add(error("root/dev/+f/a"))
    said = json.loads(json.dumps(errors.errors))
    assert said == {
        "root/dev/+f/a": {
            "url": "http://primary.example/root/dev/+f/a",
            "message": "Not Found",
            "relpath": "root/dev/+f/a",
        }
    }


def test_none_is_forgotten_that_is_not_reported() -> None:
    """When all reported files are fetched at last, the others are reported."""
    errors = Unreplicated()
    for number in range(UNREPLICATED + 3):
        errors.add(error(f"{number:04}"))
    first = errors.errors
    assert len(first) == UNREPLICATED
    for path in first:
        errors.remove(SimpleNamespace(relpath=path))
    assert [f"{number:04}" for number in range(UNREPLICATED, UNREPLICATED + 3)] == list(errors.errors)


def test_a_report_is_a_copy() -> None:
    """devpi's threads change it while `+status` reads it."""
    errors = Unreplicated()
    errors.add(error("a"))
    for _ in errors.errors:
        errors.add(error("b"))
    assert ["a", "b"] == list(errors.errors)
