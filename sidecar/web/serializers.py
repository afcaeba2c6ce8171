"""The sidecar's objects as JSON; nothing of it names a path on disk."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from sidecar.core import advice
from sidecar.core.lifecycle import (
    Contents,
    Count,
    DevpiInfo,
    Failure,
    ImportFailure,
    ImportStatus,
    Mirrors,
    Named,
    Notice,
    RootPassword,
    Snapshot,
)
from sidecar.devpi.server_status import Replica, ServerStatus
from sidecar.features.credentials.claims import BootstrapStatus
from sidecar.features.health.monitor import Check
from sidecar.features.mirror import notice as mirrors
from sidecar.web.admin_auth import Rejections
from sidecar.web.numbers import Numbers

Json = dict[str, object]

_ROUTES = r"/(?!(?:bootstrap|status|readyz|health)\b)"
_QUOTED_PATH = re.compile(rf"(['\"`]){_ROUTES}[^'\"`]*\1")
_PATH = re.compile(rf"(?<![^\s(\[=:,])(?<!:(?=//)){_ROUTES}[^\s'\"`()\[\],;]+")


def public(text: str | None) -> str | None:
    """`text` for anybody to read: absolute paths are left to the log."""
    return None if text is None else _PATH.sub("<path>", _QUOTED_PATH.sub("<path>", text))


def rfc3339(at: datetime | None) -> str | None:
    """A time in UTC, to the millisecond, as `2026-11-22T10:20:30.456Z`."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check(of: Check) -> Json:
    """One check."""
    return {
        "name": of.name,
        "status": of.status.value,
        "reason": public(of.reason),
        "hint": public(of.hint),
        "since": rfc3339(of.since),
        "gates": of.gates,
        "value": of.value,
        "unit": of.unit,
    }


def status(
    of: Snapshot, said: ServerStatus | None, sidecar_version: str, rejections: Rejections, name: str, counted: Numbers
) -> Json:
    """`GET /status`."""
    return {
        "name": name,
        "phase": of.phase.value,
        "since": rfc3339(of.since),
        "phases": [{"phase": phase.value, "since": rfc3339(since)} for phase, since in of.history],
        "failure": failure(of.failure),
        "import": imported(of.imported),
        "root_password": root_password(of),
        "unusable_passwords": unusable_passwords(of),
        "notices": [notice(each) for each in of.notices],
        "mirrors": mirrors_of(of.mirrors),
        "devpi": devpi(of.devpi, said),
        "numbers": numbers(counted),
        "sidecar": {"version": sidecar_version},
        "wrong_admin_tokens": {
            "total": rejections.wrong,
            "turned_away": rejections.turned_away,
            "last": rfc3339(rejections.last),
        },
    }


def failure(of: Failure | None) -> Json | None:
    """Why the container failed."""
    return None if of is None else {"reason": public(of.reason), "hint": public(of.hint)}


def imported(of: ImportStatus) -> Json:
    """The import in full."""
    return {
        "state": of.state.value,
        "archives": [{"name": a.name, "bytes": a.bytes, "sha256": a.sha256} for a in of.archives],
        "ignored": list(of.ignored),
        "left_out": {
            "total": of.left_out_total,
            "first": [
                {"archive": each.archive, "member": each.member, "reason": public(each.reason)} for each in of.left_out
            ],
        },
        "users": count(of.users),
        "indexes": count(of.indexes),
        "projects": count(of.projects),
        "files": count(of.files),
        "bytes": count(of.bytes),
        "extracted": count(of.extracted),
        "current": of.current,
        "rate": None if of.rate is None else round(of.rate, 1),
        "eta_seconds": None if of.eta_seconds is None else round(of.eta_seconds, 1),
        "started": rfc3339(of.started),
        "finished": rfc3339(of.finished),
        "error": import_failure(of.error),
    }


def import_failure(of: ImportFailure | None) -> Json | None:
    """Why the import failed."""
    if of is None:
        return None
    return {
        "archive": public(of.archive),
        "member": of.member,
        "reason": public(of.reason),
        "hint": public(of.hint),
    }


def count(of: Count) -> Json:
    """How many of how many."""
    return {"done": of.done, "total": of.total}


def root_password(snapshot: Snapshot) -> Json:
    """What anybody may know of root's password; from where it was claimed isn't part of that."""
    of = snapshot.root_password
    return {
        "state": of.state.value,
        "expires": rfc3339(of.expires),
        "claimed_at": rfc3339(of.changed) if of.state is RootPassword.CLAIMED else None,
        "expired_at": rfc3339(of.changed) if of.state is RootPassword.EXPIRED else None,
        "hint": advice.root_password(snapshot),
    }


def unusable_passwords(snapshot: Snapshot) -> Json | None:
    """Users who need a new password, and how many they are; None: not looked at yet."""
    if (of := snapshot.unusable_passwords) is None:
        return None
    hint = advice.user_password(snapshot) if of.total else None
    return {"total": of.total, "users": [public(name) for name in of.users], "hint": hint}


def notice(of: Notice) -> Json:
    """Something that an operator should know of."""
    return {"about": of.about, "reason": public(of.reason), "hint": public(of.hint)}


def mirrors_of(of: Mirrors | None) -> Json | None:
    """The mirrors, and what follows from their lists; None: not looked at yet."""
    if of is None:
        return None
    return {
        "with_list": _named(of.with_list),
        "without_list": _named(of.without_list),
        "notes": [public(note) for note in mirrors.notes(of)],
    }


def _named(of: Named) -> Json:
    return {"total": of.total, "indexes": [public(name) for name in of.names]}


def devpi(of: DevpiInfo | None, said: ServerStatus | None) -> Json | None:
    """The devpi-server that runs, and what it puts off until after it serves; None: it has not said yet."""
    if of is None:
        return None
    return {
        "version": of.version,
        "role": of.role,
        "addresses": ["unix" if a.startswith("unix:") else a for a in of.addresses],
        "plugins": [{"name": name, "version": version} for name, version in of.plugins],
        "serial": None if said is None else said.serial,
        "behind": None if said is None else said.behind,
        "replicas": [] if said is None else [replica(each, said) for each in said.replicas],
        "backlog": None if said is None else {"events": said.events_behind, "search_index": said.search_index_queue},
    }


def replica(of: Replica, said: ServerStatus) -> Json:
    """One replica of the primary that has said this."""
    return {"address": of.address, "behind": said.lag(of), "asked_at": rfc3339(of.asked)}


def numbers(of: Numbers) -> Json:
    """How much there is, how much it is used, how much room is left."""
    return {
        "contents": None if of.contents is None else contents(of.contents),
        "requests": None
        if of.served is None
        else {
            "total": of.served.requests,
            "per_second": None if of.served.per_second is None else round(of.served.per_second, 2),
            "uploads": of.served.uploads,
            "last_upload": rfc3339(of.served.last_upload),
        },
        "volume": None if of.space is None else {"free_bytes": of.space.free, "size_bytes": of.space.size},
        "serverdir": None if of.used is None else {"used_bytes": of.used.bytes, "files": of.used.files},
    }


def contents(of: Contents) -> Json:
    """What devpi-server holds."""
    return {
        "projects": of.projects,
        "users": of.users,
        "indexes": of.stages,
        "mirrors": of.mirrors,
        "since": rfc3339(of.at),
    }


def bootstrap(of: BootstrapStatus) -> Json:
    """`GET /bootstrap`, for the admin."""
    return {
        "root_password": {
            "state": of.state.value,
            "generated": rfc3339(of.generated),
            "expires": rfc3339(of.expires),
            "claimed_at": rfc3339(of.claimed_at),
            "claimed_from": of.claimed_from,
        }
    }
