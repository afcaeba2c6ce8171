"""Reports of the upstreams of mirrors, as devpi-server's process sends them."""

from __future__ import annotations

from typing import Any

from sidecar.devpi.protocol import UPSTREAM_SECONDS, UpstreamsSeen
from sidecar.features.mirror.upstream_state import Upstream, parse

AT = 1795342830.0
"""2026-11-22 10:20:30 UTC."""


def seen_up(index: str, **fields: Any) -> dict[str, Any]:
    """Return the report of an upstream that answers, changed by `fields`."""
    return {
        "index": index,
        "url": "https://user:s3cret@index.example/simple/",
        "state": "up",
        "last_success": AT,
        "last_failure": None,
        "next_try": None,
        "error": None,
        "list": "fresh",
        "list_at": AT,
        "list_names": 650123,
        "list_error": None,
        "answers": {"200": 61, "304": 4},
        "durations": [60, 5, *[0] * (len(UPSTREAM_SECONDS) - 1)],
        "seconds": 2.5,
        "pages": {"hit": 812, "miss": 40, "stale": 0, "failed": 0},
        "files": {"hit": 511, "miss": 25, "stale": 0, "failed": 0},
        "bytes": 48123456,
        **fields,
    }


def seen_failing(
    index: str,
    reason: str = "the certificate is not signed by a trusted CA",
    hint: str = "set DEVPI_MIRROR_CA to the file /etc/ca.pem",
    **fields: Any,
) -> dict[str, Any]:
    """Return the report of an upstream that has never answered, and is not asked now."""
    none = {"hit": 0, "miss": 0, "stale": 0, "failed": 0}
    failing = {
        "url": "https://index.example.com:8443/t0ken/simple/?key=s3cret",
        "state": "down",
        "last_success": None,
        "last_failure": AT + 1237,
        "next_try": AT + 1252,
        "error": {"kind": "trust", "reason": reason, "hint": hint},
        "list": "off",
        "list_at": None,
        "list_names": None,
        "answers": {"trust": 3},
        "durations": [3, *[0] * len(UPSTREAM_SECONDS)],
        "seconds": 0.03,
        "pages": none,
        "files": none,
        "bytes": 0,
    }
    return seen_up(index, **{**failing, **fields})


def upstreams_of(*seen: dict[str, Any]) -> tuple[Upstream, ...]:
    """Return what is understood of these."""
    return parse(UpstreamsSeen(len(seen), list(seen)))
