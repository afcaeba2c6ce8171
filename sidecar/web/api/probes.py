"""`/livez`, `/startupz`, `/readyz`, `/health`: answered from memory, without redirects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from aiohttp import web

from sidecar.core.check import FAIL, PASS, PENDING, WARN, Check, CheckStatus, overall
from sidecar.core.feature import Json
from sidecar.core.public import public
from sidecar.features.health.monitor import Health
from sidecar.web import serializers
from sidecar.web.context import CONTEXT
from sidecar.web.negotiation import wants_text
from sidecar.web.problems import Problem


async def livez(request: web.Request) -> web.Response:
    """Check that the sidecar is alive.

    200: the event loop, the supervisor and the monitor tick. 503: the supervisor or the monitor doesn't.
    """
    context = request.app[CONTEXT]
    ages = {"supervisor": context.tick_age(), "monitor": context.of(Health).age()}
    late = {
        name: "it has stopped" if math.isinf(age) else f"no tick for {age:.0f} s"
        for name, age in ages.items()
        if age > context.patience
    }
    status = FAIL if late else PASS
    if wants_text(request, otherwise=True):
        lines = [f"[-]{name} failed: {late[name]}" if name in late else f"[+]{name} ok" for name in ages]
        return _text(request, "livez", status, lines)
    return _json(status, [{"name": name, "status": "fail", "reason": why} for name, why in late.items()])


async def startupz(request: web.Request) -> web.Response:
    """Check that the container has started.

    200: always, because the port listens only with valid settings. A startup probe must not kill a long import, so
    only `/readyz` waits for it.
    """
    if wants_text(request, otherwise=True):
        return _text(request, "startupz", PASS, ["[+]settings ok", "[+]listener ok"])
    return _json(PASS, [])


async def readyz(request: web.Request) -> web.Response:
    """Check that devpi-server is ready for its clients.

    200: all gating checks pass or warn, ignoring those in `?exclude=NAME`. 503: one fails or is pending; the body
    contains its name and the reason.
    """
    checks = request.app[CONTEXT].board.checks()
    exclude = frozenset(request.query.getall("exclude", ())) if request.query_string else frozenset()
    verbose = _verbose(request)
    blocking = [c for c in checks if c.blocks and c.name not in exclude]
    unknown = sorted(exclude.difference(c.name for c in checks))
    if wants_text(request, otherwise=verbose):
        return _text(request, "readyz", overall(blocking), _lines(checks, exclude, unknown))
    shown = [c for c in checks if c.name not in exclude] if verbose else blocking
    warnings = [f"there is no check {name!r} to exclude" for name in unknown]
    return _json(overall(blocking), [serializers.check(c) for c in shown], warnings)


async def readyz_check(request: web.Request) -> web.Response:
    """Return one check.

    200: it passes or warns, or it doesn't gate. 503: it gates, and fails or is pending. 404: no check has this name.
    """
    checks = request.app[CONTEXT].board.checks()
    found = next((c for c in checks if c.name == request.match_info["check"]), None)
    if found is None:
        raise Problem(404, detail=f"no such check; the checks are {', '.join(c.name for c in checks)}")
    code = 503 if found.blocks else 200
    if wants_text(request, otherwise=_verbose(request)):
        plain = found.status in (PASS, WARN) and not _verbose(request)
        return web.Response(status=code, text="ok" if plain else f"{_line(found)}\n")
    return web.json_response(serializers.check(found), status=code)


async def health(request: web.Request) -> web.Response:
    """Return all checks.

    200: always; `status` is `fail` or `pending` if a gating check is, otherwise the worst of `pass`, `pending`, `warn`.
    """
    checks = request.app[CONTEXT].board.checks()
    return web.json_response({"status": overall(checks).value, "checks": [serializers.check(c) for c in checks]})


_ENDINGS = {PASS: "passed", FAIL: "failed", PENDING: "pending"}


def _verbose(request: web.Request) -> bool:
    return bool(request.query_string) and "verbose" in request.query


def _text(request: web.Request, probe: str, status: CheckStatus, lines: Iterable[str]) -> web.Response:
    """Return the text of Kubernetes' API server: `ok`, or all lines if a check blocks or the query has `verbose`."""
    if (ok := status is PASS) and not _verbose(request):
        return web.Response(text="ok")
    last = f"{probe} check {_ENDINGS[status]}"
    return web.Response(status=200 if ok else 503, text="\n".join([*lines, last, ""]))


def _json(status: CheckStatus, checks: list[Json], warnings: Sequence[str] = ()) -> web.Response:
    body: Json = {"status": status.value, "checks": checks}
    if warnings:
        body["warnings"] = list(warnings)
    return web.json_response(body, status=200 if status is PASS else 503)


def _lines(checks: Iterable[Check], exclude: frozenset[str], unknown: list[str]) -> list[str]:
    lines = [f"[+]{c.name} excluded: ok" if c.name in exclude else _line(c) for c in checks]
    if unknown:
        names = ", ".join(f'"{_flat(name)}"' for name in unknown)
        lines.append(f"warn: some health checks cannot be excluded: no matches for {names}")
    return lines


def _line(check: Check) -> str:
    why = "; ".join(part for part in (public(check.reason), public(check.hint)) if part)
    if check.status in (FAIL, PENDING):
        return _flat(f"[{'-' if check.blocks else '+'}]{check.name} {_ENDINGS[check.status]}: {why}")
    return _flat(f"[+]{check.name} ok" + (f" (warning: {why})" if check.status is WARN else ""))


def _flat(text: str) -> str:
    """Return `text` as one line."""
    return "".join(c if c.isprintable() else " " for c in text)
