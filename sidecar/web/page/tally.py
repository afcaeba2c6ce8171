"""The numbers as a section of the page: how much there is, how much it is used, how much space is left."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime
from typing import NamedTuple

from sidecar.core import text
from sidecar.features.health.checks.disk import Space
from sidecar.features.numbers.amounts import Contents, Numbers, Served
from sidecar.storage.usage import Used
from sidecar.web.page import words


class Cell(NamedTuple):
    """One number."""

    name: str
    number: str | None
    """None: not known."""
    more: str = ""
    at: datetime | None = None
    """A time at which `more` ends."""


def tally(of: Numbers, at: datetime) -> dict[str, Hashable]:
    """Return the section's values at the time `at`; nothing while devpi-server does not run."""
    if of.served is None and of.space is None and of.contents is None:
        return {}
    return {"cells": (*_contents(of.contents, of.used), *_served(of.served), _space(of.space)), "at": at}


def _contents(of: Contents | None, used: Used | None) -> list[Cell]:
    projects, stages, mirrors, users = (of.projects, of.stages, of.mirrors, of.users) if of else (None,) * 4
    beside = f"and {mirrors:,} mirror{'' if mirrors == 1 else 's'}" if mirrors else ""
    return [
        Cell("Packages", _number(projects), "" if used is None else f"{text.size(used.bytes)} on disk"),
        Cell("Indexes", _number(stages), beside),
        Cell("Users", _number(users)),
    ]


def _number(of: int | None) -> str | None:
    return None if of is None else words.number(of)


def _served(of: Served | None) -> list[Cell]:
    if of is None:
        return [Cell("Requests", None), Cell("Uploads", None)]
    pace = "" if of.per_second is None else f", now {_pace(of.per_second)}"
    last = "since the start" if of.last_upload is None else "last one"
    return [
        Cell("Requests", f"{of.requests:,}", f"since the start{pace}"),
        Cell("Uploads", f"{of.uploads:,}", last, of.last_upload),
    ]


def _pace(per_second: float) -> str:
    """Return a rate per second, or per minute if it is below 1 per second."""
    if per_second < 1:
        return f"{60 * per_second:.0f}/min"
    return f"{per_second:,.{0 if per_second >= 10 else 1}f}/s"


def _space(of: Space | None) -> Cell:
    if of is None:
        return Cell("Free", None)
    percent = f"{100 * of.free / of.size:.0f} %" if of.size else text.size(of.free)
    return Cell("Free", percent, f"{text.size(of.free)} of {text.size(of.size)}")
