"""`/openapi.json` as a page to read, in the style of the page at `/`: no script, nothing to build."""

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
main > h1 { margin: .5rem 0 1rem; }
.card > p + p, .card > ul, .body > * + * { margin-top: .5rem; }
.card > ul { padding-left: 1.25rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .375rem 1rem; }
nav h3 { margin-top: .75rem; }
details.part { margin: 0; border-top: 1px solid var(--line); }
h2 + details.part { border-top: 0; }
.part > summary { width: auto; padding: .5rem 0; color: inherit; font-size: 1rem; overflow-wrap: anywhere; }
.part > summary h3 { display: inline; margin: 0 .5rem 0 0; color: inherit; }
.part > summary span { color: var(--soft); font-size: .875rem; }
.body { padding: 0 0 1rem 1rem; scroll-margin-top: 4rem; }
.body:target { box-shadow: -3px 0 0 var(--wait); }
td, th { vertical-align: top; overflow-wrap: anywhere; }
.body code { white-space: normal; }
"""
"""Beside the page's own style."""
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src 'self';"
    " style-src 'self' 'sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode() + "'"
)
"""The page's Content-Security-Policy: the page's style and icon, and its own style; nothing else."""

_METHODS = ("get", "post")
"""What is shown; that HEAD and OPTIONS are there too is said once."""
_NEEDED = {"adminToken": "<code>Authorization: Bearer TOKEN</code>", "clientCertificate": "a client certificate"}
"""By the name of a security scheme."""


def lines(document: Mapping[str, Any], name: str, edition: str) -> Iterator[str]:
    """The page on `document`, of the instance that people call `name`, in the style of this `edition`.

    What a link leads to is inside of what it opens: browsers open it by themselves, without a script.
    """
    info, parts = document["info"], document["components"]
    title = escape(f"{info['title']} {info['version']}: HTTP API")
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{escape(name)}: API</title>"
    yield '<link rel="icon" href="page.svg" type="image/svg+xml">'
    yield f'<link rel="stylesheet" href="page.css?{edition}">\n<style>{_STYLE}</style>\n</head>\n<body>'
    who = f'<span class="name"><bdi>{escape(name)}</bdi></span> <a href="./">Overview</a>'
    yield f'<header><div id="who">{who}</div></header>'
    yield f'<main>\n<h1>{title}</h1>\n<section class="card">'
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
    yield f"<p>Headers of every answer: {_names(sorted(everywhere))}.</p>\n</section>"
    tags = {each["name"]: each["description"] for each in document["tags"]}
    by_tag = {tag: [each for each in operations if tag in each[2]["tags"]] for tag in tags}
    yield from _contents(by_tag, parts["schemas"])
    for tag, found in by_tag.items():
        yield f'<section class="card"><h2 id="{tag}">{tag.capitalize()}</h2>\n<p>{_words(tags[tag])}</p>'
        for method, path, operation in found:
            heading = f"<code>{method.upper()} {escape(path)}</code>"
            body = _operation(operation, document["paths"][path].get("parameters", ()), parts, everywhere)
            yield from _part(operation["operationId"], heading, operation["summary"], body)
        yield "</section>"
    yield '<section class="card"><h2 id="schemas">Schemas</h2>'
    for schema_name, schema in parts["schemas"].items():
        yield from _part(f"schema-{schema_name}", schema_name, schema.get("description", ""), _schema(schema))
    yield "</section>\n</main>\n</body>\n</html>\n"


def _contents(
    by_tag: Mapping[str, Sequence[tuple[str, str, Mapping[str, Any]]]], schemas: Mapping[str, Any]
) -> Iterator[str]:
    """The table of contents."""
    yield '<nav class="card" aria-label="Contents"><h2>Contents</h2>'
    for tag, found in by_tag.items():
        yield f'<h3><a href="#{tag}">{tag.capitalize()}</a></h3>\n<ul>'
        for method, path, operation in found:
            name = f"<code>{method.upper()} {escape(path)}</code>"
            yield f'<li><a href="#{operation["operationId"]}">{name}</a></li>'
        yield "</ul>"
    yield '<h3><a href="#schemas">Schemas</a></h3>\n<ul>'
    for name in schemas:
        yield f'<li><a href="#schema-{name}">{name}</a></li>'
    yield "</ul></nav>"


def _part(name: str, heading: str, summary: str, body: Iterator[str]) -> Iterator[str]:
    """One path or schema, as a line that opens."""
    yield f'<details class="part"><summary><h3>{heading}</h3><span>{_words(summary)}</span></summary>'
    yield f'<div class="body" id="{name}">'
    yield from body
    yield "</div></details>"


def _operation(
    operation: Mapping[str, Any], inherited: Sequence[Any], parts: Mapping[str, Any], everywhere: set[str]
) -> Iterator[str]:
    if description := operation.get("description"):
        yield f"<p>{_words(description)}</p>"
    for name in chain(*operation.get("security", ())):
        yield f"<p>Needs {_NEEDED[name]}: {_words(parts['securitySchemes'][name]['description'])}</p>"
    parameters = [_resolved(each, parts) for each in (*inherited, *operation.get("parameters", ()))]
    if parameters:
        yield _table(
            ("parameter", "in", "type", "meaning"),
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
    yield _table(("answer", "meaning", "further headers"), rows)


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
    yield _table(("field", "type", "meaning"), rows)


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
