"""The response that has the list of projects: what its headers say of the body."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, Protocol

from sidecar.worker.project_list.conversion import HINT, Failure, Form

_FORMS: Mapping[str, Literal["json", "html"]] = {
    "application/vnd.pypi.simple.v1+json": "json",
    "application/json": "json",
    "application/vnd.pypi.simple.v1+html": "html",
    "text/html": "html",
}
_ENCODINGS: Mapping[str, Literal["identity", "gzip"]] = {
    "": "identity",
    "identity": "identity",
    "gzip": "gzip",
    "x-gzip": "gzip",
}


class Response(Protocol):
    """What is used of httpx.Response."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive."""

    def iter_raw(self, chunk_size: int | None = None, /) -> Iterator[bytes]:
        """Return the body as it was sent, still compressed."""


def form(headers: Mapping[str, str]) -> Form:
    """Return how the body is written. Raises Failure if it can't be a list."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = headers.get("content-encoding", "").strip().lower()
    if media_type not in _FORMS:
        raise Failure("unreadable", f"the list of projects has the content type {media_type[:80]!a}", HINT)
    if encoding not in _ENCODINGS:
        raise Failure("unreadable", f"the list of projects has the encoding {encoding[:80]!a}", HINT)
    return Form(_FORMS[media_type], _ENCODINGS[encoding])


def declared(headers: Mapping[str, str]) -> int | None:
    """Return the length of the body, if the header is to be believed."""
    value = headers.get("content-length", "")
    if "transfer-encoding" in headers or not re.fullmatch("[0-9]{1,18}", value):
        return None
    return int(value)


def is_delimited(headers: Mapping[str, str]) -> bool:
    """Whether a body that was cut off is recognised without its content."""
    return "transfer-encoding" in headers or declared(headers) is not None


def etag(headers: Mapping[str, str]) -> str | None:
    """Return the ETag, if it can be sent back as it is."""
    value = headers.get("etag", "")
    return value if re.fullmatch('(W/)?"[!-~]{0,200}"', value) else None
