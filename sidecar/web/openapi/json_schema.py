"""The words of JSON Schema in which bodies are described.

An object has the fields that are named and no others, so that a test finds the one that nobody described.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from sidecar.core.feature import Json

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
REQUEST_ID: Json = {"type": "string", "pattern": "^[A-Za-z0-9._:=+/@-]{1,128}$"}


def ref(name: str) -> Json:
    """The schema `name`."""
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(schema: Json, description: str | None = None) -> Json:
    """The same, or null."""
    described: Json = {"description": description} if description else {}
    if "type" in schema and "enum" not in schema:
        return schema | {"type": [schema["type"], "null"]} | described
    return {"anyOf": [schema, {"type": "null"}]} | described


def record(description: str, fields: Mapping[str, Json], *, may: Mapping[str, Json] | None = None) -> Json:
    """An object with all of `fields`, some of `may`, and no other."""
    return {
        "type": "object",
        "description": description,
        "properties": {**fields, **(may or {})},
        "required": list(fields),
        "additionalProperties": False,
    }


def list_of(of: Json) -> Json:
    """An array of any length."""
    return {"type": "array", "items": of}


def one_of(values: type[Enum], description: str) -> Json:
    """A value of an enumeration."""
    return {"type": "string", "description": description, "enum": [each.value for each in values]}


def said(description: str) -> Json:
    """A text, and what it says."""
    return TEXT | {"description": description}


HINT: Json = or_null(said("What can be done about it, in this role and phase; null: nothing now."))
