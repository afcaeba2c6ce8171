"""The API, described in OpenAPI 3.1.

`paths` describes a path once; HEAD, OPTIONS and the answers that any request may get are put in here. What is said is
held against the routes, their docstrings and real answers by `tests/web/test_openapi.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from sidecar.core.feature import Json
from sidecar.web.openapi.answers import EVERYWHERE, HEADERS, PARAMETERS, RESPONSES, shared
from sidecar.web.openapi.json_schema import TEXT
from sidecar.web.openapi.mirror import MIRROR
from sidecar.web.openapi.part import Operation, Part
from sidecar.web.openapi.paths import PATHS
from sidecar.web.openapi.schemas import schemas

_ABOUT = """\
What the container of a devpi-server tells probes, people and programs.

- Text or JSON: the probes look at `Accept`.
- HEAD works where GET does, and OPTIONS everywhere. Another method is answered 405, another path 404.
- Each error is an `application/problem+json` (RFC 9457); its `type` tells programs which. That of an error that its
  status code says all about is `about:blank`.
- 503 with `Retry-After`: not yet, try again.
- A later version may have more fields: ignore those that you don't know.
"""

_TAGS = {
    "probes": "For kubelets, compose and load balancers.",
    "state": "For people and programs that want more than ready or not.",
    "admin": "For the bearer of the admin token.",
    "description": "Of this API.",
}

_ADMIN_TOKEN: Json = {
    "type": "http",
    "scheme": "bearer",
    "description": "`SIDECAR_ADMIN_TOKEN`, or what `sidecar token` prints inside the container."
    " The answer to a wrong one is held back for up to 2 seconds.",
}
_CLIENT_CERTIFICATE: Json = {
    "type": "mutualTLS",
    "description": "A client certificate by a CA in `SIDECAR_TLS_CLIENT_CA`; over the socket in the container none.",
}


PARTS: tuple[Part, ...] = (MIRROR,)
"""What features add, beyond those that `paths` and `schemas` know."""


def compose(version: str, checks: Mapping[str, bool], *, client_certificates: bool = False) -> Json:
    """The description of the sidecar's API at `version`. `client_certificates`: an admin needs one, too.

    `checks`: the name of each check, and whether it gates readiness.
    """
    paths: dict[str, Mapping[str, Operation]] = dict(PATHS)
    for part in PARTS:
        paths |= part.paths
    beside: Json = {"clientCertificate": _CLIENT_CERTIFICATE} if client_certificates else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "devpi-sidecar",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": {path: _path_item(path, operations, beside) for path, operations in paths.items()},
        "components": {
            "schemas": schemas(checks, PARTS),
            "responses": RESPONSES,
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": {"adminToken": _ADMIN_TOKEN} | beside,
        },
    }


def _path_item(path: str, operations: Mapping[str, Operation], beside: Json) -> Json:
    """All operations of a path, each with the answers that any request may get.

    `beside`: the security schemes that are needed beside those that an operation names.
    """
    name = re.sub(r"\W+", "_", path).strip("_") or "index"
    item: Json = {}
    if inside := re.findall(r"{(\w+)}", path):
        item["parameters"] = [{"$ref": f"#/components/parameters/{each}"} for each in inside]
    for method, operation in operations.items():
        responses = EVERYWHERE | cast(Json, operation["responses"])
        item[method] = {"operationId": f"{method}_{name}"} | operation | {"responses": dict(sorted(responses.items()))}
        if "security" in operation:
            needed = cast(list[Json], operation["security"])
            cast(Operation, item[method])["security"] = [each | {name: [] for name in beside} for each in needed]
        if method == "get":
            item["head"] = _head(cast(Operation, item["get"]), f"head_{name}")
    item["options"] = {
        "operationId": f"options_{name}",
        "responses": EVERYWHERE | {"204": shared("Options")},
    }
    if inside:  # of which it takes any
        parameters = [{"name": each, "in": "path", "required": True, "schema": TEXT} for each in inside]
        item["options"] = cast(Operation, item["options"]) | {"parameters": parameters}
    return item


def _head(get: Operation, name: str) -> Operation:
    """The same without bodies, and without many words."""
    responses = cast(dict[str, Json], get["responses"])
    bare = {
        code: {key: value for key, value in answer.items() if key != "content"} for code, answer in responses.items()
    }
    asked = {"parameters": get["parameters"]} if "parameters" in get else {}
    security = {"security": get["security"]} if "security" in get else {}
    return {"operationId": name, **asked, **security, "responses": bare}
