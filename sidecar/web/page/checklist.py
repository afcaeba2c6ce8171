"""The checks as a section of the page: one line while all pass, open if one warns or fails."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from sidecar.core import text
from sidecar.core.check import NOT_RUNNING, NOT_YET, PASS, PENDING, Check
from sidecar.core.history import CheckHistory
from sidecar.web.page.sparkline import Drawing, draw


class Row(NamedTuple):
    """One check."""

    check: Check
    value: str
    seen: bool
    """Whether it was looked at."""
    explain: bool
    """Whether reason and hint are shown: not of `process`, whose are in the headline."""
    drawing: Drawing | None


def checklist(checks: tuple[Check, ...], histories: tuple[CheckHistory, ...]) -> dict[str, Hashable]:
    """Return the section's values; nothing before the first look, which the headline explains."""
    if all(check.status is PENDING for check in checks if check.name != "process"):
        return {}
    name, heading = _summary(checks)
    return {"name": name, "heading": heading, "rows": tuple(map(_row, checks, histories))}


def _summary(checks: tuple[Check, ...]) -> tuple[str, str]:
    passing = sum(check.status is PASS for check in checks)
    if passing == len(checks):
        return "all", f"All {passing} checks pass"
    if any(check.reason == NOT_RUNNING for check in checks):
        return "none", f"No checks run: {NOT_RUNNING}"
    if all(check.status in (PASS, PENDING) for check in checks):
        return "most", f"{passing} of {len(checks)} checks pass, the others are pending"
    return "some", f"{passing} of {len(checks)} checks pass"


def _row(check: Check, history: CheckHistory) -> Row:
    value = text.value(check.value, check.unit) + (" free" if check.unit == "bytes" else "")
    seen = check.reason not in (NOT_YET, NOT_RUNNING)
    trouble = seen and check.status is not PASS and check.reason is not None and check.name != "process"
    return Row(check, value, seen, trouble, draw(history))
