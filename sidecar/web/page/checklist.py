"""The checks as a section of the page: one line while all pass, else each with what it means."""

from __future__ import annotations

from sidecar.core import text
from sidecar.core.check import NOT_RUNNING, NOT_YET, PASS, PENDING, Check
from sidecar.core.history import CheckHistory
from sidecar.web.page import words
from sidecar.web.page.headline import trouble
from sidecar.web.page.sparkline import sparkline


def checklist(checks: tuple[Check, ...], histories: tuple[CheckHistory, ...]) -> str:
    """The section; empty while there is nothing to look at yet, which the headline explains."""
    if all(check.status is PENDING for check in checks if check.name != "process"):
        return ""
    rows = "".join(_check(check, history) for check, history in zip(checks, histories, strict=True))
    # several ids: what a person has opened or closed stays so until the state is another one
    name, opened, heading = _summary(checks)
    summary = f'<summary id="checks-{name}-title"><h2>{heading}</h2></summary>'
    return (
        f'<details id="checks-{name}" class="fold"{opened}>{summary}'
        '<table class="checks"><thead><tr><th scope="col">Check</th><th scope="col">Verdict</th>'
        '<th scope="col">Value</th><th scope="col"><div class="history">'
        '<span class="ends"><span>15 min ago …</span> <span>now</span></span></div></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></details>"
    )


def _summary(checks: tuple[Check, ...]) -> tuple[str, str, str]:
    """The state's name, the attribute that opens the list where something is to be seen, and the line above it."""
    passing = sum(check.status is PASS for check in checks)
    if passing == len(checks):
        return "all", "", f"All {passing} checks pass"
    if any(check.reason == NOT_RUNNING for check in checks):
        return "none", "", f"No check can look: {NOT_RUNNING}"
    if all(check.status in (PASS, PENDING) for check in checks):
        return "most", "", f"{passing} of {len(checks)} checks pass, the others are pending"
    return "some", " open", f"{passing} of {len(checks)} checks pass"


def _check(check: Check, history: CheckHistory) -> str:
    meaning = check.meaning + ("" if check.gates else "; only warns")
    free = " free" if check.unit == "bytes" else ""
    verdict = f"{words.badge(check.status)} {words.lasting(check.since)}"
    if unknown := check.reason in (NOT_YET, NOT_RUNNING):
        verdict = words.badge(PENDING) if check.status is PENDING else f'<span class="none">{check.reason}</span>'
    row = (
        f'<tr><th scope="row">{check.name} <small>{meaning}</small></th><td>{verdict}</td>'
        f"<td>{text.value(check.value, check.unit)}{free}</td><td>{sparkline(history)}</td></tr>"
    )
    if check.status is PASS or check.reason is None or unknown or check.name == "process":  # the headline says that
        return row
    return f'{row}<tr class="why"><td colspan="4">{trouble(check.reason, check.hint)}</td></tr>'
