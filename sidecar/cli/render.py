"""Render `/status` and the checks for a terminal.

The answer contains names from uploads and archives: all of it goes through `printable`, and any field may be missing.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from datetime import UTC, datetime

from sidecar.cli.fit import Line
from sidecar.core.advice import RESTART, START_EMPTY
from sidecar.core.check import NOT_RUNNING
from sidecar.core.terminal import printable
from sidecar.core.text import ago, duration, size, value

_PASSWORD = {
    "claimable": "not claimed yet",
    "claimed": "claimed",
    "expired": "expired before it was claimed",
    "provided": "provided at the first start; it may have been changed since",
    "from_import": "from the imported export",
    "unknown": "unknown",
}

_MANY = 20
"""Archives, checks or phases that are listed; the rest is counted."""
_MOST = 1e18
"""A limit that none of our numbers reaches."""
_FEW = 4
"""Replicas that are listed; the rest is counted."""


class Fields:
    """A JSON value with unverified fields."""

    def __init__(self, content: object) -> None:
        self._content = content if isinstance(content, dict) else {}

    def text(self, name: str, limit: int | None = 300) -> str:
        """Return the field as text, printable unless `limit` is None; empty if it is missing or not a string."""
        value = self._content.get(name)
        if not isinstance(value, str):
            return ""
        return value if limit is None else printable(value, limit)

    def number(self, name: str) -> float | None:
        """Return the field as a finite number; None if it isn't one."""
        number = self._content.get(name)
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            return None
        return number if abs(number) < _MOST else None

    def time(self, name: str) -> datetime | None:
        """Return the field as a time with a time zone; None if it isn't one."""
        try:
            at = datetime.fromisoformat(self.text(name, 50))
        except ValueError:
            return None
        return at if at.tzinfo is not None else None

    def inner(self, name: str) -> Fields:
        """Return the object in this field; an empty one if it isn't one."""
        return Fields(self._content.get(name))

    def list(self, name: str) -> builtins.list[Fields]:
        """Return the objects in this field; none if it isn't a list."""
        value = self._content.get(name)
        return [Fields(item) for item in value] if isinstance(value, builtins.list) else []

    def texts(self, name: str, limit: int = 100) -> builtins.list[str]:
        """Return the strings in this field, printable; none if it isn't a list."""
        value = self._content.get(name)
        found = value if isinstance(value, builtins.list) else []
        return [printable(item, limit) for item in found if isinstance(item, str)]


def summary(status: Fields, checks: list[Fields], *, ready: bool) -> Iterator[str]:
    """Yield the lines of `sidecar status`."""
    yield headline(status, ready=ready)
    yield from versions(status)
    yield from failure(status)
    for check in telling(status, checks)[:_MANY]:
        reason = check.text("reason", 500) or "no reason given"
        if (verdict := check.text("status", 20)) in ("fail", "warn"):
            begin = f"  check {check.text('name', 50)}: {verdict}"
            yield Line(f"{begin}{_since(check)}: {reason}", f"{begin}: {reason}")
    yield from notices(status)
    yield from replication(status.inner("devpi"), datetime.now(UTC))
    yield from progress(status.inner("import"))
    yield from archives(status.inner("import"))
    yield from root_password(status)
    yield from unusable_passwords(status)
    yield from mirrors(status)


def telling(status: Fields, checks: list[Fields]) -> list[Fields]:
    """Return the checks without those that only repeat that devpi-server doesn't run: `failure` shows that."""
    failed = status.text("phase") == "failed"
    return [
        check
        for check in checks
        if check.text("reason", 500) != NOT_RUNNING and not (failed and check.text("name", 50) == "process")
    ]


def headline(status: Fields, *, ready: bool) -> str:
    """Return whether it is ready, and the phase."""
    name = status.text("name", 100)
    line = f"{f'{name}: ' if name else ''}{'ready' if ready else 'not ready'}: {status.text('phase') or 'no phase'}"
    return Line(f"{line}{_since(status)}", line)


def failure(status: Fields) -> Iterator[str]:
    """Yield why it failed, where, and the hint; nothing if it didn't fail. A failed import's reason is not repeated."""
    imported = status.inner("import")
    error = imported.inner("error") if imported.text("state", 30) == "failed" else Fields(None)
    if not (reason := error.text("reason", 1000)):
        yield from trouble("failed", status.inner("failure"))
        return
    yield "  the import failed"
    for name in ("archive", "member"):
        if place := error.text(name, 500):
            yield f"    {name}: {place}"
    yield f"    reason: {reason}"
    hint = error.text("hint", 1000)
    again = "" if "restart" in hint or "start again" in hint else f"{'; ' if hint else ''}{RESTART}"
    yield f"    hint: {hint}{again}"
    yield f"    {START_EMPTY}"


def versions(status: Fields) -> Iterator[str]:
    """Yield the versions of devpi-server and the sidecar."""
    found = [
        f"{name} {version}"
        for name, part in (("devpi-server", "devpi"), ("sidecar", "sidecar"))
        if (version := status.inner(part).text("version", 50))
    ]
    if found:
        yield f"  versions: {', '.join(found)}"


def phases(status: Fields, at: datetime) -> Iterator[str]:
    """Yield the last phases with their durations; the current one lasts until `at`."""
    begun = [(phase.text("phase", 30), phase.time("since")) for phase in status.list("phases")][-_MANY:]
    parts = []
    for (name, since), until in zip(begun, [*(since for _, since in begun[1:]), at], strict=False):
        took = "" if since is None or until is None else f" {duration((until - since).total_seconds())}"
        parts.append(f"{name}{took}")
    if parts:
        yield f"  phases: {', '.join(parts)}"


def replication(devpi: Fields, at: datetime) -> Iterator[str]:
    """Yield a primary's replicas, or how far behind a replica is; nothing otherwise."""
    if (behind := devpi.number("behind")) is not None:
        yield f"  replication: {_lag(behind)}"
    replicas = devpi.list("replicas")
    parts = []
    for replica in replicas[:_FEW]:
        heard = replica.time("asked_at")
        age = "" if heard is None else f" ({ago(abs((at - heard).total_seconds()))})"
        parts.append(f"{replica.text('address', 60) or 'unknown'} {_lag(replica.number('behind'))}{age}")
    if len(replicas) > _FEW:
        parts.append(f"and {len(replicas) - _FEW} more")
    if parts:
        yield f"  replicas: {', '.join(parts)}"


def _lag(behind: float | None) -> str:
    if behind is None:
        return "at an unknown serial"
    return f"{value(behind, 'serials')} behind"  # only a number: the check `replication` decides what is in sync


def progress(status: Fields) -> Iterator[str]:
    """Yield the progress of the import; nothing if there was none."""
    state = status.text("state", 30)
    if state in ("", "none"):
        return
    counts = []
    for name in ("files", "projects"):
        done, total = status.inner(name).number("done"), status.inner(name).number("total")
        if done is not None and total:
            counts.append(f"{done:.0f} of {total:.0f} {name} ({100 * done / total:.0f} %)")
    rate = left = ""
    if state not in ("completed", "failed"):
        if (number := status.number("rate")) is not None:
            rate = f"{number:.0f} files/s"
        if (eta := status.number("eta_seconds")) is not None:
            left = f"about {duration(eta)} left"
    forms = [[*counts, rate, left], [*counts, left], [*counts[:1], left]]
    yield Line(*(f"  import: {', '.join(filter(None, [state, *parts]))}" for parts in forms))


def archives(status: Fields) -> Iterator[str]:
    """Yield what is imported, and what the import leaves out."""
    if status.text("state", 30) in ("", "none"):
        return
    found = status.list("archives")
    for archive in found[:_MANY]:
        count = archive.number("bytes")
        name = f"    {archive.text('name', 200)}"
        yield Line(name + ("" if count is None else f", {size(count)}"), name)
    if len(found) > _MANY:
        yield f"    and {len(found) - _MANY} more"
    yield from left_out(status.inner("left_out"))


def left_out(of: Fields) -> Iterator[str]:
    """Yield what the import has left out, if anything."""
    if not (total := of.number("total")):
        return
    yield f"    left out, not safe to load: {total:.0f}"
    first = of.list("first")[:_MANY]
    for each in first:
        yield f"      {each.text('member', 200)} of {each.text('archive', 200)}: {each.text('reason', 200)}"
    if total > len(first):
        yield f"      and {total - len(first):.0f} more"


def root_password(status: Fields) -> Iterator[str]:
    """Yield the state of root's password and the hint; nothing if neither is known."""
    of = status.inner("root_password")
    state, hint = of.text("state", 30), of.text("hint", 1000)
    if not state or status.text("phase") == "failed" or (state == "unknown" and not hint):
        return
    line = f"  root's password: {_PASSWORD.get(state, state)}"
    if state == "claimed" and (address := of.text("claimed_from", 100)):
        line += f" from {address}"
    if state == "claimable" and (expires := of.text("expires", 50)):
        line += f", until {expires}"
    yield f"{line}; {hint}" if hint else line


def unusable_passwords(status: Fields) -> Iterator[str]:
    """Yield the users who need a new password, if any."""
    of = status.inner("unusable_passwords")
    if not (total := of.number("total")):
        return
    names = of.texts("users")[:_MANY]
    more = f" and {total - len(names):.0f} more" if total > len(names) else ""
    hint = of.text("hint", 1000)
    yield f"  users who need a new password (devpi-server can't check the old hash): {total:.0f}"
    yield f"    {', '.join(names)}{more}" + (f"; {hint}" if hint else "")


def notices(status: Fields) -> Iterator[str]:
    """Yield the notices, if any."""
    found = status.list("notices")
    for notice in found[:_MANY]:
        yield from trouble("notice", notice)
    if len(found) > _MANY:
        yield f"  and {len(found) - _MANY} more notices"


def mirrors(status: Fields) -> Iterator[str]:
    """Yield the upstreams of the mirrors, and the notes about them, if any."""
    of, at = status.inner("mirrors"), datetime.now(UTC)
    found = of.list("upstreams")
    for upstream in found[:_MANY]:
        yield from _upstream(upstream, at)
    if (total := of.number("total") or 0) > (shown := len(found[:_MANY])):
        yield f"  and {total - shown:.0f} more upstream{'' if total - shown == 1 else 's'}"
    for note in of.texts("notes", 2000)[:_MANY]:
        yield f"  mirror: {note}"


def _upstream(of: Fields, at: datetime) -> Iterator[str]:
    """Yield the state of one upstream and, if it or its list fails, why and what to do."""
    name = f"  upstream of {of.text('index', 100) or 'an unknown index'}"
    answered = of.time("last_success")
    last = "never answered" if answered is None else f"last answer {ago(abs((at - answered).total_seconds()))}"
    listed = of.inner("list")
    projects = "" if (count := listed.number("projects")) is None else f", {count:,.0f} projects listed"
    stale = " (stale)" if projects and listed.text("state", 10) == "stale" else ""
    state = of.text("state", 20) or "unknown"
    yield Line(f"{name}: {state}, {last}{projects}{stale}", f"{name}: {state}, {last}", f"{name}: {state}")
    yield from trouble("reason", of.inner("error"), "    ")
    yield from trouble("the list of projects can't be refreshed", listed.inner("error"), "    ")


def trouble(what: str, error: Fields, indent: str = "  ") -> Iterator[str]:
    """Yield the reason, the place, and the hint."""
    if not (reason := error.text("reason", 1000)):
        return
    places = [f"{name} {place}" for name in ("archive", "member") if (place := error.text(name, 500))]
    yield f"{indent}{what}: {reason}" + (f" ({', '.join(places)})" if places else "")
    if hint := error.text("hint", 1000):
        yield f"{indent}hint: {hint}"


def _since(fields: Fields) -> str:
    since = fields.text("since", 50)
    return f" since {since}" if since else ""
