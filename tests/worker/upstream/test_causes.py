"""Causes in words: of exceptions that servers on loopback don't produce."""

from __future__ import annotations

import errno
import ssl
import time
from email.utils import formatdate

import httpcore
import httpx
import pytest

from sidecar.worker.upstream.causes import Cause, UpstreamFault, of_error, printable, retry_after


def linked(outer: BaseException, inner: BaseException) -> BaseException:
    """As `raise outer from inner`."""
    outer.__cause__ = inner
    return outer


def certificate(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "some words"
    return error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (certificate(10), "trust", "clock"),
        (certificate(20), "trust", "DEVPI_MIRROR_CA"),
        (certificate(62), "trust", "host name"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "refused", "no route to host"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "cut", "reset by peer"),
    ],
)
def test_the_innermost_error_decides(error: OSError, kind: str, words: str) -> None:
    """httpx wraps httpcore's, which wraps the system's."""
    found = of_error(linked(httpx.ConnectError("x"), linked(httpcore.ConnectError("x"), error)), host="index.test:443")
    assert found.kind == kind
    assert words in f"{found.reason} {found.hint}"
    assert "index.test:443" in found.reason


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectTimeout("x"), "timeout"),
        (httpx.PoolTimeout("x"), "timeout"),
        (TimeoutError(), "timeout"),
        (httpx.RemoteProtocolError("illegal status line: bytearray(b'\\x15\\x03\\x03')"), "tls"),
        (httpx.RemoteProtocolError("illegal status line: bytearray(b'SSH-2.0')"), "unreadable"),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), "cut"),
        (httpx.InvalidURL("x"), "unreadable"),
        (UpstreamFault(Cause("redirects", "x", "y")), "redirects"),
        (RuntimeError("anything"), "cut"),
    ],
)
def test_each_kind(error: Exception, kind: str) -> None:
    """Never more than words: what an upstream sent is not repeated."""
    found = of_error(error)
    assert found.kind == kind
    assert "SSH" not in str(found)


def test_retry_after_is_seconds_or_a_date() -> None:
    """What is neither is ignored, and the past is now."""
    assert retry_after({"retry-after": "120"}) == 120
    assert retry_after({"retry-after": formatdate(time.time() - 1000, usegmt=True)}) == 0
    later = retry_after({"retry-after": formatdate(time.time() + 1000, usegmt=True)})
    assert later is not None
    assert 0 < later <= 1001
    for text in ("", "-5", "soon", "1e9", "٣", "9" * 30):
        assert retry_after({"retry-after": text}) is None


def test_names_that_an_upstream_chose_are_made_printable() -> None:
    """For logs and terminals."""
    assert printable("a\x1b[31m\n\N{RIGHT-TO-LEFT OVERRIDE}b") == "a?[31m??b"
    assert len(printable("x" * 1000)) == 100
