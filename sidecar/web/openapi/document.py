"""The description of the API in OpenAPI 3.1, as it is served.

The build converts `openapi.yaml`, which describes each path once, to the JSON that is read here. Added here: HEAD,
OPTIONS, operation IDs, the contents of `x-everywhere`, and values of the running sidecar. `tests/web/test_openapi.py`
compares the result with the routes, their docstrings and real answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Document = dict[str, Any]

_FILE = Path(__file__).with_name("openapi.json")
_OPTIONS = {"204": {"$ref": "#/components/responses/Options"}}


def compose(version: str, checks: Mapping[str, bool], *, client_certificates: bool = False) -> Document:
    """Return the description of the API of the sidecar `version`.

    `checks`: the name of each check, and whether it gates readiness. `client_certificates`: admins need one, too.
    """
    document: Document = json.loads(_FILE.read_bytes())
    everywhere, components = document.pop("x-everywhere"), document["components"]
    document["info"]["version"] = version
    components["schemas"]["CheckName"] |= _check_name(checks)
    if not client_certificates:
        del components["securitySchemes"]["clientCertificate"]
    _add_headers(components["responses"], everywhere["headers"])
    for path, item in document["paths"].items():
        _complete(path, item, everywhere, {"clientCertificate": []} if client_certificates else {})
    return document


def _check_name(checks: Mapping[str, bool]) -> Document:
    gating, warning = ([name for name, gates in checks.items() if gates is which] for which in (True, False))
    return {
        "description": f"{', '.join(gating)} gate `/readyz`; {' and '.join(warning)} only warn.",
        "enum": [*gating, *warning],
    }


def _complete(path: str, item: Document, everywhere: Document, beside: Document) -> None:
    """Add what is derived from GET or POST of a path; `beside`: security required in addition to the admin token."""
    name = re.sub(r"\W+", "_", path).strip("_") or "index"
    for method in item.keys() & {"get", "post"}:
        operation = item[method]
        _add_headers(operation["responses"], everywhere["headers"])
        operation["operationId"] = f"{method}_{name}"
        operation["responses"] = dict(sorted((everywhere["responses"] | operation["responses"]).items()))
        for required in operation.get("security", ()):
            required.update(beside)
    if "get" in item:
        item["head"] = _head(item["get"]) | {"operationId": f"head_{name}"}
    item["options"] = {"operationId": f"options_{name}", "responses": everywhere["responses"] | _OPTIONS}
    if "parameters" in item:  # OPTIONS accepts any value
        item["options"]["parameters"] = [
            {"name": each, "in": "path", "required": True, "schema": {"type": "string"}}
            for each in re.findall(r"{(\w+)}", path)
        ]


def _add_headers(responses: Document, headers: Document) -> None:
    """Add the headers of every answer, except to references and where an answer has its own."""
    for answer in responses.values():
        if "$ref" not in answer:
            answer["headers"] = headers | answer.get("headers", {})


def _head(get: Document) -> Document:
    """Return the description of HEAD: that of GET without bodies and text."""
    responses = {
        code: {key: value for key, value in answer.items() if key != "content"}
        for code, answer in get["responses"].items()
    }
    return {key: get[key] for key in ("parameters", "security") if key in get} | {"responses": responses}
