"""Checks answers of the sidecar against its description."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from sidecar.web.openapi.document import compose
from tests.support.container import ROOT

JSON = ROOT / "sidecar" / "web" / "openapi" / "openapi.json"
CONVERT = "run `.venv-dev/bin/python setup.py build_openapi`"
if not JSON.exists():
    raise RuntimeError(f"{JSON} is missing: {CONVERT}")

CHECKS = {
    "process": True,
    "http": True,
    "write": True,
    "lock": True,
    "replication": True,
    "root-password": True,
    "disk": False,
    "events": False,
    "mirror": False,
}
"""Each check, and whether it gates readiness."""
DOCUMENT: dict[str, Any] = compose("1.2.3", CHECKS)
METHODS = frozenset({"get", "head", "post", "options"})
UNTOLD = frozenset({"Connection", "Content-Length", "Content-Type", "Date", "Server", "Transfer-Encoding"})
"""Headers that OpenAPI ignores, or that HTTP itself adds to every answer."""


def resolved(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """`part`, or what it refers to."""
    while "$ref" in part:
        _, _, kind, name = part["$ref"].split("/")
        part = DOCUMENT["components"][kind][name]
    return part


def conforms(value: object, schema: Mapping[str, Any]) -> None:
    """Raises jsonschema.ValidationError with the error and its place."""
    _validator(json.dumps(schema)).validate(value)


@cache
def _validator(schema: str) -> Draft202012Validator:
    whole = {**json.loads(schema), "components": DOCUMENT["components"]}
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


def responses(method: str, path: str) -> Mapping[str, Any]:
    """Status code → answer, as described for a concrete path, which may have a query."""
    item = _item(path.partition("?")[0])
    everywhere = {code: each for code, each in DOCUMENT["paths"]["/"]["options"]["responses"].items() if code != "204"}
    if item is None:
        return everywhere | {"404": {"$ref": "#/components/responses/NotFound"}}
    if method.lower() not in item:
        return everywhere | {"405": {"$ref": "#/components/responses/MethodNotAllowed"}}
    found: Mapping[str, Any] = item[method.lower()]["responses"]
    return found


def _item(path: str) -> Mapping[str, Any] | None:
    for template, item in DOCUMENT["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
            found: Mapping[str, Any] = item
            return found
    return None


def hold(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Check status, headers, media type and body; raises AssertionError or ValidationError."""
    told = responses(method, path)
    assert str(status) in told, f"{method} {path}: {status} is not described"
    answer = resolved(told[str(status)])
    _hold_headers(f"{method} {path}: {status}", answer.get("headers", {}), headers)
    content = answer.get("content", {})
    if not content or method == "HEAD":
        assert body == b"", f"{method} {path}: {status} has no body in its description"
        return
    kind = headers["Content-Type"].partition(";")[0]
    assert kind in content, f"{method} {path}: {status} as {kind} is not described"
    conforms(json.loads(body) if kind.endswith("json") else body.decode(), content[kind]["schema"])


def _hold_headers(what: str, described: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    sent = {name.lower(): value for name, value in headers.items()}
    unknown = set(sent) - {name.lower() for name in (*described, *UNTOLD)}
    assert not unknown, f"{what} has headers that are not described: {unknown}"
    for name, part in described.items():
        header = resolved(part)
        value = sent.get(name.lower())
        assert value is not None or not header["required"], f"{what} lacks {name}"
        if value is not None:
            conforms(int(value) if header["schema"].get("type") == "integer" else value, header["schema"])
