"""Errors as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping

from aiohttp import web

from sidecar.core.request_id import REQUEST_ID

HEADERS = {
    "Server": "devpi-sidecar",  # aiohttp's own names versions
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Headers of every answer."""


class Problem(Exception):
    """An error that ends a request, as its client gets it."""

    def __init__(
        self,
        status: int,
        title: str | None = None,
        detail: str | None = None,
        *,
        name: str | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
        close: bool = False,
    ) -> None:
        """`title` defaults to HTTP's phrase; `name`: the kind of error, for programs; `more`: further fields; `close`:
        close the connection.
        """
        super().__init__(title)
        self.status = status
        self.title = title or phrase(status)
        self.detail = detail
        self.name = name
        self.headers = headers or {}
        self.more = more or {}
        self.close = close

    def response(self) -> web.Response:
        """Return the answer."""
        body: dict[str, object] = {
            "type": problem_type(self.name),
            "title": self.title,
            "status": self.status,
        }
        if self.detail is not None:
            body["detail"] = self.detail
        if (request := REQUEST_ID.get()) is not None:
            body["request_id"] = request
        response = web.Response(
            status=self.status,
            body=json.dumps(body | dict(self.more)).encode(),
            content_type="application/problem+json",
            headers=HEADERS | dict(self.headers),
        )
        if self.close:
            response.force_close()
        return response


def problem_type(name: str | None) -> str:
    """Return the URI of the problem `name`; `about:blank` for None: the status code says it all."""
    return f"urn:devpi-sidecar:problem:{name}" if name else "about:blank"


def phrase(status: int) -> str:
    """Return HTTP's phrase for a status code."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"
