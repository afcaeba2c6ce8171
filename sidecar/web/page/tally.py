"""What an owner asks, as a section of the page: how much there is, how much it is used, how much room is left."""

from __future__ import annotations

from datetime import datetime

from sidecar.core import text
from sidecar.features.health.checks.disk import Space
from sidecar.features.numbers.amounts import Contents, Numbers, Served
from sidecar.storage.usage import Used
from sidecar.web.page import words

_UNKNOWN = '<span class="none">not known</span>'


def tally(of: Numbers, at: datetime) -> str:
    """The section, at the time `at`; empty while devpi-server does not run."""
    if of.served is None and of.space is None and of.contents is None:
        return ""
    cells = [*_contents(of.contents, of.used), *_served(of.served, at), _space(of.space)]
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{number}{f' <small>{more}</small>' if more else ''}</dd></div>"
        for name, number, more in cells
    )
    return f'<h2 class="hidden">Numbers</h2><dl class="numbers">{shown}</dl>'


def _contents(of: Contents | None, used: Used | None) -> list[tuple[str, str, str]]:
    """Name, number, and what there is to add."""
    projects, stages, mirrors, users = (of.projects, of.stages, of.mirrors, of.users) if of else (None,) * 4
    beside = f"and {mirrors:,} mirror{'' if mirrors == 1 else 's'}" if mirrors else ""
    return [
        ("Packages", _number(projects), "" if used is None else f"{text.size(used.bytes)} on disk"),
        ("Indexes", _number(stages), beside),
        ("Users", _number(users), ""),
    ]


def _number(number: int | None) -> str:
    return _UNKNOWN if number is None else f"{number:,}"


def _served(of: Served | None, at: datetime) -> list[tuple[str, str, str]]:
    if of is None:
        return [("Requests", _UNKNOWN, ""), ("Uploads", _UNKNOWN, "")]
    pace = "" if of.per_second is None else f", now {_pace(of.per_second)}"
    last = "since the start"
    if of.last_upload is not None:
        last = f"last one {words.ago(of.last_upload, abs((at - of.last_upload).total_seconds()))}"
    return [("Requests", f"{of.requests:,}", f"since the start{pace}"), ("Uploads", f"{of.uploads:,}", last)]


def _pace(per_second: float) -> str:
    """So that it is a number that can be imagined."""
    if per_second < 1:
        return f"{60 * per_second:.0f}/min"
    return f"{per_second:,.{0 if per_second >= 10 else 1}f}/s"


def _space(of: Space | None) -> tuple[str, str, str]:
    if of is None:
        return "Free", _UNKNOWN, ""
    percent = f"{100 * of.free / of.size:.0f} %" if of.size else ""
    return "Free", percent or text.size(of.free), f"{text.size(of.free)} of {text.size(of.size)}"
