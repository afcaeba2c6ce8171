"""Examples of answers, for `/openapi.json`; the tests hold them against the schemas."""

from __future__ import annotations

from sidecar.core.feature import Json

_AT = "2026-11-22T10:20:30.456Z"
_LATER = "2026-11-22T10:21:30.456Z"
_NOTHING: Json = {"done": 0, "total": 0}


def _check(name: str, **changes: object) -> Json:
    check: Json = {"name": name, "status": "pass", "reason": None, "hint": None, "since": _AT, "gates": True}
    return check | {"value": None, "unit": None} | changes


PROCESS = _check("process")
STARTED: Json = {"status": "pass", "checks": []}
DEAD: Json = {
    "status": "fail",
    "checks": [{"name": "supervisor", "status": "fail", "reason": "no tick for 11 s"}],
}
IMPORTING_CHECK = _check("process", status="pending", reason="importing: 512 of 2000 files")
NOT_READY: Json = {
    "status": "pending",
    "checks": [IMPORTING_CHECK, _check("http", status="pending", reason="not looked at yet")],
}
TEXT_NOT_READY = """\
[-]process pending: importing: 512 of 2000 files
[-]http pending: not looked at yet
[+]disk pending: not looked at yet
readyz check pending
"""
HEALTH: Json = {
    "status": "warn",
    "checks": [
        PROCESS,
        _check("http", value=0.0021, unit="seconds"),
        _check(
            "disk",
            status="warn",
            reason="0.4 GiB free",
            hint="free space on the serverdir's volume, or enlarge it",
            gates=False,
            value=429496729,
            unit="bytes",
        ),
    ],
}

IMPORTING: Json = {
    "name": "devpi-0",
    "phase": "importing",
    "since": _AT,
    "phases": [{"phase": "starting", "since": _AT}, {"phase": "importing", "since": _AT}],
    "failure": None,
    "import": {
        "state": "loading",
        "archives": [
            {
                "name": "backup.bz2",
                "bytes": 734003200,
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            }
        ],
        "ignored": ["README"],
        "left_out": {
            "total": 1,
            "first": [{"archive": "backup.bz2", "member": "../dev/pkg-1.0.zip", "reason": "leads out of the export"}],
        },
        "users": {"done": 3, "total": 3},
        "indexes": {"done": 2, "total": 4},
        "projects": {"done": 120, "total": 450},
        "files": {"done": 512, "total": 2000},
        "bytes": {"done": 187904819, "total": 734003200},
        "extracted": {"done": 734003200, "total": 734003200},
        "current": "alice/dev/greeting",
        "rate": 180.5,
        "eta_seconds": 8.2,
        "started": _AT,
        "finished": None,
        "error": None,
    },
    "root_password": {"state": "unknown", "expires": None, "claimed_at": None, "expired_at": None, "hint": None},
    "unusable_passwords": None,
    "notices": [],
    "mirrors": None,
    "devpi": {
        "version": "6.20.3",
        "role": "standalone",
        "addresses": [],
        "plugins": [],
        "serial": None,
        "behind": None,
        "replicas": [],
        "backlog": None,
    },
    "numbers": {"contents": None, "requests": None, "volume": None, "serverdir": None},
    "sidecar": {"version": "0.1.0"},
    "wrong_admin_tokens": {"total": 0, "turned_away": 0, "last": None},
}

READY: Json = {
    "name": "packages.example.com",
    "phase": "ready",
    "since": _LATER,
    "phases": [
        {"phase": "starting", "since": _AT},
        {"phase": "initialising", "since": _AT},
        {"phase": "launching", "since": _LATER},
        {"phase": "ready", "since": _LATER},
    ],
    "failure": None,
    "import": {
        "state": "none",
        "archives": [],
        "ignored": [],
        "left_out": {"total": 0, "first": []},
        "users": _NOTHING,
        "indexes": _NOTHING,
        "projects": _NOTHING,
        "files": _NOTHING,
        "bytes": _NOTHING,
        "extracted": _NOTHING,
        "current": None,
        "rate": None,
        "eta_seconds": None,
        "started": None,
        "finished": None,
        "error": None,
    },
    "root_password": {
        "state": "claimed",
        "expires": None,
        "claimed_at": _LATER,
        "expired_at": None,
        "hint": "if it is lost: `sidecar rotate`",
    },
    "unusable_passwords": {"total": 1, "users": ["alice"], "hint": "as root: `devpi passwd NAME`"},
    "notices": [
        {
            "about": "variable",
            "reason": "DEVPI_PASWORD is not a known variable",
            "hint": "did you mean DEVPI_PASSWORD? Rename it or remove it",
        }
    ],
    "mirrors": {
        "with_list": {"total": 1, "indexes": ["root/pypi"]},
        "without_list": {"total": 0, "indexes": []},
        "notes": [
            "root/pypi keeps the list of the upstream's projects in memory, fetched anew at each start: PyPI's takes "
            "about 300 MiB. `devpi index root/pypi mirror_no_project_list=true` goes without it."
        ],
    },
    "devpi": {
        "version": "6.20.3",
        "role": "primary",
        "addresses": ["http://0.0.0.0:3141"],
        "plugins": [{"name": "devpi-web", "version": "5.0.1"}],
        "serial": 7,
        "behind": None,
        "replicas": [{"address": "10.0.3.8", "behind": 0, "asked_at": _LATER}],
        "backlog": {"events": 0, "search_index": 0},
    },
    "numbers": {
        "contents": {"projects": 450, "users": 3, "indexes": 4, "mirrors": 1, "since": _LATER},
        "requests": {"total": 20741, "per_second": 3.4, "uploads": 12, "last_upload": _LATER},
        "volume": {"free_bytes": 14680064000, "size_bytes": 21474836480},
        "serverdir": {"used_bytes": 734003200, "files": 4100},
    },
    "sidecar": {"version": "0.1.0"},
    "wrong_admin_tokens": {"total": 0, "turned_away": 0, "last": None},
}

BOOTSTRAP: Json = {
    "root_password": {
        "state": "claimed",
        "generated": _AT,
        "expires": None,
        "claimed_at": _LATER,
        "claimed_from": "10.0.3.7",
    }
}
PASSWORD: Json = {"user": "root", "password": "the 32 characters of the password"}
