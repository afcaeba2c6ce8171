"""What the bodies look like, as JSON Schema: `serializers` and `problems` for programs that have not seen them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sidecar.core.check import CheckStatus
from sidecar.core.feature import Json
from sidecar.core.lifecycle import Phase
from sidecar.web.openapi.json_schema import COUNT, HINT, REQUEST_ID, TEXT, list_of, one_of, or_null, record, ref, said
from sidecar.web.openapi.part import Part
from sidecar.web.openapi.status_schemas import STATUS, status
from sidecar.web.problems import phrase, problem_type


def schemas(checks: Mapping[str, bool], parts: Iterable[Part]) -> Json:
    """`components.schemas`. `checks`: the name of each check, and whether it gates readiness."""
    known = _VALUES | STATUS | _ADMIN | _PROBLEMS
    more: dict[str, Json] = {}
    for part in parts:
        known |= part.schemas
        more |= part.status
    return known | {"CheckName": _check_name(checks), "Status": status(more)}


def _check_name(checks: Mapping[str, bool]) -> Json:
    gating, warning = ([name for name, gates in checks.items() if gates is which] for which in (True, False))
    return {
        "type": "string",
        "description": f"{', '.join(gating)} gate `/readyz`; {' and '.join(warning)} only warn.",
        "enum": [*gating, *warning],
    }


_VALUES: Json = {
    "Time": {
        "type": "string",
        "format": "date-time",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        "description": "RFC 3339, UTC, to the millisecond.",
    },
    "Phase": one_of(
        Phase,
        "Where in its life the container is: `starting` → `initialising` or `importing` → `launching` → `ready` →"
        " `stopping`; `failed` from any of them.",
    ),
    "CheckStatus": one_of(
        CheckStatus,
        "The verdict of a check. `pending`: it is too early to look, as during an import or a start; `/readyz` is 503.",
    ),
    "Count": record("How many of how many.", {"done": COUNT, "total": COUNT}),
    "Check": record(
        "The last verdict of a check.",
        {
            "name": ref("CheckName"),
            "status": ref("CheckStatus"),
            "reason": or_null(said("Why it doesn't just pass.")),
            "hint": or_null(said("What an operator can do about it.")),
            "since": ref("Time"),
            "gates": {"type": "boolean", "description": "Whether `/readyz` is 503 while this fails or is pending."},
            "value": {"type": ["number", "null"], "description": "What was measured, in `unit`."},
            "unit": or_null(said("`seconds`, `bytes`, `serials`, …")),
        },
    ),
    "Liveness": record(
        "Whether the process ticks.",
        {
            "status": {"enum": ["pass", "fail"]},
            "checks": list_of(
                record(
                    "A part of the process that doesn't tick any more.",
                    {
                        "name": {"enum": ["supervisor", "monitor"]},
                        "status": {"const": "fail"},
                        "reason": TEXT,
                    },
                )
            ),
        },
    ),
    "Startup": record("It has started.", {"status": {"const": "pass"}, "checks": {"type": "array", "maxItems": 0}}),
    "Readiness": record(
        "Whether it is ready.",
        {
            "status": {
                "enum": ["pass", "pending", "fail"],
                "description": "`pending`: no gating check fails, but one is pending.",
            },
            "checks": list_of(ref("Check")),
        },
        may={"warnings": list_of(said("A name in `exclude` that no check has."))},
    ),
    "Health": record(
        "All checks: `fail` or `pending` if a gating one is, else the worst of `pass`, `pending` and `warn`.",
        {"status": ref("CheckStatus"), "checks": list_of(ref("Check"))},
    ),
}

_ADMIN: Json = {
    "Bootstrap": record(
        "What there is to claim; never the password.",
        {
            "root_password": record(
                "As in `/status`, and for the admin: from where.",
                {
                    "state": ref("RootPasswordState"),
                    "generated": or_null(ref("Time")),
                    "expires": or_null(ref("Time")),
                    "claimed_at": or_null(ref("Time")),
                    "claimed_from": or_null(said("An address, as the other end of the connection had it.")),
                },
            )
        },
    ),
    "Password": record("A password, told this once.", {"user": {"const": "root"}, "password": TEXT}),
    "Rotation": record(
        "How to rotate.",
        {},
        may={
            "keep_logins": {
                "type": "boolean",
                "default": False,
                "description": "Logins outlive the change; else all of them end.",
            }
        },
    ),
}


def _problem(
    description: str, name: str | None = None, status: int | None = None, fields: Mapping[str, Json] | None = None
) -> Json:
    """`name` None: one that HTTP's status code says all about."""
    return record(
        description,
        {
            "type": {"const": problem_type(name)},
            "title": {"const": name.replace("-", " ")} if name else TEXT,
            "status": {"const": status} if status else {"type": "integer", "minimum": 400, "maximum": 599},
            **({"detail": TEXT} if name else {}),
            **(fields or {}),
        },
        may={"request_id": REQUEST_ID} | ({} if name else {"detail": TEXT}),
    )


_PROBLEMS: Json = {
    "Problem": _problem("An error that its status code names (RFC 9457)."),
    "NotYet": _problem("Not possible at this moment: try again after `Retry-After` seconds.", "not-yet", 503),
    "NotRunning": _problem("devpi-server does not run, and waiting does not help.", "not-running", 503),
    "NothingToClaim": _problem(
        "No password was generated; `detail` says whose it is.", "nothing-to-claim", 404, {"hint": HINT}
    ),
    "AlreadyClaimed": _problem(
        "Somebody took the password before.",
        "already-claimed",
        410,
        {
            "claimed_at": ref("Time"),
            "claimed_from": or_null(TEXT, "An address; null: it is not known."),
            "hint": HINT,
        },
    ),
    "Expired": _problem(
        "Nobody claimed the password in time, and it is gone.",
        "expired",
        410,
        {"expired_at": ref("Time"), "hint": HINT},
    ),
    "Superseded": _problem("Root's password was changed in another way.", "superseded", 410, {"hint": HINT}),
    "TooManyStreams": _problem("Too many pages are live at the same time.", "too-many-streams", 503),
    "CannotRotate": _problem("The password can't be changed here.", "cannot-rotate", 409, {"hint": TEXT}),
}


def problem(status: int, name: str | None = None, detail: str | None = None, **fields: object) -> Json:
    """An example of a problem."""
    title = name.replace("-", " ") if name else phrase(status)
    told: Json = {"type": problem_type(name), "title": title, "status": status}
    return told | ({"detail": detail} if detail else {}) | fields
