"""The feature `mirror` in the description of the API."""

from __future__ import annotations

from sidecar.web.openapi.json_schema import COUNT, list_of, or_null, record, ref, said
from sidecar.web.openapi.part import Part

MIRROR = Part(
    status={"mirrors": or_null(ref("Mirrors"), "Null: not looked at yet, or devpi-server is offline.")},
    schemas={
        "Mirrors": record(
            "The mirrors, by whether they keep the list of all projects of their upstream.",
            {
                "with_list": ref("Indexes"),
                "without_list": ref("Indexes"),
                "notes": list_of(said("What follows from that.")),
            },
        ),
        "Indexes": record(
            "Some indexes.",
            {
                "total": COUNT,
                "indexes": {"type": "array", "maxItems": 20, "items": said("`user/index`.")}
                | {"description": "The first of them, by name."},
            },
        ),
    },
)
