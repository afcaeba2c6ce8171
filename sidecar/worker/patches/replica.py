"""Report what the primary answers a replica: devpi only logs a refusal, and `+status` shows it like no answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import httpx
from devpi_server.httpclient import FatalResponse
from devpi_server.replica import ReplicaHTTPClient

from sidecar.devpi.protocol import PrimaryAnswered
from sidecar.worker.channel import SidecarGone

if TYPE_CHECKING:
    from devpi_common.url import URL

_CHANGES = "/+changelog/"
"""Part of the URL by which a replica requests changes."""
_LIMIT = 4096
"""Maximum bytes to read of a refusal."""
_REFUSALS = {
    "Authorization malformed": "key",
    "Authorization expired": "clock",
    "Replication protocol disabled": "role",
    "as primary_uuid": "uuid",
    "can only wait for next serial": "serial",
}
"""The primary's messages (devpi_server.replica, `devpiserver_get_identity` and `PrimaryChangelogRequest`)."""


def tell_refusals(tell: Callable[[PrimaryAnswered], None]) -> None:
    """Call `tell` from now on when the primary's answer to this replica changes."""
    ask = ReplicaHTTPClient.stream
    last = PrimaryAnswered()

    def stream(
        client: ReplicaHTTPClient,
        cstack: ExitStack,
        method: str,
        url: URL | str,
        *,
        allow_redirects: bool,
        timeout: float | None = None,
        extra_headers: dict[str, str] | None = None,
    ) -> httpx.Response | FatalResponse:
        nonlocal last
        options = {"allow_redirects": allow_redirects, "timeout": timeout, "extra_headers": extra_headers}
        response = ask(client, cstack, method, url, **options)  # type: ignore[arg-type]
        if _CHANGES in str(url):
            answer = _understood(response)
            if answer != last:
                last = answer
                with suppress(SidecarGone):
                    tell(answer)
        return response

    ReplicaHTTPClient.stream = stream  # type: ignore[method-assign, assignment]


def _understood(response: httpx.Response | FatalResponse) -> PrimaryAnswered:
    if response.status_code in (200, 202):
        return PrimaryAnswered()
    if isinstance(response, FatalResponse):  # no connection; 503 is of the client itself, in --offline-mode
        return PrimaryAnswered("offline" if response.status_code > 0 else None)
    content = b""
    with suppress(httpx.HTTPError, httpx.StreamError):
        for chunk in response.iter_bytes(_LIMIT):
            content += chunk
            if len(content) >= _LIMIT:
                break
    text = content.decode(errors="replace")
    refusal = next((kind for words, kind in _REFUSALS.items() if words in text), "other")
    return PrimaryAnswered(refusal, response.status_code)
