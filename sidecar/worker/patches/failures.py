"""Answer 502 or 503 with Retry-After if a mirror's upstream fails; pip and uv retry these.

If an index inherits from a mirror, devpi-server treats a failing upstream as one that lacks the project. It answers 404
or a page without files, and the client gives up or installs another version.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from devpi_server.model import BaseStage, UpstreamError
from pyramid.httpexceptions import HTTPBadGateway
from pyramid.threadlocal import get_current_request

from sidecar.core.logging import redact

if TYPE_CHECKING:
    from pyramid.request import Request
    from pyramid.response import Response

RETRY_AFTER = 3
"""Default Retry-After in seconds, if upstream sends none. pip retries five times."""
LONGEST = 3600
"""Maximum Retry-After in seconds, whatever upstream sends."""
PASSING = frozenset({"refused", "name", "cut", "status", "limited", "timeout"})
"""The kinds of failures that end by themselves."""
_NOT_NOW = frozenset({-1, 429, 500, 502, 503, 504})
"""The same, as statuses of a replica's primary; -1: no answer."""
_QUERY = re.compile(r"\?[^\s'\"<>)]+")


class UpstreamFailed(UpstreamError):
    """The upstream of a mirror failed; whether it has the project is unknown."""


class _Asking(threading.local):
    """What this thread asks mirrors for."""

    failures: list[UpstreamFailed] | None = None
    """Failures of the mirrors that an index asks; None if no index asks."""


_asking = _Asking()


def fail_inheriting_indexes() -> None:
    """Make an index fail if one of its mirrors fails, because the answers of the others are incomplete."""
    ask = BaseStage.op_sro_check_mirror_whitelist

    def ask_all(stage: BaseStage, opname: str, **kw: object) -> Iterator[tuple[BaseStage, Any]]:
        answers = ask(stage, opname, **kw)
        while True:
            with _failures() as failures:
                answer = next(answers, None)
            if failures:
                raise failures[0]  # devpi ignored it
            if answer is None:
                return
            yield answer

    BaseStage.op_sro_check_mirror_whitelist = ask_all  # type: ignore[method-assign, assignment]


def answer_failure(error: UpstreamError, request: Request) -> Response:
    """Answer 502, and roll a write back; for the views in which devpi does not catch the error, as for a file."""
    transaction = request.registry["xom"].keyfs.tx
    if transaction.write:
        transaction.doom()
    return HTTPBadGateway(explanation=str(error))


def is_asking() -> bool:
    """Whether this thread asks the mirrors of an index for a project: a mirror must not answer "unknown"."""
    return _asking.failures is not None


@contextmanager
def asking() -> Iterator[None]:
    """Let `is_asking` be true in this block, also if no index asks."""
    before = _asking.failures
    if before is None:
        _asking.failures = []
    try:
        yield
    finally:
        _asking.failures = before


@contextmanager
def _failures() -> Iterator[list[UpstreamFailed]]:
    before = _asking.failures
    failures: list[UpstreamFailed] = []
    _asking.failures = failures
    try:
        yield failures
    finally:
        _asking.failures = before


def failed(message: str, status: int, retry_after: str | None = None) -> UpstreamFailed:
    """Return the error to raise, after recording it for the asking index and for the response.

    `status` is that of the response, `retry_after` the header of upstream's answer.
    """
    error = UpstreamFailed("%s", message)
    if _asking.failures is not None:
        _asking.failures.append(error)
    answer_later(status, retry_after)
    return error


def status_of(answer: Any) -> int:  # noqa: ANN401
    """Return the status for a failure of upstream, or of a replica's primary; `answer` None: none in time.

    503 for one that ends by itself: older pips don't retry a 502.
    """
    cause = getattr(answer, "cause", None)
    if cause is not None:
        return 503 if cause.kind in PASSING else 502
    return 503 if answer is None or answer.status_code in _NOT_NOW else 502


def answer_later(status: int, retry_after: str | None) -> None:
    """Let devpi's answer, if it is 502, have this status and tell the client when to try again."""
    request: Request | None = get_current_request()
    if request is not None:
        request.add_response_callback(_set_retry_after(status, seconds(retry_after)))


def _set_retry_after(status: int, retry_after: int) -> Callable[[Request, Response], None]:
    def callback(_: Request, response: Response) -> None:
        if response.status_code == 502:
            response.status_code = status
            response.headers["Retry-After"] = str(retry_after)

    return callback


def shown(error: Exception | str) -> str:
    """Return an error's message without possible secrets in URLs: user, password and query."""
    return _QUERY.sub("?…", redact(str(error)))


def seconds(retry_after: str | None) -> int:
    """Return the seconds to wait from upstream's Retry-After, a number or a date."""
    value = (retry_after or "").strip()
    if value.isascii() and value.isdigit():
        wait = int(value[:9])
    else:
        try:
            wait = int(parsedate_to_datetime(value).timestamp() - time.time()) + 1
        except (ValueError, OverflowError):
            return RETRY_AFTER
    return min(max(wait, 1), LONGEST)
