"""The sidecar's objects as JSON; nothing of it names a path on disk."""

from __future__ import annotations

from sidecar.core.check import Check
from sidecar.core.feature import Json
from sidecar.core.lifecycle import DevpiInfo, Failure, Notice, Snapshot
from sidecar.core.public import public, rfc3339
from sidecar.devpi.server_status import Replica, ServerStatus
from sidecar.features.credentials.password_status import RootPasswordStatus
from sidecar.web.admin_auth import Rejections


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


def status(of: Snapshot, said: ServerStatus | None, sidecar_version: str, rejections: Rejections, name: str) -> Json:
    """`GET /status`, without the features' parts."""
    return {
        "name": name,
        "phase": of.phase.value,
        "since": rfc3339(of.since),
        "phases": [{"phase": phase.value, "since": rfc3339(since)} for phase, since in of.history],
        "failure": failure(of.failure),
        "notices": [notice(each) for each in of.notices],
        "devpi": devpi(of.devpi, said),
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


def notice(of: Notice) -> Json:
    """Something that an operator should know of."""
    return {"about": of.about, "reason": public(of.reason), "hint": public(of.hint)}


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


def bootstrap(of: RootPasswordStatus) -> Json:
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
