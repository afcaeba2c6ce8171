"""`/openapi.json` and `/docs` are complete, correct and small, and cost nothing until they are requested.

All tests in this folder also compare each answer with the description: see `Site.ask`.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator
from ruamel.yaml import YAML

from sidecar.core.check import CheckStatus
from sidecar.core.lifecycle import Phase
from sidecar.features.bootstrap.import_status import ImportState
from sidecar.features.credentials.password_status import RootPassword
from sidecar.web.api.description import _depends_on, _document, _page
from sidecar.web.app import ROUTES
from sidecar.web.context import CONTEXT
from sidecar.web.page.assets import edition
from tests.support.described import CONVERT, DOCUMENT, JSON, METHODS, conforms, hold, resolved, responses
from tests.web.conftest import Site

WEB = Path(__file__).resolve().parents[2] / "sidecar" / "web"
OPERATIONS = [(m, path, op) for path, item in DOCUMENT["paths"].items() for m, op in item.items() if m in METHODS]
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
EVERYWHERE = set(DOCUMENT["paths"]["/"]["options"]["responses"]) - {"204"}
HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


# --- the document ---------------------------------------------------------------------------------------------------


def test_the_json_is_made_of_the_yaml() -> None:
    """A checkout's JSON may be older than its YAML: only an installation converts it."""
    described = YAML(typ="safe").load(JSON.with_suffix(".yaml"))
    assert json.loads(JSON.read_text()) == described, f"{JSON} is out of date: {CONVERT}"


def test_it_is_openapi() -> None:
    """It matches the specification's schema, and all references can be resolved."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(DOCUMENT).validate()


async def test_client_certificates_are_described_where_they_are_needed(site: Site) -> None:
    """With the token, at the same operations; in the document and on the page."""
    app = site.web.runner.app
    plain = (await site.get("/docs")).body
    certified = replace(app[CONTEXT], client_certificates=True)
    document, page = json.loads(_document(*_depends_on(certified))), _page("devpi", *_depends_on(certified))
    OpenAPIV31SpecValidator(document).validate()
    admins = 0
    for method, path, operation in OPERATIONS:
        needed = document["paths"][path][method].get("security")
        admins += needed is not None
        assert needed == ([{"adminToken": [], "clientCertificate": []}] if "security" in operation else None)
    assert admins == 4
    assert document["components"]["securitySchemes"]["clientCertificate"]["type"] == "mutualTLS"
    assert "clientCertificate" not in DOCUMENT["components"]["securitySchemes"]
    needed_there = b"Requires a client certificate"
    assert (plain.count(needed_there), page.count(needed_there)) == (0, 3)


async def test_it_is_served_small_and_of_this_version(site: Site) -> None:
    """The same document, at most 80 kB; its version is the sidecar's."""
    answer = await site.get("/openapi.json")
    assert answer.json == DOCUMENT
    assert answer.json["info"]["version"] == "1.2.3"
    assert len(answer.body) <= 80_000


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_it_is_sent_once(site: Site, path: str) -> None:
    """304 if the client has it; the document for another or an invalid ETag."""
    etag = (await site.get(path)).headers["ETag"]
    for known in (etag, f"W/{etag}", "*", f'"other", {etag}'):
        assert (await site.get(path, **{"If-None-Match": known})).status == 304
    for other in ('"other"', etag.strip('"'), ""):
        assert (await site.get(path, **{"If-None-Match": other})).status == 200


def test_a_start_does_not_pay_for_it() -> None:
    """Neither the document nor the page is imported with the app."""
    code = "import sys, sidecar.container.main; print([name for name in sys.modules if 'web.openapi' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- against the code -----------------------------------------------------------------------------------------------


async def test_the_router_has_exactly_what_is_described(site: Site) -> None:
    """Every path and method; OPTIONS is answered by the middleware."""
    routes = {(r.method.lower(), r.resource.canonical) for r in site.web.runner.app.router.routes() if r.resource}
    options = {("options", path) for _, path in routes}
    assert routes | options == {(method, path) for method, path, _ in OPERATIONS}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_the_handler_says_the_same(route: Any) -> None:
    """Its docstring has the same summary, and the same status codes except those of any request."""
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    assert operation["summary"] == route.handler.__doc__.splitlines()[0]
    assert set(operation["responses"]) == EVERYWHERE | set(re.findall(r"\b[1-5]\d\d\b", route.handler.__doc__))


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (SCHEMAS["Phase"], Phase),
        (SCHEMAS["CheckStatus"], CheckStatus),
        (SCHEMAS["RootPasswordState"], RootPassword),
        (SCHEMAS["Import"]["properties"]["state"], ImportState),
    ],
)
def test_enumerations_have_the_values_of_the_code(schema: dict[str, Any], values: Any) -> None:
    """Each of them, in its order."""
    assert schema["enum"] == [each.value for each in values]


def raised() -> Iterator[tuple[int, str | None, str | None]]:
    """Return status, title and name of each problem that the code makes with constants."""
    for file in WEB.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
                values = [each.value if isinstance(each, ast.Constant) else None for each in node.args]
                names = [k.value.value for k in node.keywords if k.arg == "name" and isinstance(k.value, ast.Constant)]
                if isinstance(values[0], int):
                    yield values[0], str(values[1]) if values[1:] else None, str(names[0]) if names else None


def test_every_problem_is_described() -> None:
    """Each type with its title and status, and no others."""
    described = {
        (schema["status"]["const"], schema["title"]["const"], schema["type"]["const"].rpartition(":")[2])
        for schema in (each["properties"] for each in SCHEMAS.values() if "title" in each.get("properties", {}))
        if schema["type"]["const"] != "about:blank"
    }
    assert described == {each for each in raised() if each[2]}
    plain = {str(status) for status, _, name in raised() if name is None}
    assert plain <= {code for _, _, op in OPERATIONS for code in op["responses"]} | {"405"}


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield all schemas of objects inside a schema."""
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema["properties"], dict) and "type" in schema:
            yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


def test_no_object_is_open() -> None:
    """A field without a description makes an answer invalid."""
    found = list(objects(SCHEMAS))
    assert len(found) > 20
    assert [] == [each["description"] for each in found if each.get("additionalProperties") is not False]


# --- examples -------------------------------------------------------------------------------------------------------


def examples() -> Iterator[tuple[str, object, dict[str, Any]]]:
    """Yield each example with its schema."""
    for method, path, operation in OPERATIONS:
        contents = {code: resolved(each).get("content", {}) for code, each in operation["responses"].items()}
        if "requestBody" in operation:
            contents["body"] = operation["requestBody"]["content"]
        for code, content in contents.items():
            for kind, media in content.items():
                for name, example in media.get("examples", {}).items():
                    yield f"{method} {path} {code} {kind} {name}", example["value"], media["schema"]
        for each in map(resolved, operation.get("parameters", ())):
            if "example" in each:
                yield f"{method} {path} {each['name']}", each["example"], each["schema"]


@pytest.mark.parametrize(("value", "schema"), [pytest.param(v, s, id=name) for name, v, s in examples()])
def test_examples_are_valid(value: object, schema: dict[str, Any]) -> None:
    """Each is a valid answer."""
    conforms(value, schema)


def test_every_json_answer_has_an_example() -> None:
    """All routes except the description itself."""
    bare = {
        path
        for _, path, operation in OPERATIONS
        for answer in map(resolved, operation["responses"].values())
        for kind, media in answer.get("content", {}).items()
        if "json" in kind and not media.get("examples")
    }
    assert bare == {"/openapi.json"}


# --- the check that all tests rely on -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "headers", "body"),
    [
        pytest.param("/health", 503, {}, b'{"status": "pass", "checks": []}', id="status"),
        pytest.param("/health", 200, {"X-New": "1"}, b'{"status": "pass", "checks": []}', id="header"),
        pytest.param("/health", 200, {"Content-Type": "text/plain"}, b"ok", id="media type"),
        pytest.param("/health", 200, {"Cache-Control": "public"}, b'{"status": "pass", "checks": []}', id="caching"),
        pytest.param("/health", 200, {}, b'{"status": "pass", "checks": [], "new": 1}', id="another field"),
        pytest.param("/health", 200, {}, b'{"status": "pass"}', id="a field less"),
        pytest.param("/livez", 200, {"Content-Type": "text/plain"}, b"fine", id="text"),
        pytest.param("/nope", 200, {}, b"{}", id="path"),
    ],
)
def test_an_answer_that_is_not_described_is_found(path: str, status: int, headers: dict[str, str], body: bytes) -> None:
    """An undescribed status, header, media type or body fails; a described answer passes."""
    hold("GET", "/health", 200, HEADERS, b'{"status": "pass", "checks": []}')
    with pytest.raises((AssertionError, ValidationError)):
        hold("GET", path, status, HEADERS | headers, body)


def test_other_paths_and_methods() -> None:
    """Unknown paths and methods have the general description."""
    assert set(responses("GET", "/nope?verbose")) == EVERYWHERE | {"404"}
    assert set(responses("DELETE", "/readyz/http")) == EVERYWHERE | {"405"}


# --- the page -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects tags with attributes, and text; checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "link"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_needs_nothing_else(site: Site) -> None:
    """No script, and no resources except style and icon of the page at `/`; no external links; internal ones lead
    somewhere; the policy allows no more.
    """
    answer = await site.get("/docs")
    page = Page(answer.body.decode())
    assert {tag for tag, _ in page.found}.isdisjoint({"script", "img", "iframe", "object", "form", "base"})
    names = {name for _, attributes in page.found for name in attributes}
    assert names == {"lang", "charset", "name", "content", "id", "class", "href", "scope", "rel", "type", "aria-label"}
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for _, attributes in page.found if "href" in attributes}
    elsewhere = links - {f"#{each}" for each in ids}
    assert elsewhere == {"openapi.json", "./", "page.svg", f"page.css?{edition()}"}
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert "default-src 'none'" in policy
    allowed = [each for each in policy if each.split()[0] not in ("base-uri", "form-action", "frame-ancestors")]
    assert allowed == ["default-src 'none'", "img-src 'self'", "style-src 'self'"]


async def test_the_page_tells_all(site: Site) -> None:
    """Each path, summary, status code, parameter, field and schema."""
    text = Page((await site.get("/docs")).body.decode()).text
    for method, path, operation in OPERATIONS:
        if method in {"get", "post"}:
            assert f"{method.upper()} {path}" in text
            assert operation["summary"].replace("`", "") in text
            assert all(code in text for code in operation["responses"])
            assert all(h in text for each in operation["responses"].values() for h in resolved(each).get("headers", ()))
            assert all(resolved(each)["name"] in text for each in operation.get("parameters", ()))
    for name, schema in SCHEMAS.items():
        assert name in text
        assert all(field in text for field in schema.get("properties", ()))
