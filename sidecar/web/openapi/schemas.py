"""What the bodies look like, as JSON Schema: `shapes` and `problems` for programs that have not seen them.

An object has the fields that are named and no others, so that a test finds the one that nobody described.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from sidecar.core.lifecycle import ImportState, Phase, RootPassword
from sidecar.features.health.monitor import GATING, WARNING, CheckStatus
from sidecar.web.errors import phrase, problem_type
from sidecar.web.serializers import Json

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
REQUEST_ID: Json = {"type": "string", "pattern": "^[A-Za-z0-9._:=+/@-]{1,128}$"}


def schemas() -> Json:
    """`components.schemas`."""
    return _VALUES | _STATUS | _ADMIN | _PROBLEMS


def ref(name: str) -> Json:
    """The schema `name`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Json, description: str | None = None) -> Json:
    described: Json = {"description": description} if description else {}
    if "type" in schema and "enum" not in schema:
        return schema | {"type": [schema["type"], "null"]} | described
    return {"anyOf": [schema, {"type": "null"}]} | described


def _record(description: str, fields: Mapping[str, Json], *, may: Mapping[str, Json] | None = None) -> Json:
    """An object with all of `fields`, some of `may`, and no other."""
    return {
        "type": "object",
        "description": description,
        "properties": {**fields, **(may or {})},
        "required": list(fields),
        "additionalProperties": False,
    }


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


def _one_of(values: type[Enum], description: str) -> Json:
    return {"type": "string", "description": description, "enum": [each.value for each in values]}


def _said(description: str) -> Json:
    return TEXT | {"description": description}


_MEND = _or_null(_said("What can be done about it, in this role and phase; null: nothing now."))

_VALUES: Json = {
    "Time": {
        "type": "string",
        "format": "date-time",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        "description": "RFC 3339, UTC, to the millisecond.",
    },
    "Phase": _one_of(
        Phase,
        "Where in its life the container is: `starting` → `initialising` or `importing` → `launching` → `ready` →"
        " `stopping`; `failed` from any of them.",
    ),
    "CheckStatus": _one_of(
        CheckStatus,
        "The verdict of a check. `pending`: it is too early to look, as during an import or a start; `/readyz` is 503.",
    ),
    "CheckName": {
        "type": "string",
        "description": f"{', '.join(GATING)} gate `/readyz`; {' and '.join(WARNING)} only warn.",
        "enum": [*GATING, *WARNING],
    },
    "Count": _record("How many of how many.", {"done": COUNT, "total": COUNT}),
    "Check": _record(
        "The last verdict of a check.",
        {
            "name": ref("CheckName"),
            "status": ref("CheckStatus"),
            "reason": _or_null(_said("Why it doesn't just pass.")),
            "mend": _or_null(_said("What an operator can do about it.")),
            "since": ref("Time"),
            "gates": {"type": "boolean", "description": "Whether `/readyz` is 503 while this fails or is pending."},
            "value": {"type": ["number", "null"], "description": "What was measured, in `unit`."},
            "unit": _or_null(_said("`seconds`, `bytes`, `serials`, …")),
        },
    ),
    "Liveness": _record(
        "Whether the process ticks.",
        {
            "status": {"enum": ["pass", "fail"]},
            "checks": _list(
                _record(
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
    "Startup": _record("It has started.", {"status": {"const": "pass"}, "checks": {"type": "array", "maxItems": 0}}),
    "Readiness": _record(
        "Whether it is ready.",
        {
            "status": {
                "enum": ["pass", "pending", "fail"],
                "description": "`pending`: no gating check fails, but one is pending.",
            },
            "checks": _list(ref("Check")),
        },
        may={"warnings": _list(_said("A name in `exclude` that no check has."))},
    ),
    "Health": _record(
        "All checks: `fail` or `pending` if a gating one is, else the worst of `pass`, `pending` and `warn`.",
        {"status": ref("CheckStatus"), "checks": _list(ref("Check"))},
    ),
}

_STATUS: Json = {
    "Status": _record(
        "All that anybody may know.",
        {
            "name": _said("What people call this instance: `SIDECAR_NAME`, else its host name."),
            "phase": ref("Phase"),
            "since": ref("Time"),
            "phases": _list(
                _record("A phase, and when it began.", {"phase": ref("Phase"), "since": ref("Time")})
                | {"description": "So far; the last one is the present."}
            ),
            "failure": _or_null(ref("Failure"), "Why the phase is `failed`."),
            "import": ref("Import"),
            "root_password": ref("RootPassword"),
            "unusable_passwords": _or_null(ref("UnusablePasswords"), "Null: not looked at yet, or this is a replica."),
            "notices": _list(ref("Notice")),
            "mirrors": _or_null(ref("Mirrors"), "Null: not looked at yet, or devpi-server is offline."),
            "devpi": _or_null(ref("Devpi"), "The devpi-server that runs; null until it has said."),
            "numbers": ref("Numbers"),
            "sidecar": _record("The sidecar.", {"version": TEXT}),
            "wrong_admin_tokens": _record(
                "What has come of wrong admin tokens since the start.",
                {
                    "total": COUNT,
                    "turned_away": COUNT | {"description": "Of them, those answered 429."},
                    "last": _or_null(ref("Time")),
                },
            ),
        },
    ),
    "Failure": _record("Why it failed.", {"reason": TEXT, "mend": TEXT}),
    "Notice": _record(
        "Something of this start that an operator should know of, although devpi-server serves.",
        {
            "about": _said("`variable`, `configuration`, `search-index`, `import` or `root-password`."),
            "reason": TEXT,
            "mend": TEXT,
        },
    ),
    "Import": _record(
        "The import of `/devpi-init.d`, the last one where it is over; kept across restarts.",
        {
            "state": _one_of(ImportState, "How far it has come."),
            "archives": _list(
                _record(
                    "An archive, or a directory.",
                    {"name": TEXT, "bytes": COUNT, "sha256": _or_null(_said("In hex; null until it has been read."))},
                )
            ),
            "ignored": _list(_said("A name in `/devpi-init.d` that is no export.")),
            "left_out": ref("LeftOut"),
            "users": ref("Count"),
            "indexes": ref("Count"),
            "projects": ref("Count"),
            "files": ref("Count"),
            "bytes": ref("Count"),
            "extracted": ref("Count") | {"description": "Bytes of the archives that were read."},
            "current": _or_null(_said("The user, index or project that is being loaded.")),
            "rate": {"type": ["number", "null"], "minimum": 0, "description": "Files per second, while loading."},
            "eta_seconds": {"type": ["number", "null"], "minimum": 0, "description": "Until all is loaded."},
            "started": _or_null(ref("Time")),
            "finished": _or_null(ref("Time")),
            "error": _or_null(ref("ImportError"), "Why it failed."),
        },
    ),
    "LeftOut": _record(
        "What the import has left out alone because it is not safe to load; `SIDECAR_IMPORT_STRICT` refuses instead.",
        {
            "total": COUNT,
            "first": {
                "type": "array",
                "maxItems": 10,
                "items": _record(
                    "A file, a member of an archive, or a user's password hash.",
                    {"archive": TEXT, "member": TEXT, "reason": TEXT},
                ),
            },
        },
    ),
    "ImportError": _record(
        "Why the import failed, and where.",
        {"archive": _or_null(TEXT), "member": _or_null(TEXT), "reason": TEXT, "mend": TEXT},
    ),
    "RootPassword": _record(
        "What can be said about root's password without saying it.",
        {
            "state": ref("RootPasswordState"),
            "expires": _or_null(ref("Time"), "Until when it can be claimed; null: for ever, or it can't be claimed."),
            "claimed_at": _or_null(ref("Time")),
            "expired_at": _or_null(ref("Time")),
            "mend": _MEND,
        },
    ),
    "UnusablePasswords": _record(
        "Users, but for root, whose password hash devpi-server can't check, so that they can't log in.",
        {
            "total": COUNT,
            "users": {"type": "array", "maxItems": 20, "items": _said("A user who needs a new password.")}
            | {"description": "The first of them, by name."},
            "mend": _MEND,
        },
    ),
    "Mirrors": _record(
        "The mirrors, by whether they keep the list of all projects of their upstream.",
        {
            "with_list": ref("Indexes"),
            "without_list": ref("Indexes"),
            "notes": _list(_said("What follows from that.")),
        },
    ),
    "Indexes": _record(
        "Some indexes.",
        {
            "total": COUNT,
            "indexes": {"type": "array", "maxItems": 20, "items": _said("`user/index`.")}
            | {"description": "The first of them, by name."},
        },
    ),
    "Numbers": _record(
        "How much there is, how much it is used, how much room is left. Null: not known (yet).",
        {
            "contents": _or_null(ref("Contents"), "Null: not counted yet."),
            "requests": _or_null(
                _record(
                    "What devpi-server has answered since it started.",
                    {
                        "total": COUNT,
                        "per_second": {
                            "type": ["number", "null"],
                            "minimum": 0,
                            "description": "The mean of the last minute.",
                        },
                        "uploads": COUNT | {"description": "Those that were accepted."},
                        "last_upload": _or_null(ref("Time"), "Null: none since the start."),
                    },
                )
            ),
            "volume": _or_null(
                _record(
                    "The serverdir's volume.",
                    {"free_bytes": COUNT | {"description": "What devpi-server may still take."}, "size_bytes": COUNT},
                )
            ),
            "serverdir": _or_null(
                _record(
                    "What the serverdir takes on disk, counted every quarter of an hour.",
                    {"used_bytes": COUNT, "files": COUNT},
                )
            ),
        },
    ),
    "Contents": _record(
        "What devpi-server holds, counted in the background when something has changed. Null: that failed.",
        {
            "projects": _or_null(COUNT, "In all `indexes`; one that is in two of them counts twice."),
            "users": _or_null(COUNT),
            "indexes": _or_null(COUNT, "Without mirrors."),
            "mirrors": _or_null(COUNT),
            "since": ref("Time") | {"description": "When these numbers were new."},
        },
    ),
    "RootPasswordState": _one_of(
        RootPassword,
        "Whether it was generated, and then `claimable`, `claimed` or `expired`; else whose it is.",
    ),
    "Devpi": _record(
        "The devpi-server that runs.",
        {
            "version": TEXT,
            "role": {"enum": ["standalone", "primary", "replica"]},
            "addresses": _list(_said("Where it listens: `http://host:port`, or `unix`.")),
            "plugins": _list(_record("A plugin of devpi-server.", {"name": TEXT, "version": TEXT})),
            "serial": _or_null(COUNT, "Of its last change."),
            "behind": _or_null(COUNT, "Serials that this replica is behind its primary; null: it has none."),
            "replicas": _list(
                _record(
                    "A replica of this primary, as the primary sees it.",
                    {
                        "address": _or_null(TEXT),
                        "behind": _or_null(COUNT, "Serials; null: not known."),
                        "asked_at": _or_null(ref("Time"), "When it was heard of last."),
                    },
                )
            ),
            "backlog": _or_null(
                _record(
                    "What it puts off until after it serves; null: it does not say.",
                    {
                        "events": _or_null(COUNT, "Serials whose events are still to be processed."),
                        "search_index": _or_null(COUNT, "Projects still to be indexed, by devpi-web."),
                    },
                )
            ),
        },
    ),
}

_ADMIN: Json = {
    "Bootstrap": _record(
        "What there is to claim; never the password.",
        {
            "root_password": _record(
                "As in `/status`, and for the admin: from where.",
                {
                    "state": ref("RootPasswordState"),
                    "generated": _or_null(ref("Time")),
                    "expires": _or_null(ref("Time")),
                    "claimed_at": _or_null(ref("Time")),
                    "claimed_from": _or_null(_said("An address, as the other end of the connection had it.")),
                },
            )
        },
    ),
    "Password": _record("A password, told this once.", {"user": {"const": "root"}, "password": TEXT}),
    "Rotation": _record(
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
    return _record(
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
        "No password was generated; `detail` says whose it is.", "nothing-to-claim", 404, {"mend": _MEND}
    ),
    "AlreadyClaimed": _problem(
        "Somebody took the password before.",
        "already-claimed",
        410,
        {
            "claimed_at": ref("Time"),
            "claimed_from": _or_null(TEXT, "An address; null: it is not known."),
            "mend": _MEND,
        },
    ),
    "Expired": _problem(
        "Nobody claimed the password in time, and it is gone.",
        "expired",
        410,
        {"expired_at": ref("Time"), "mend": _MEND},
    ),
    "Superseded": _problem("Root's password was changed in another way.", "superseded", 410, {"mend": _MEND}),
    "TooManyStreams": _problem("Too many pages are live at the same time.", "too-many-streams", 503),
    "CannotRotate": _problem("The password can't be changed here.", "cannot-rotate", 409, {"mend": TEXT}),
}


def problem(status: int, name: str | None = None, detail: str | None = None, **fields: object) -> Json:
    """An example of a problem."""
    title = name.replace("-", " ") if name else phrase(status)
    told: Json = {"type": problem_type(name), "title": title, "status": status}
    return told | ({"detail": detail} if detail else {}) | fields
