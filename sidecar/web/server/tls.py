"""TLS for the sidecar's port: certificate and key from files, taken anew when these change. Imported where it is on."""

from __future__ import annotations

import asyncio
import logging
import ssl
import stat
from asyncio import sslproto
from pathlib import Path
from typing import Any

from sidecar.core.disk_hints import hint_to_read
from sidecar.core.errors import OperatorError
from sidecar.core.settings import TlsSettings

log = logging.getLogger("sidecar.web")

LOOK_SECONDS = 5.0
"""Between two looks at the files."""
_LIMIT = 1024 * 1024
_BUFFER = 16 * 1024
"""Bytes that a connection's buffer takes from its begin, before the handshake; asyncio's 256 KiB are for bulk."""


class TlsRefused(OperatorError):
    """The files can't be used; `variable` is the setting that names them."""

    def __init__(self, variable: str, reason: str, hint: str) -> None:
        super().__init__(reason, hint)
        self.variable = variable

    def __str__(self) -> str:
        return f"{self.variable}: {super().__str__()}"


class RenewableContext(ssl.SSLContext):
    """What a listener takes for its whole life; each handshake is done with the context that is right by then."""

    now: ssl.SSLContext

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:  # noqa: ANN401 - as the base has it
        """As asyncio calls it for each connection."""
        return self.now.wrap_bio(*args, **options)


class Tls:
    """The certificate in use."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises `TlsRefused`."""
        sslproto.SSLProtocol.max_size = _BUFFER  # not documented; without it 300 silent clients took 83 MB
        self._settings = settings
        self._seen = self._look()
        self.context = RenewableContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.now = load(settings)

    async def keep_fresh(self) -> None:
        """Follow the files for ever. One pair that can't be used is refused, and the one before it stays."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self._renew)
            except TlsRefused as error:
                log.error("the new TLS files are refused, the old certificate stays in use: %s", error)
            except Exception:
                log.exception("internal error while looking at the TLS files; the old certificate stays in use")

    def _renew(self) -> None:
        seen = self._look()
        if seen != self._seen:
            self._seen = seen  # whatever comes of it: what is refused is told once
            self.context.now = load(self._settings)
            log.info("the TLS files have changed: new connections get the new certificate")

    def _look(self) -> list[tuple[int, ...] | None]:
        """What changes when a file does, also where a link to it is swapped, as Kubernetes does."""
        files = (self._settings.cert, self._settings.key, self._settings.client_ca)
        return [None if path is None else _identity(path) for path in files]


def load(settings: TlsSettings) -> ssl.SSLContext:
    """A context of the files as they are now. Raises `TlsRefused`; warns of what clients will refuse."""
    cert, key = settings.cert, settings.key or settings.cert
    if cert is None or key is None:
        alone = "SIDECAR_TLS_CLIENT_CA" if settings.key is None else "SIDECAR_TLS_KEY"
        raise TlsRefused(alone, "there is no certificate to it", "set SIDECAR_TLS_CERT, or unset this")
    chain = _pem("SIDECAR_TLS_CERT", cert, "CERTIFICATE-----", "a certificate")
    variable = "SIDECAR_TLS_CERT" if settings.key is None else "SIDECAR_TLS_KEY"
    _pem(variable, key, "PRIVATE KEY-----", "a private key")
    if key.stat().st_mode & stat.S_IROTH:
        log.warning("%s: every user can read %s; take that away: chmod o-r", variable, key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def no_passphrase() -> bytes:
        raise TlsRefused(variable, f"the key in {str(key)!r} is encrypted", "decrypt it: openssl pkey -in OLD -out NEW")

    try:
        context.load_cert_chain(cert, key, no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        if "KEY_VALUES_MISMATCH" in str(error) or "KEY_TYPE_MISMATCH" in str(error):
            reason = f"the key in {str(key)!r} is of another certificate than the first one in {str(cert)!r}"
            raise TlsRefused(variable, reason, "give the key that the certificate was made with") from None
        reason = f"{str(cert)!r} and the key in {str(key)!r} can't be used: {error}"
        raise TlsRefused("SIDECAR_TLS_CERT", reason, "give a certificate and its key, whole, as PEM") from None
    if settings.client_ca is not None:
        _trust(context, settings.client_ca)
    if (complaint := _rehearse(context, chain)) is not None:
        log.warning("SIDECAR_TLS_CERT: clients will refuse the certificate in %s: %s", cert, complaint)
    return context


def _trust(context: ssl.SSLContext, client_ca: Path) -> None:
    """Ask clients for a certificate. None is needed to connect: kubelet's probes have none."""
    text = _pem("SIDECAR_TLS_CLIENT_CA", client_ca, "CERTIFICATE-----", "a certificate")
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        reason = f"{str(client_ca)!r} can't be used: {error}"
        raise TlsRefused("SIDECAR_TLS_CLIENT_CA", reason, "give the CA's certificates as PEM") from None
    context.verify_mode = ssl.CERT_OPTIONAL


def _pem(variable: str, path: Path, mark: str, what: str) -> str:
    """The text of a file that has such a thing in it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise TlsRefused(variable, f"{str(path)!r} is not a regular file", f"name a file that holds {what}")
        with path.open("rb") as file:
            text = file.read(_LIMIT).decode("ascii", "replace")
    except OSError as error:
        hint = hint_to_read(error, "the file", "mount the file so that uid {uid} can read it")
        raise TlsRefused(variable, f"can't read {str(path)!r}: {error.strerror}", hint) from None
    if mark not in text:
        kind = what.removeprefix("a ")
        raise TlsRefused(variable, f"{str(path)!r} holds no {kind} in PEM form", f"name {what} as PEM")
    return text


def _rehearse(server: ssl.SSLContext, chain: str) -> str | None:
    """Why a client that trusts just this certificate would refuse it (it has expired, is for another purpose); None:
    it would not.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.load_verify_locations(cadata=chain)
        asks = client.wrap_bio(back, there)
        answers = server.wrap_bio(there, back, server_side=True)
        for _ in range(3):  # TLS 1.2 takes two rounds, 1.3 one and a half
            for side in (asks, answers):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return str(error)
    return None


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None  # which is another one than before, and refused
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode
