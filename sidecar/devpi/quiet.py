"""Keeps the sidecar's own looks at devpi-server out of devpi's log, which has a line for every request."""

from __future__ import annotations

import hmac
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

HEADER = "X-Devpi-Sidecar-Look"
"""Carries a secret of this run, so that nobody else can stay out of the log."""

LOOK = "devpi_sidecar.look"
"""The key of the WSGI environment under which the app inside finds whether this is one."""


def environ_key(header: str) -> str:
    """Where the WSGI environment has a request's header."""
    return "HTTP_" + header.upper().replace("-", "_")


_KEY = environ_key(HEADER)

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class QuietLooks:
    """A WSGI app around devpi's, and the filter of its log."""

    def __init__(self, app: WsgiApp, secret: str) -> None:
        self._app = app
        self._secret = secret.encode()
        self._thread = threading.local()
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._shows)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Hand the request on; devpi handles it in this thread."""
        said = environ.pop(_KEY, None)
        look = said is not None and hmac.compare_digest(said.encode("latin-1"), self._secret)
        self._thread.look = environ[LOOK] = look
        return self._app(environ, start_response)

    def _shows(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or not getattr(self._thread, "look", False)
