"""The upstreams of devpi's mirrors, as devpi-server's process reports them. Their names and texts may be hostile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, get_args
from urllib.parse import urlsplit

from sidecar.core.feature import Json
from sidecar.core.public import public, rfc3339
from sidecar.core.terminal import printable
from sidecar.devpi.from_worker import UpstreamErrorKind
from sidecar.devpi.protocol import UPSTREAM_SECONDS, UpstreamsSeen

MANY = 20
"""Upstreams that are kept, at most: each index is a label of metrics."""
STATES = ("up", "failing", "down")
LISTS = ("off", "missing", "fresh", "stale")
OUTCOMES = ("hit", "miss", "stale", "failed")
"""How clients' requests for pages and files are answered."""
KINDS = frozenset(get_args(UpstreamErrorKind))
_STATUSES = frozenset(str(status.value) for status in HTTPStatus)
_NAME, _TEXT = 200, 500
"""Maximum characters of a name, and of a reason or hint."""


@dataclass(frozen=True, slots=True)
class Error:
    """Why the last request failed, and what an operator can do."""

    kind: str
    reason: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class ProjectList:
    """The list of all projects of an upstream."""

    state: str = "off"
    """One of `LISTS`; `off`: the index does without one."""
    refreshed: datetime | None = None
    names: int | None = None
    error: Error | None = None
    """Of the last refresh."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of one upstream; they only grow."""

    answers: tuple[tuple[str, int], ...] = ()
    """Requests to upstream, by HTTP status or kind of error."""
    durations: tuple[int, ...] = (0,) * (len(UPSTREAM_SECONDS) + 1)
    """Requests by bucket of `UPSTREAM_SECONDS`, the last without bound."""
    seconds: float = 0.0
    """The sum of their durations."""
    received: int = 0
    """Bytes of bodies from upstream."""
    pages: tuple[int, ...] = (0,) * len(OUTCOMES)
    """Clients' requests for pages, by `OUTCOMES`."""
    files: tuple[int, ...] = (0,) * len(OUTCOMES)

    def __add__(self, other: Counts) -> Counts:
        answers = dict(self.answers)
        for result, number in other.answers:
            answers[result] = answers.get(result, 0) + number
        return Counts(
            tuple(sorted(answers.items())),
            _plus(self.durations, other.durations),
            self.seconds + other.seconds,
            self.received + other.received,
            _plus(self.pages, other.pages),
            _plus(self.files, other.files),
        )


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream that was used since devpi-server's start."""

    index: str
    """The mirror, as `root/pypi`."""
    origin: str
    """Scheme, host and port: a path may be a secret."""
    state: str
    """One of `STATES`: the last request succeeded, or failed, or the upstream is not asked until `next_try`."""
    last_success: datetime | None = None
    last_failure: datetime | None = None
    next_try: datetime | None = None
    error: Error | None = None
    """Of the last failure, unless it is up."""
    list: ProjectList = ProjectList()
    counts: Counts = Counts()


def parse(message: UpstreamsSeen) -> tuple[Upstream, ...]:
    """Return the first `MANY` upstreams of a report. Raises ValueError, TypeError or KeyError for a malformed one."""
    return tuple(_upstream(fields) for fields in message.upstreams[:MANY])


def as_json(of: Upstream) -> Json:
    """Return an upstream as in `/status`."""
    return {
        "index": public(of.index),
        "origin": of.origin,
        "state": of.state,
        "last_success": rfc3339(of.last_success),
        "last_failure": rfc3339(of.last_failure),
        "next_try": rfc3339(of.next_try),
        "error": _error_json(of.error),
        "list": {
            "state": of.list.state,
            "refreshed": rfc3339(of.list.refreshed),
            "projects": of.list.names,
            "error": _error_json(of.list.error),
        },
        "answers": dict(of.counts.answers),
        "received_bytes": of.counts.received,
        "pages": dict(zip(OUTCOMES, of.counts.pages, strict=True)),
        "files": dict(zip(OUTCOMES, of.counts.files, strict=True)),
    }


def _error_json(of: Error | None) -> Json | None:
    return None if of is None else {"kind": of.kind, "reason": public(of.reason), "hint": public(of.hint)}


def _upstream(fields: Mapping[str, Any]) -> Upstream:
    if (state := fields["state"]) not in STATES or (list_state := fields["list"]) not in LISTS:
        raise ValueError("unknown state of an upstream")
    listed = ProjectList(list_state, _time(fields["list_at"]), fields["list_names"], _error(fields["list_error"]))
    counts = Counts(
        _answers(fields["answers"]),
        tuple(int(number) for number in fields["durations"]),
        float(fields["seconds"]),
        int(fields["bytes"]),
        tuple(int(fields["pages"].get(outcome, 0)) for outcome in OUTCOMES),
        tuple(int(fields["files"].get(outcome, 0)) for outcome in OUTCOMES),
    )
    if len(counts.durations) != len(UPSTREAM_SECONDS) + 1:
        raise ValueError("unknown buckets of an upstream")
    return Upstream(
        printable(fields["index"], _NAME),
        _origin(fields["url"]),
        state,
        _time(fields["last_success"]),
        _time(fields["last_failure"]),
        _time(fields["next_try"]),
        _error(fields["error"]),
        listed,
        counts,
    )


def _answers(by_result: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Return the numbers by known status or kind; upstreams may answer with any status, so others are one."""
    found: dict[str, int] = {}
    for result, number in by_result.items():
        name = result if result in _STATUSES or result in KINDS else "other"
        found[name] = found.get(name, 0) + int(number)
    return tuple(sorted(found.items()))


def _error(fields: Mapping[str, Any] | None) -> Error | None:
    if fields is None:
        return None
    kind = fields["kind"] if fields["kind"] in KINDS else "other"
    hint = fields.get("hint")
    return Error(kind, printable(fields["reason"], _TEXT), printable(hint, _TEXT) if hint else None)


def _origin(url: str) -> str:
    """Return scheme, host and port of a URL; "" if it has none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{host}", _NAME) if parts.scheme and host else ""


def _time(at: float | None) -> datetime | None:
    """Return a Unix time as a time; None also if no calendar has it."""
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _plus(one: Iterable[int], other: Iterable[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))
