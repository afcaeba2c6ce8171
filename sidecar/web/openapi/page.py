"""`/openapi.json` as a page to read: no script, no other resource, nothing to build."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import chain
from typing import Any

_STYLE = """\
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: auto; padding: 1rem; }
h2 { margin-top: 3rem; }
h3 { margin-top: 2.5rem; border-top: 1px solid color-mix(in srgb, currentColor 30%, transparent); padding-top: 1rem; }
h3, td, dd { overflow-wrap: anywhere; }
code, pre { font: .9rem/1.4 ui-monospace, monospace; }
h3 code { font-size: 1.1rem; font-weight: 600; }
pre { overflow-x: auto; padding: .5rem; background: color-mix(in srgb, currentColor 8%, transparent); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: start; vertical-align: top; padding: .3rem .8rem .3rem 0; }
th { font-weight: 600; }
ul.paths { list-style: none; padding: 0; }
"""
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'"
)
"""The page's Content-Security-Policy: its own style, nothing else."""

_METHODS = ("get", "post")
"""What is shown; that HEAD and OPTIONS are there too is said once."""
_NEEDED = {"adminToken": "<code>Authorization: Bearer TOKEN</code>", "clientCertificate": "a client certificate"}
"""By the name of a security scheme."""


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The page on `document`."""
    info, parts = document["info"], document["components"]
    title = escape(f"{info['title']} {info['version']}: HTTP API")
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>"
    yield _prose(info["description"])
    yield '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>'
    operations = [
        (method, path, item[method])
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    ]
    answers = [_resolved(answer, parts) for *_, each in operations for answer in each["responses"].values()]
    everywhere = set.intersection(*(set(answer.get("headers", ())) for answer in answers))
    yield f"<p>Headers of every answer: {_names(sorted(everywhere))}.</p>"
    yield '<h2 id="paths">Paths</h2>\n<ul class="paths">'
    for method, path, operation in operations:
        name = f"<code>{method.upper()} {escape(path)}</code>"
        yield f'<li><a href="#{operation["operationId"]}">{name}</a> {_words(operation["summary"])}</li>'
    yield "</ul>"
    for method, path, operation in operations:
        yield f'<h3 id="{operation["operationId"]}"><code>{method.upper()} {escape(path)}</code></h3>'
        yield from _operation(operation, document["paths"][path].get("parameters", ()), parts, everywhere)
    yield '<h2 id="schemas">Schemas</h2>'
    for name, schema in parts["schemas"].items():
        yield f'<h3 id="schema-{name}">{name}</h3>\n<p>{_words(schema.get("description", ""))}</p>'
        yield from _schema(schema)
    yield "</main>\n</body>\n</html>\n"


def _operation(
    operation: Mapping[str, Any], inherited: Sequence[Any], parts: Mapping[str, Any], everywhere: set[str]
) -> Iterator[str]:
    yield f"<p>{_words(operation['summary'])} {_words(operation.get('description', ''))}</p>"
    for name in chain(*operation.get("security", ())):
        yield f"<p>Needs {_NEEDED[name]}: {_words(parts['securitySchemes'][name]['description'])}</p>"
    parameters = [_resolved(each, parts) for each in (*inherited, *operation.get("parameters", ()))]
    if parameters:
        yield _table(
            ("parameter", "in", "type", ""),
            [
                (f"<code>{p['name']}</code>", p["in"], _type(p["schema"]), _words(p.get("description", "")))
                for p in parameters
            ],
        )
    if body := operation.get("requestBody"):
        yield f"<p>Body: {_words(body['description'])}</p>"
        yield "".join(_content(body["content"]))
    rows = []
    for code, answer in operation["responses"].items():
        said = _resolved(answer, parts)
        headers = _names([name for name in said.get("headers", ()) if name not in everywhere])
        rows.append((code, _words(said["description"]) + "".join(_content(said.get("content", {}))), headers))
    yield _table(("answer", "", "further headers"), rows)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"<code>{name}</code>" for name in names)


def _content(content: Mapping[str, Any]) -> Iterator[str]:
    for kind, media in content.items():
        yield f"<div><code>{kind}</code>: {_type(media['schema'])}</div>"
        for name, example in media.get("examples", {}).items():
            value = example["value"]
            shown = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
            yield f"<details><summary>{escape(name)}</summary><pre>{escape(shown)}</pre></details>"


def _schema(schema: Mapping[str, Any]) -> Iterator[str]:
    if "properties" not in schema:
        yield f"<p>{_type(schema)}</p>"
        return
    needed = schema.get("required", ())
    rows = [
        (
            f"<code>{name}</code>" + ("" if name in needed else " (optional)"),
            _type(field),
            _words(field.get("description", "")),
        )
        for name, field in schema["properties"].items()
    ]
    yield _table(("field", "type", ""), rows)


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with a link to what has a name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{name}">{name}</a>'
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(_type, choices))
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    kinds = schema.get("type", "anything")
    text = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if "items" in schema:
        return f"{text} of {_type(schema['items'])}"
    if text == "object" and (fields := schema.get("properties")):
        return "object: " + "; ".join(f"<code>{name}</code> {_type(field)}" for name, field in fields.items())
    return text


def _resolved(part: Mapping[str, Any], parts: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in part:
        return part
    _, _, kind, name = part["$ref"].split("/")
    found: Mapping[str, Any] = parts[kind][name]
    return found


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>", *lines, "</tbody>\n</table>"])


def _prose(text: str) -> str:
    """Paragraphs and lists of the Markdown in a description."""
    lines = [
        f"<li>{_words(line[2:])}</li>" if line.startswith("- ") else f"<p>{_words(line)}</p>"
        for line in re.sub(r"\n(?=[^\n-])", " ", text).splitlines()
        if line.strip()
    ]
    return re.sub(r"((?:<li>.*</li>\n?)+)", r"<ul>\n\1</ul>\n", "\n".join(lines) + "\n")


def _words(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
