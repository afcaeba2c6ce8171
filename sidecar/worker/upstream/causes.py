"""Why a request to an upstream failed, in words, with a hint that changes the outcome. Never with secrets."""

from __future__ import annotations

import email.utils
import errno
import http
import re
import socket
import ssl
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import httpx

from sidecar.devpi.from_worker import UpstreamErrorKind

_EXPIRED = {9, 10}
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED."""
_WRONG_NAME = {62, 64}
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH")
_CREDENTIALS = "check DEVPI_MIRROR_USER and DEVPI_MIRROR_PASSWORD, or the user and password in mirror_url"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a request failed."""

    kind: UpstreamErrorKind
    reason: str
    hint: str

    def as_json(self) -> dict[str, str]:
        """Return all fields."""
        return asdict(self)

    @property
    def counts(self) -> bool:
        """Whether it speaks against the upstream as a whole, not against one page or one link."""
        return self.kind not in ("forbidden", "too-large", "unreadable", "redirects")

    @property
    def answered(self) -> bool:
        """Whether the upstream answered, so that the failure took little time."""
        return self.kind in ("denied", "limited", "status")


class UpstreamFault(httpx.TransportError):
    """A request failed for the reason in `cause`."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.reason)
        self.cause = cause


def printable(text: str, limit: int = 100) -> str:
    """Return what an upstream chose, for a message: ASCII without control characters, shortened."""
    return re.sub(r"[^!-~]", "?", text)[:limit]


def of_error(error: BaseException, *, host: str = "the upstream", proxy: str | None = None) -> Cause:
    """Return the cause of an exception of httpx, httpcore or the operating system.

    `host`: host and port that was asked; `proxy`: the variable that set the proxy, if there was one.
    """
    chain = list(_chain(error))
    for kind in (UpstreamFault, ssl.SSLCertVerificationError, ssl.SSLError):
        found = next((each for each in chain if isinstance(each, kind)), None)
        if isinstance(found, UpstreamFault):
            return found.cause
        if isinstance(found, ssl.SSLCertVerificationError):
            return _of_certificate(found, host)
        if isinstance(found, ssl.SSLError) and not isinstance(found, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return _of_tls(found, host)
    if proxy is not None and any(
        isinstance(each, httpx.ProxyError | httpx.ConnectError | httpx.ConnectTimeout) for each in chain
    ):
        return _of_proxy(chain, proxy)
    return _of_connection(chain, host) or _of_rest(chain, host)


def of_status(
    status: int, headers: Mapping[str, str], *, proxy: str | None = None, redirected: str | None = None
) -> Cause | None:
    """Return the cause if an answer is a failure; None for success, redirects and 404 and the like.

    `redirected`: the origin that a redirect led to, to which no credentials are sent.
    """
    words = f"the upstream answered {status}{_phrase(status)}"
    if status == 407:
        return Cause("proxy", f"the proxy answered 407{_phrase(status)}", _proxy_credentials(proxy))
    if status in (401, 403):
        if redirected is not None:
            where = printable(redirected)
            return Cause(
                "denied",
                f"{words} after a redirect to {where}, where credentials are not sent",
                f"if they belong there, set the mirror's URL to one at {where}",
            )
        return Cause("denied", words, _CREDENTIALS)
    if status == 429:
        after = retry_after(headers)
        wait = "it limits the rate of requests" if after is None else f"it asks to wait {after} s"
        return Cause("limited", f"{words}: {wait}", "devpi-server asks again by itself; use fewer parallel clients")
    if status >= 500:
        return Cause(
            "status", words, "check the upstream and what is in front of it; devpi-server asks again by itself"
        )
    if 400 <= status < 500 and status not in (404, 410):
        return Cause("status", words, "check that the mirror's URL is that of a package index")
    return None


def retry_after(headers: Mapping[str, str]) -> int | None:
    """Return the seconds that an answer asks to wait, at least 0; None: it doesn't, or not in a valid form."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    try:
        then = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0, round(then - time.time()))


def total_timeout(host: str, seconds: float, setting: str) -> UpstreamFault:
    """Return the fault of an answer that took too long in total; `setting` raises the limit."""
    return UpstreamFault(
        Cause("timeout", f"{host} took more than {seconds:g} s for one answer", f"if it is that slow, raise {setting}")
    )


def too_slow(host: str, size: int, seconds: float) -> UpstreamFault:
    """Return the fault of a body of which only `size` bytes came in `seconds`."""
    reason = f"{host} sent only {size} bytes in {seconds:.1f} s"
    return UpstreamFault(Cause("timeout", reason, "check the network to it, and what is in front of it"))


def too_large(host: str, limit: int, setting: str) -> UpstreamFault:
    """Return the fault of an answer of more than `limit` bytes; `setting` raises the limit."""
    return UpstreamFault(
        Cause("too-large", f"{host} sent more than {limit} bytes", f"if they are valid, raise {setting}")
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo = [error]
    while todo:
        each = todo.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        todo += [linked for linked in (each.__cause__, each.__context__) if linked is not None]
        if isinstance(each, BaseExceptionGroup):
            todo += each.exceptions


def _of_certificate(error: ssl.SSLCertVerificationError, host: str) -> Cause:
    what = printable_words(error.verify_message or "not valid")
    reason = f"the certificate of {host} is not trusted: {what}"
    if error.verify_code in _EXPIRED:
        return Cause("trust", reason, "renew the upstream's certificate, or correct this machine's clock")
    if error.verify_code in _WRONG_NAME:
        return Cause("trust", reason, "use a host name in mirror_url that the certificate is for")
    return Cause("trust", reason, "set DEVPI_MIRROR_CA to a file with the certificate of the CA that issued it")


def _of_tls(error: ssl.SSLError, host: str) -> Cause:
    code = error.reason or ""
    if any(each in code for each in _NOT_TLS):
        return Cause("tls", f"{host} does not speak TLS", "use http:// in the URL, or the port that has TLS")
    words = printable_words(code.replace("_", " ").lower() or "handshake failed")
    return Cause("tls", f"TLS with {host} failed: {words}", "check the TLS versions and settings of the upstream")


def _of_proxy(chain: list[BaseException], variable: str) -> Cause:
    text = " ".join(str(each) for each in chain)
    if "407" in text:
        return Cause("proxy", "the proxy answered 407 Proxy Authentication Required", _proxy_credentials(variable))
    if isinstance(chain[0], httpx.ProxyError):
        found = re.match(r"[1-5][0-9]{2}\b", str(chain[0]))
        said = f"answered {found[0]}{_phrase(int(found[0]))}" if found else "failed"
        return Cause("proxy", f"the proxy {said}", f"check {variable}, and that the proxy permits this host")
    for each in chain:
        if isinstance(each, socket.gaierror):
            return Cause("proxy", f"the proxy's host is unknown: {_words(each)}", f"check {variable}")
    for each in chain:
        if isinstance(each, ConnectionRefusedError):
            return Cause("proxy", "the proxy refused the connection", f"check {variable}, and that the proxy runs")
    return Cause("proxy", "the proxy can't be reached", f"check {variable}, or exclude the host by NO_PROXY")


def _of_connection(chain: list[BaseException], host: str) -> Cause | None:
    for each in chain:
        if isinstance(each, socket.gaierror):
            return Cause("name", f"{host}: {_words(each)}", "check the host in the URL, and this machine's DNS")
        if isinstance(each, ConnectionRefusedError):
            return Cause("refused", f"{host} refused the connection", "check that the upstream runs on this port")
        if isinstance(each, OSError) and each.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            return Cause("refused", f"{host}: {_words(each)}", "check the network between here and the upstream")
    if any(isinstance(each, httpx.TimeoutException | TimeoutError) for each in chain):
        return _of_timeout(chain[0], host)
    return None


def _of_timeout(error: BaseException, host: str) -> Cause:
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        return Cause("timeout", f"no connection to {host} in time", "check the network, firewall and proxy settings")
    if isinstance(error, httpx.PoolTimeout):
        return Cause("timeout", f"all connections to {host} are busy", "wait: the upstream is slow")
    return Cause(
        "timeout", f"no answer from {host} in time", "check the upstream; raise --request-timeout if it is slow"
    )


def _of_rest(chain: list[BaseException], host: str) -> Cause:
    first = chain[0]
    text = str(first)
    if "illegal status line" in text and "\\x15\\x03" in text:
        return Cause("tls", f"{host} speaks TLS only", "use https:// in the URL")
    if any(isinstance(each, zlib.error | UnicodeError | ValueError | httpx.DecodingError) for each in chain) or (
        isinstance(first, httpx.RemoteProtocolError) and not re.search("disconnected|closed", text)
    ):
        return Cause("unreadable", f"the answer of {host} is not valid HTTP", "check what is at the mirror's URL")
    if isinstance(first, httpx.UnsupportedProtocol | httpx.InvalidURL | httpx.LocalProtocolError):
        return Cause("unreadable", "the URL is not a valid http or https URL", "check the mirror's URL")
    for each in chain:
        if isinstance(each, OSError) and each.errno is not None:
            return Cause("cut", f"{host}: {_words(each)}", "check the network between here and the upstream")
    if isinstance(first, httpx.ConnectError):
        return Cause("cut", f"{host} closed the connection at its start", "check the upstream's port and protocol")
    return Cause(
        "cut",
        f"{host} closed the connection before its answer was complete",
        "check the upstream, and proxies before it",
    )


def _words(error: OSError) -> str:
    return printable_words(error.strerror or type(error).__name__).lower()


def printable_words(text: str) -> str:
    """Return a message of OpenSSL or the operating system, shortened, without control characters."""
    return re.sub(r"[^ -~]", "?", text)[:200]


def _phrase(status: int) -> str:
    try:
        return f" {http.HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _proxy_credentials(variable: str | None) -> str:
    return f"set the proxy's user and password in {variable or 'HTTPS_PROXY'} (http://user:password@host:port)"
