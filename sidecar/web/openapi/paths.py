"""Each path of the API, described once: GET or POST; `document` adds what follows from that."""

from __future__ import annotations

from sidecar.core.feature import Json
from sidecar.web.openapi.admin_paths import BOOTSTRAP, CLAIM, ROTATE
from sidecar.web.openapi.answers import VERBOSE, answer, body, failing, json_body, query
from sidecar.web.openapi.examples import (
    DEAD,
    HEALTH,
    IMPORTING,
    IMPORTING_CHECK,
    NOT_READY,
    PROCESS,
    READY,
    STARTED,
    TEXT_NOT_READY,
)
from sidecar.web.openapi.part import Operation
from sidecar.web.openapi.schemas import problem


def _probe_text(probe: str, endings: str = "passed|failed") -> Json:
    return {"type": "string", "pattern": rf"^(?:ok|(?:.+\n)*{probe} check (?:{endings})\n)$"}


_LIVEZ: Operation = {
    "tags": ["probes"],
    "summary": "Whether this process is worth keeping.",
    "parameters": [VERBOSE],
    "responses": {
        "200": answer(
            "The event loop, the supervisor and the monitor tick.",
            body("text/plain", _probe_text("livez"), plain="ok") | json_body("Liveness", alive=STARTED),
        ),
        "503": answer(
            "The supervisor or the monitor does not.",
            body(
                "text/plain",
                _probe_text("livez"),
                hangs="[-]supervisor failed: no tick for 11 s\n[+]monitor ok\nlivez check failed\n",
            )
            | json_body("Liveness", hangs=DEAD),
        ),
    },
}

_STARTUPZ: Operation = {
    "tags": ["probes"],
    "summary": "Whether the container came up so far that it can be asked.",
    "parameters": [VERBOSE],
    "responses": {
        "200": answer(
            "Always: a startup probe must not kill a long import.",
            body("text/plain", _probe_text("startupz"), plain="ok") | json_body("Startup", started=STARTED),
        )
    },
}

_READYZ: Operation = {
    "tags": ["probes"],
    "summary": "Whether devpi-server serves, as its clients would find.",
    "parameters": [
        VERBOSE,
        query(
            "exclude",
            "The name of a check that is left aside.",
            {"type": "array", "items": {"type": "string"}},
            example=["replication"],
        ),
    ],
    "responses": {
        "200": answer(
            "All gating checks pass or warn.",
            body("text/plain", _probe_text("readyz"), plain="ok") | json_body("Readiness", ready=STARTED),
        ),
        "503": answer(
            "A gating check fails or is pending; the body says which and why.",
            json_body("Readiness", importing=NOT_READY)
            | body("text/plain", _probe_text("readyz", "failed|pending"), importing=TEXT_NOT_READY),
        ),
    },
}

_CHECK_TEXT: Json = {"type": "string", "pattern": r"^(?:ok|\[[+-]\].+\n)$"}

_READYZ_CHECK: Operation = {
    "tags": ["probes"],
    "summary": "Whether one check passes.",
    "parameters": [VERBOSE],
    "responses": {
        "200": answer(
            "It passes or warns, or is pending and doesn't gate.",
            json_body("Check", passes=PROCESS) | body("text/plain", _CHECK_TEXT, passes="ok"),
        ),
        "404": failing(
            "There is no such check.",
            "Problem",
            example=problem(404, detail="no such check; there are process, http, write"),
        ),
        "503": answer(
            "It gates, and fails or is pending.",
            json_body("Check", pending=IMPORTING_CHECK)
            | body("text/plain", _CHECK_TEXT, pending="[-]process pending: importing: 512 of 2000 files\n"),
        ),
    },
}

_HEALTH: Operation = {
    "tags": ["state"],
    "summary": "All checks.",
    "responses": {"200": answer("Always: look at `status`.", json_body("Health", sound=HEALTH))},
}

_STATUS: Operation = {
    "tags": ["state"],
    "summary": "Name, phase, versions, the import in full, the state of root's password, and numbers.",
    "responses": {"200": answer("Always.", json_body("Status", importing=IMPORTING, ready=READY))},
}

_OPENAPI: Operation = {
    "tags": ["description"],
    "summary": "This API, described in OpenAPI 3.1.",
    "responses": {
        "200": answer(
            "OpenAPI 3.1.",
            {"application/json": {"schema": {"type": "object", "required": ["openapi", "info", "paths"]}}},
            headers=("ETag",),
            revalidate=True,
        ),
        "304": answer("It is what `If-None-Match` has.", headers=("ETag",), revalidate=True),
    },
}

_DOCS: Operation = {
    "tags": ["description"],
    "summary": "The same as a page to read.",
    "responses": {
        "200": answer(
            "HTML without scripts, in the style of the page at `/`.",
            {"text/html": {"schema": {"type": "string"}}},
            headers=("Content-Security-Policy", "ETag"),
            revalidate=True,
        ),
        "304": answer("It is what `If-None-Match` has.", headers=("Content-Security-Policy", "ETag"), revalidate=True),
    },
}

_INDEX: Operation = {
    "tags": ["state"],
    "summary": "How it is, as a page for browsers; else this list.",
    "responses": {
        "200": answer(
            "Always; HTML for who names it in `Accept`.",
            body("text/plain", {"type": "string"}, begins="devpi-sidecar\n")
            | {"text/html": {"schema": {"type": "string"}}},
            headers=("Vary", "Content-Security-Policy", "Referrer-Policy"),
        )
    },
}


def _of_the_page(what: str, kind: str) -> Operation:
    return {
        "tags": ["state"],
        "summary": f"The page's {what}.",
        "responses": {"200": answer("Always.", {kind: {"schema": {"type": "string"}}})},
    }


_EVENTS: Operation = {
    "tags": ["state"],
    "summary": "What changes on the page, as server-sent events.",
    "responses": {
        "200": answer(
            "Without an end. The data of a `section` is a list of its name and its HTML.",
            {"text/event-stream": {"schema": {"type": "string"}}},
            headers=("X-Accel-Buffering",),
        ),
        "503": failing(
            "Too many are open already.",
            "TooManyStreams",
            headers=("Retry-After",),
            example=problem(503, "too-many-streams", "200 pages are open already; this one is not live, reload it"),
        ),
    },
}

_METRICS: Operation = {
    "tags": ["state"],
    "summary": "All metrics, for Prometheus; OpenMetrics by `Accept`.",
    "responses": {
        "200": answer(
            "Always, from memory.",
            body("text/plain", {"type": "string"}, begins='devpi_sidecar_phase{phase="ready"} 1.0\n')
            | {"application/openmetrics-text": {"schema": {"type": "string"}}},
        )
    },
}

PATHS: dict[str, dict[str, Operation]] = {
    "/": {"get": _INDEX},
    "/page.css": {"get": _of_the_page("style", "text/css")},
    "/page.js": {"get": _of_the_page("script", "text/javascript")},
    "/page.svg": {"get": _of_the_page("icon", "image/svg+xml")},
    "/events": {"get": _EVENTS},
    "/livez": {"get": _LIVEZ},
    "/startupz": {"get": _STARTUPZ},
    "/readyz": {"get": _READYZ},
    "/readyz/{check}": {"get": _READYZ_CHECK},
    "/health": {"get": _HEALTH},
    "/status": {"get": _STATUS},
    "/metrics": {"get": _METRICS},
    "/bootstrap": {"get": BOOTSTRAP},
    "/bootstrap/root-password": {"post": CLAIM},
    "/bootstrap/rotate": {"post": ROTATE},
    "/openapi.json": {"get": _OPENAPI},
    "/docs": {"get": _DOCS},
}
"""Path → method → operation."""
