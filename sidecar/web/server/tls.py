"""TLS for the sidecar's port: certificate and key from files, reloaded when these change. Imported only if enabled."""

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
"""Between two checks of the files."""
_LIMIT = 1024 * 1024
_BUFFER = 16 * 1024
"""Bytes of a connection's buffer, allocated before the handshake; asyncio's 256 KiB are for bulk data."""


class TlsRefused(OperatorError):
    """The files can't be used; `variable` is their setting."""

    def __init__(self, variable: str, reason: str, hint: str) -> None:
        super().__init__(reason, hint)
        self.variable = variable

    def __str__(self) -> str:
        return f"{self.variable}: {super().__str__()}"


class RenewableContext(ssl.SSLContext):
    """A context for the whole life of a listener; each handshake uses the current context, `now`."""

    now: ssl.SSLContext

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:  # noqa: ANN401 - as the base has it
        """Start a handshake; asyncio calls this for each connection."""
        return self.now.wrap_bio(*args, **options)


class Tls:
    """The certificate in use."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises `TlsRefused`."""
        sslproto.SSLProtocol.max_size = _BUFFER  # undocumented; without it 300 silent clients take 83 MB
        self._settings = settings
        self._seen = self._look()
        self.context = RenewableContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.now = load(settings)

    async def keep_fresh(self) -> None:
        """Reload the files forever. If a new pair can't be used, the old one stays in use."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self._renew)
            except TlsRefused as error:
                log.error("can't use the new TLS files, the old certificate stays in use: %s", error)
            except Exception:
                log.exception("internal error while reloading the TLS files; the old certificate stays in use")

    def _renew(self) -> None:
        seen = self._look()
        if seen != self._seen:
            self._seen = seen  # even if they can't be used: logged only once
            self.context.now = load(self._settings)
            log.info("the TLS files have changed; new connections get the new certificate")

    def _look(self) -> list[tuple[int, ...] | None]:
        """Return what changes with a file, or with a link to it, which Kubernetes swaps."""
        files = (self._settings.cert, self._settings.key, self._settings.client_ca)
        return [None if path is None else _identity(path) for path in files]


def load(settings: TlsSettings) -> ssl.SSLContext:
    """Return a context of the current files. Raises `TlsRefused`; warns if clients will reject the certificate."""
    cert, key = settings.cert, settings.key or settings.cert
    if cert is None or key is None:
        alone = "SIDECAR_TLS_CLIENT_CA" if settings.key is None else "SIDECAR_TLS_KEY"
        raise TlsRefused(alone, "SIDECAR_TLS_CERT is not set", "set SIDECAR_TLS_CERT, or unset this")
    chain = _pem("SIDECAR_TLS_CERT", cert, "CERTIFICATE-----", "a certificate")
    variable = "SIDECAR_TLS_CERT" if settings.key is None else "SIDECAR_TLS_KEY"
    _pem(variable, key, "PRIVATE KEY-----", "a private key")
    if key.stat().st_mode & stat.S_IROTH:
        log.warning("%s: every user can read %s; run `chmod o-r` on it", variable, key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def no_passphrase() -> bytes:
        raise TlsRefused(variable, f"the key in {str(key)!r} is encrypted", "decrypt it: openssl pkey -in OLD -out NEW")

    try:
        context.load_cert_chain(cert, key, no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        if "KEY_VALUES_MISMATCH" in str(error) or "KEY_TYPE_MISMATCH" in str(error):
            reason = f"the key in {str(key)!r} does not match the first certificate in {str(cert)!r}"
            raise TlsRefused(variable, reason, "use the key that the certificate was made with") from None
        reason = f"{str(cert)!r} and the key in {str(key)!r} can't be used: {error}"
        raise TlsRefused("SIDECAR_TLS_CERT", reason, "use a complete certificate and its key as PEM") from None
    if settings.client_ca is not None:
        _trust(context, settings.client_ca)
    if (complaint := _rehearse(context, chain)) is not None:
        log.warning("SIDECAR_TLS_CERT: clients will reject the certificate in %s: %s", cert, complaint)
    return context


def _trust(context: ssl.SSLContext, client_ca: Path) -> None:
    """Ask clients for a certificate, but don't require one: kubelet's probes have none."""
    text = _pem("SIDECAR_TLS_CLIENT_CA", client_ca, "CERTIFICATE-----", "a certificate")
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        reason = f"{str(client_ca)!r} can't be used: {error}"
        raise TlsRefused("SIDECAR_TLS_CLIENT_CA", reason, "use the CA's certificates as PEM") from None
    context.verify_mode = ssl.CERT_OPTIONAL


def _pem(variable: str, path: Path, mark: str, what: str) -> str:
    """Return the text of a PEM file; check that it contains `mark`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise TlsRefused(variable, f"{str(path)!r} is not a regular file", f"set it to a file that contains {what}")
        with path.open("rb") as file:
            text = file.read(_LIMIT).decode("ascii", "replace")
    except OSError as error:
        hint = hint_to_read(error, "the file", "mount the file so that uid {uid} can read it")
        raise TlsRefused(variable, f"can't read {str(path)!r}: {error.strerror}", hint) from None
    if mark not in text:
        kind = what.removeprefix("a ")
        raise TlsRefused(variable, f"{str(path)!r} contains no {kind} in PEM format", f"set it to {what} as PEM")
    return text


def _rehearse(server: ssl.SSLContext, chain: str) -> str | None:
    """Return why a client that trusts only this certificate would reject it (expired, wrong purpose); None: it
    accepts it.
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
        return None  # differs from any file: `load` reports it
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode
