"""What `/status` and the checks say, worded for a person at a terminal.

The answer holds names from uploads and archives: everything goes through `printable`, and nothing is taken to
be there.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator

from sidecar.terminal import printable

_PASSWORD = {
    "claimable": "not claimed yet: `sidecar claim` prints it, once",
    "claimed": "claimed; if it is lost: `sidecar rotate`",
    "expired": "expired before it was claimed: `sidecar rotate` sets a new one",
    "given": "the one that the operator gave",
    "from_import": "the one of the imported export",
    "unknown": "not known here; `sidecar rotate` sets a new one",
}

NOT_YET = "not looked at yet"
"""The reason of a check before its first look; see `board`."""

_MANY = 20
"""Archives, or checks, that are listed; the rest is counted."""


class Fields:
    """A JSON value of which nothing is certain."""

    def __init__(self, content: object) -> None:
        self._content = content if isinstance(content, dict) else {}

    def text(self, name: str, limit: int | None = 300) -> str:
        """The field as text, printable unless `limit` is None; empty where it is absent or is no text."""
        value = self._content.get(name)
        if not isinstance(value, str):
            return ""
        return value if limit is None else printable(value, limit)

    def number(self, name: str) -> float | None:
        """The field as a number; None where it is none."""
        value = self._content.get(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def inner(self, name: str) -> Fields:
        """The object in this field; an empty one where it is none."""
        return Fields(self._content.get(name))

    def list(self, name: str) -> builtins.list[Fields]:
        """The objects in this field; none where it is no list."""
        value = self._content.get(name)
        return [Fields(item) for item in value] if isinstance(value, builtins.list) else []


def summary(status: Fields, checks: list[Fields], *, ready: bool) -> Iterator[str]:
    """The lines of `sidecar status`."""
    yield f"{'ready' if ready else 'not ready'}: {status.text('phase') or 'no phase'}{_since(status)}"
    versions = [
        f"{name} {version}"
        for name, part in (("devpi-server", "devpi"), ("sidecar", "sidecar"))
        if (version := status.inner(part).text("version", 50))
    ]
    if versions:
        yield f"  versions: {', '.join(versions)}"
    yield from _trouble("failed", status.inner("failure"))
    for check in checks[:_MANY]:
        reason = check.text("reason", 500) or "no reason given"
        if (verdict := check.text("status", 20)) in ("fail", "warn") and reason != NOT_YET:
            yield f"  check {check.text('name', 50)}: {verdict}{_since(check)}: {reason}"
    yield from _import(status.inner("import"))
    if status.text("phase") != "failed":  # then nothing can be done about it
        yield from _root_password(status.inner("root_password"))


def _import(status: Fields) -> Iterator[str]:
    state = status.text("state", 30)
    if state in ("", "none"):
        return
    line = f"  import: {state}"
    for name in ("files", "projects"):
        done, total = status.inner(name).number("done"), status.inner(name).number("total")
        if done is not None and total:
            line += f", {done:.0f} of {total:.0f} {name} ({100 * done / total:.0f} %)"
    if state not in ("completed", "failed"):
        if (rate := status.number("rate")) is not None:
            line += f", {rate:.0f} files/s"
        if (eta := status.number("eta_seconds")) is not None:
            line += f", about {duration(eta)} left"
    yield line
    archives = status.list("archives")
    for archive in archives[:_MANY]:
        size = archive.number("bytes")
        yield f"    {archive.text('name', 200)}" + ("" if size is None else f", {size:,.0f} bytes")
    if len(archives) > _MANY:
        yield f"    and {len(archives) - _MANY} more"
    yield from _trouble("failed", status.inner("error"), indent="    ")


def _root_password(status: Fields) -> Iterator[str]:
    state = status.text("state", 30)
    if not state:
        return
    line = f"  root's password: {_PASSWORD.get(state, state)}"
    if state == "claimed" and (address := status.text("claimed_from", 100)):
        line += f" (from {address})"
    if state == "claimable" and (expires := status.text("expires", 50)):
        line += f", until {expires}"
    yield line


def _trouble(what: str, error: Fields, indent: str = "  ") -> Iterator[str]:
    if not (reason := error.text("reason", 1000)):
        return
    places = [f"{name} {place}" for name in ("archive", "member") if (place := error.text(name, 500))]
    yield f"{indent}{what}: {reason}" + (f" ({', '.join(places)})" if places else "")
    if mend := error.text("mend", 1000):
        yield f"{indent}mend: {mend}"


def _since(fields: Fields) -> str:
    since = fields.text("since", 50)
    return f" since {since}" if since else ""


def duration(seconds: float) -> str:
    """Some seconds, in the unit that a person would take."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
