"""What its primary answers a replica: devpi-server logs a refusal, and `+status` doesn't tell it from silence."""

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
"""In the URL by which a replica asks for changes."""
_LIMIT = 4096
"""Bytes that are read of a refusal."""
_REFUSALS = {
    "Authorization malformed": "key",
    "Authorization expired": "clock",
    "Replication protocol disabled": "role",
    "as primary_uuid": "uuid",
    "can only wait for next serial": "serial",
}
"""What devpi's primary says (devpi_server.replica, `devpiserver_get_identity` and `PrimaryChangelogRequest`)."""


def tell_refusals(tell: Callable[[PrimaryAnswered], None]) -> None:
    """From now on, call `tell` whenever the primary answers this replica otherwise than before."""
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
            said = _understood(response)
            if said != last:
                last = said
                with suppress(SidecarGone):
                    tell(said)
        return response

    ReplicaHTTPClient.stream = stream  # type: ignore[method-assign, assignment]


def _understood(response: httpx.Response | FatalResponse) -> PrimaryAnswered:
    if response.status_code in (200, 202):
        return PrimaryAnswered()
    if isinstance(response, FatalResponse):  # nobody was reached, or --offline-mode, whose client says 503 itself
        return PrimaryAnswered("offline" if response.status_code > 0 else None)
    said = b""
    with suppress(httpx.HTTPError, httpx.StreamError):
        for chunk in response.iter_bytes(_LIMIT):
            said += chunk
            if len(said) >= _LIMIT:
                break
    text = said.decode(errors="replace")
    refusal = next((kind for words, kind in _REFUSALS.items() if words in text), "other")
    return PrimaryAnswered(refusal, response.status_code)
