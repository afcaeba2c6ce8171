"""The CA certificates by which upstreams are verified."""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path

from devpi_server.log import threadlog
from requests.utils import DEFAULT_CA_BUNDLE_PATH

_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


@functools.cache
def client_context(ca: str | None) -> ssl.SSLContext:
    """Return the context for connections to upstreams, made once.

    It trusts the first of the usual variables, else devpi's default bundle; `ca`, a PEM file, in addition. A file that
    can't be used is logged and left out: then the upstream's certificate is not trusted, and the cause says so.
    """
    for variable in _VARIABLES:
        path = os.environ.get(variable)
        if path:
            try:
                context = _load(path)
                break
            except (OSError, ssl.SSLError) as error:
                threadlog.warn("%s=%s can't be used as CA certificates: %s", variable, path, error)
    else:
        context = _load(DEFAULT_CA_BUNDLE_PATH) if Path(DEFAULT_CA_BUNDLE_PATH).exists() else _load(None)
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            threadlog.warn("DEVPI_MIRROR_CA=%s can't be used: %s", ca, error)
    return context


def _load(path: str | None) -> ssl.SSLContext:
    if path is not None and Path(path).is_dir():
        return ssl.create_default_context(capath=path)
    return ssl.create_default_context(cafile=path)
