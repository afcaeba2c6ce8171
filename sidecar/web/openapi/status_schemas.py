"""The body of `/status` as JSON Schema: `serializers.status` for programs that have not seen it."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.core.feature import Json
from sidecar.features.bootstrap.import_status import ImportState
from sidecar.features.credentials.password_status import RootPassword
from sidecar.web.openapi.json_schema import COUNT, HINT, TEXT, list_of, one_of, or_null, record, ref, said


def status(more: Mapping[str, Json]) -> Json:
    """The body of `/status`, with the fields `more`."""
    return record("All that anybody may know.", {**_FIELDS, **more})


_FIELDS: dict[str, Json] = {
    "name": said("What people call this instance: `SIDECAR_NAME`, else its host name."),
    "phase": ref("Phase"),
    "since": ref("Time"),
    "phases": list_of(
        record("A phase, and when it began.", {"phase": ref("Phase"), "since": ref("Time")})
        | {"description": "The last 100; the last one is the present."}
    ),
    "failure": or_null(ref("Failure"), "Why the phase is `failed`."),
    "import": ref("Import"),
    "root_password": ref("RootPassword"),
    "unusable_passwords": or_null(ref("UnusablePasswords"), "Null: not looked at yet, or this is a replica."),
    "notices": list_of(ref("Notice")),
    "devpi": or_null(ref("Devpi"), "The devpi-server that runs; null until it has said."),
    "numbers": ref("Numbers"),
    "sidecar": record("The sidecar.", {"version": TEXT}),
    "wrong_admin_tokens": record(
        "What has come of wrong admin tokens since the start.",
        {
            "total": COUNT,
            "turned_away": COUNT | {"description": "Of them, those answered 429."},
            "last": or_null(ref("Time")),
        },
    ),
}

STATUS: Json = {
    "Failure": record("Why it failed.", {"reason": TEXT, "hint": TEXT}),
    "Notice": record(
        "Something of this start that an operator should know of, although devpi-server serves.",
        {
            "about": said("`variable`, `configuration`, `search-index`, `import` or `root-password`."),
            "reason": TEXT,
            "hint": TEXT,
        },
    ),
    "Import": record(
        "The import of `/devpi-init.d`, the last one where it is over; kept across restarts.",
        {
            "state": one_of(ImportState, "How far it has come."),
            "archives": list_of(
                record(
                    "An archive, or a directory.",
                    {"name": TEXT, "bytes": COUNT, "sha256": or_null(said("In hex; null until it has been read."))},
                )
            ),
            "ignored": list_of(said("A name in `/devpi-init.d` that is no export.")),
            "left_out": ref("LeftOut"),
            "users": ref("Count"),
            "indexes": ref("Count"),
            "projects": ref("Count"),
            "files": ref("Count"),
            "bytes": ref("Count"),
            "extracted": ref("Count") | {"description": "Bytes of the archives that were read."},
            "current": or_null(said("The user, index or project that is being loaded.")),
            "rate": {"type": ["number", "null"], "minimum": 0, "description": "Files per second, while loading."},
            "eta_seconds": {"type": ["number", "null"], "minimum": 0, "description": "Until all is loaded."},
            "started": or_null(ref("Time")),
            "finished": or_null(ref("Time")),
            "error": or_null(ref("ImportError"), "Why it failed."),
        },
    ),
    "LeftOut": record(
        "What the import has left out alone because it is not safe to load; `SIDECAR_IMPORT_STRICT` refuses instead.",
        {
            "total": COUNT,
            "first": {
                "type": "array",
                "maxItems": 10,
                "items": record(
                    "A file, a member of an archive, or a user's password hash.",
                    {"archive": TEXT, "member": TEXT, "reason": TEXT},
                ),
            },
        },
    ),
    "ImportError": record(
        "Why the import failed, and where.",
        {"archive": or_null(TEXT), "member": or_null(TEXT), "reason": TEXT, "hint": TEXT},
    ),
    "RootPassword": record(
        "What can be said about root's password without saying it.",
        {
            "state": ref("RootPasswordState"),
            "expires": or_null(ref("Time"), "Until when it can be claimed; null: for ever, or it can't be claimed."),
            "claimed_at": or_null(ref("Time")),
            "expired_at": or_null(ref("Time")),
            "hint": HINT,
        },
    ),
    "UnusablePasswords": record(
        "Users, but for root, whose password hash devpi-server can't check, so that they can't log in.",
        {
            "total": COUNT,
            "users": {"type": "array", "maxItems": 20, "items": said("A user who needs a new password.")}
            | {"description": "The first of them, by name."},
            "hint": HINT,
        },
    ),
    "Numbers": record(
        "How much there is, how much it is used, how much room is left. Null: not known (yet).",
        {
            "contents": or_null(ref("Contents"), "Null: not counted yet."),
            "requests": or_null(
                record(
                    "What devpi-server has answered since the container started.",
                    {
                        "total": COUNT,
                        "per_second": {
                            "type": ["number", "null"],
                            "minimum": 0,
                            "description": "The mean of the last minute.",
                        },
                        "uploads": COUNT | {"description": "Those that were accepted."},
                        "last_upload": or_null(ref("Time"), "Null: none since the start."),
                    },
                )
            ),
            "volume": or_null(
                record(
                    "The serverdir's volume.",
                    {"free_bytes": COUNT | {"description": "What devpi-server may still take."}, "size_bytes": COUNT},
                )
            ),
            "serverdir": or_null(
                record(
                    "What the serverdir takes on disk, counted every quarter of an hour.",
                    {"used_bytes": COUNT, "files": COUNT},
                )
            ),
        },
    ),
    "Contents": record(
        "What devpi-server holds, counted in the background when something has changed. Null: that failed.",
        {
            "projects": or_null(COUNT, "In all `indexes`; one that is in two of them counts twice."),
            "users": or_null(COUNT),
            "indexes": or_null(COUNT, "Without mirrors."),
            "mirrors": or_null(COUNT),
            "since": ref("Time") | {"description": "When these numbers were new."},
        },
    ),
    "RootPasswordState": one_of(
        RootPassword,
        "Whether it was generated, and then `claimable`, `claimed` or `expired`; else whose it is.",
    ),
    "Devpi": record(
        "The devpi-server that runs.",
        {
            "version": TEXT,
            "role": {"enum": ["standalone", "primary", "replica"]},
            "addresses": list_of(said("Where it listens: `http://host:port`, or `unix`.")),
            "plugins": list_of(record("A plugin of devpi-server.", {"name": TEXT, "version": TEXT})),
            "serial": or_null(COUNT, "Of its last change."),
            "behind": or_null(COUNT, "Serials that this replica is behind its primary; null: it has none."),
            "replicas": list_of(
                record(
                    "A replica of this primary, as the primary sees it.",
                    {
                        "address": or_null(TEXT),
                        "behind": or_null(COUNT, "Serials; null: not known."),
                        "asked_at": or_null(ref("Time"), "When it was heard of last."),
                    },
                )
            ),
            "backlog": or_null(
                record(
                    "What it puts off until after it serves; null: it does not say.",
                    {
                        "events": or_null(COUNT, "Serials whose events are still to be processed."),
                        "search_index": or_null(COUNT, "Projects still to be indexed, by devpi-web."),
                    },
                )
            ),
        },
    ),
}
