"""Keep the sidecar's own requests (probes) out of devpi's log, which has a line for every request.

A probe's warnings and errors are logged once, until a probe of the same path succeeds.
"""

from __future__ import annotations

import hmac
import logging
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

from sidecar.devpi.protocol import PROBE_HEADER
from sidecar.worker.repeats import wording

PROBE = "devpi_sidecar.probe"
"""The key of the WSGI environment that shows the wrapped app whether the request is a probe."""


def environ_key(header: str) -> str:
    """Return the key of a request header in the WSGI environment."""
    return "HTTP_" + header.upper().replace("-", "_")


_KEY = environ_key(PROBE_HEADER)

_FIGURES = re.compile(r"\d+")
_SHOWN = "sidecar_probe_shown"
_MOST_KNOWN = 100
"""Lines that are remembered for one path."""

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class AccessLogFilter:
    """A WSGI app around devpi's, and the filter of devpi's log."""

    def __init__(self, app: WsgiApp, secret: str) -> None:
        self._app = app
        self._secret = secret.encode()
        self._thread = threading.local()
        self._reported: dict[str, set[str]] = {}
        """By path: the lines logged since the last successful probe there, without figures."""
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._shows)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Pass the request on; devpi handles it in this thread."""
        secret = environ.pop(_KEY, None)
        probe = secret is not None and hmac.compare_digest(secret.encode("latin-1"), self._secret)
        self._thread.look = environ[PROBE] = probe
        if not probe:
            return self._app(environ, start_response)
        self._thread.path = path = environ.get("PATH_INFO", "")

        def start(status: str, *rest: Any) -> Any:  # noqa: ANN401 - WSGI's signature
            if status.startswith("2"):
                self._reported.pop(path, None)
            return start_response(status, *rest)

        return self._app(environ, start)

    def _shows(self, record: logging.LogRecord) -> bool:
        """Whether to log the record. Each handler calls this; the first decision holds for all."""
        if _SHOWN not in record.__dict__:
            record.__dict__[_SHOWN] = self._is_news(record)
        return bool(record.__dict__[_SHOWN])

    def _is_news(self, record: logging.LogRecord) -> bool:
        if not getattr(self._thread, "look", False):
            return True
        if record.levelno <= logging.INFO:
            return False
        known = self._reported.setdefault(self._thread.path, set())
        line = _FIGURES.sub("", wording(record))
        if line in known or len(known) >= _MOST_KNOWN:
            return False
        known.add(line)
        return True
