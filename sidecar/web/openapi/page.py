"""The description of the API as a page, in the design of the page at `/`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import chain, groupby
from typing import Any

POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src 'self'; style-src 'self'"
)
"""The page's Content-Security-Policy: style and icon of the page at `/`, nothing else."""

_METHODS = ("get", "post")
"""What the page shows; HEAD and OPTIONS are in the description's introduction."""
_NEEDED = {"adminToken": "`Authorization: Bearer TOKEN`", "clientCertificate": "a client certificate"}
"""By the name of a security scheme."""

_Part = Mapping[str, Any]


def page(document: _Part, name: str, edition: str) -> str:
    """Return the page on an OpenAPI document, for the instance `name`, with the style of this `edition`.

    Each link's target is inside of a `details` element: browsers open it without a script.
    """
    from sidecar.web.page.rendering import render  # imports Jinja2: not where `POLICY` is imported

    parts = document["components"]
    found = [(method, path, item) for path, item in document["paths"].items() for method in _METHODS if method in item]
    answers = [_resolved(answer, parts) for method, _, item in found for answer in item[method]["responses"].values()]
    everywhere = set.intersection(*(set(answer.get("headers", ())) for answer in answers))
    operations = [_operation(method, path, item, parts, everywhere) for method, path, item in found]
    return render(
        "docs",
        name=name,
        title="API",
        edition=edition,
        info=document["info"],
        about=_blocks(document["info"]["description"]),
        everywhere=sorted(everywhere),
        tags=[(tag, [each for each in operations if tag["name"] in each["tags"]]) for tag in document["tags"]],
        schemas=parts["schemas"],
    )


def _operation(method: str, path: str, item: _Part, parts: _Part, everywhere: set[str]) -> dict[str, Any]:
    """Return an operation with all references resolved, as the template shows it."""
    of = item[method]
    parameters = [*item.get("parameters", ()), *of.get("parameters", ())]
    return {
        "id": of["operationId"],
        "name": f"{method.upper()} {path}",
        "summary": of["summary"],
        "tags": of["tags"],
        "description": of.get("description"),
        "needs": [
            f"{_NEEDED[each]}: {parts['securitySchemes'][each]['description']}"
            for each in chain(*of.get("security", ()))
        ],
        "parameters": [_resolved(each, parts) for each in parameters],
        "body": _answer(of["requestBody"], ()) if "requestBody" in of else None,
        "answers": [(code, _answer(_resolved(answer, parts), everywhere)) for code, answer in of["responses"].items()],
    }


def _answer(of: _Part, everywhere: Iterable[str]) -> dict[str, Any]:
    return {
        "description": of["description"],
        "headers": [name for name in of.get("headers", ()) if name not in everywhere],
        "content": [
            (kind, media["schema"], [(name, _shown(each["value"])) for name, each in media.get("examples", {}).items()])
            for kind, media in of.get("content", {}).items()
        ],
    }


def _shown(example: object) -> str:
    return example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)


def _resolved(part: _Part, parts: _Part) -> _Part:
    if "$ref" not in part:
        return part
    _, _, kind, name = part["$ref"].split("/")
    found: _Part = parts[kind][name]
    return found


def _blocks(text: str) -> list[tuple[bool, list[str]]]:
    """Return the paragraphs and lists of Markdown: whether it is a list, and its lines or items."""
    lines = re.sub(r"\n(?=[^\n-])", " ", text).splitlines()
    runs = groupby(filter(str.strip, lines), lambda line: line.startswith("- "))
    return [(is_list, [line.removeprefix("- ") for line in run]) for is_list, run in runs]
