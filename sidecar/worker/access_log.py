"""Keeps the sidecar's own looks at devpi-server out of devpi's log, which has a line for every request.

What goes wrong with one is logged, but not again while the same goes wrong: nobody asks as often as the sidecar does.
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
"""The key of the WSGI environment under which the app inside finds whether this is one."""


def environ_key(header: str) -> str:
    """Where the WSGI environment has a request's header."""
    return "HTTP_" + header.upper().replace("-", "_")


_KEY = environ_key(PROBE_HEADER)

_FIGURES = re.compile(r"\d+")
_SHOWN = "sidecar_probe_shown"
_MOST_TOLD = 100
"""Lines that are remembered for one path."""

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class AccessLogFilter:
    """A WSGI app around devpi's, and the filter of its log."""

    def __init__(self, app: WsgiApp, secret: str) -> None:
        self._app = app
        self._secret = secret.encode()
        self._thread = threading.local()
        self._reported: dict[str, set[str]] = {}
        """By path: what was logged since a look there last went well, without figures."""
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._shows)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Hand the request on; devpi handles it in this thread."""
        said = environ.pop(_KEY, None)
        look = said is not None and hmac.compare_digest(said.encode("latin-1"), self._secret)
        self._thread.look = environ[PROBE] = look
        if not look:
            return self._app(environ, start_response)
        self._thread.path = path = environ.get("PATH_INFO", "")

        def start(status: str, *rest: Any) -> Any:  # noqa: ANN401 - as WSGI has it
            if status.startswith("2"):
                self._reported.pop(path, None)
            return start_response(status, *rest)

        return self._app(environ, start)

    def _shows(self, record: logging.LogRecord) -> bool:
        """For each handler: what is decided for one of them holds for the others."""
        if _SHOWN not in record.__dict__:
            record.__dict__[_SHOWN] = self._is_news(record)
        return bool(record.__dict__[_SHOWN])

    def _is_news(self, record: logging.LogRecord) -> bool:
        if not getattr(self._thread, "look", False):
            return True
        if record.levelno <= logging.INFO:
            return False
        told = self._reported.setdefault(self._thread.path, set())
        said = _FIGURES.sub("", wording(record))
        if said in told or len(told) >= _MOST_TOLD:
            return False
        told.add(said)
        return True
