"""The sidecar's objects as JSON, without paths on disk."""

from __future__ import annotations

from sidecar.core.check import Check
from sidecar.core.feature import Json
from sidecar.core.lifecycle import DevpiInfo, Failure, Notice, Snapshot
from sidecar.core.public import public, rfc3339
from sidecar.devpi.server_status import Replica, ServerStatus
from sidecar.features.credentials.password_status import RootPasswordStatus
from sidecar.web.admin_auth import Rejections


def check(of: Check) -> Json:
    """Return a check."""
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


def status(of: Snapshot, server: ServerStatus | None, sidecar_version: str, rejections: Rejections, name: str) -> Json:
    """Return `/status` without the features' fields."""
    return {
        "name": name,
        "phase": of.phase.value,
        "since": rfc3339(of.since),
        "phases": [{"phase": phase.value, "since": rfc3339(since)} for phase, since in of.history],
        "failure": failure(of.failure),
        "notices": [notice(each) for each in of.notices],
        "devpi": devpi(of.devpi, server),
        "sidecar": {"version": sidecar_version},
        "wrong_admin_tokens": {
            "total": rejections.wrong,
            "turned_away": rejections.turned_away,
            "last": rfc3339(rejections.last),
        },
    }


def failure(of: Failure | None) -> Json | None:
    """Return why the container failed."""
    return None if of is None else {"reason": public(of.reason), "hint": public(of.hint)}


def notice(of: Notice) -> Json:
    """Return a notice."""
    return {"about": of.about, "reason": public(of.reason), "hint": public(of.hint)}


def devpi(of: DevpiInfo | None, server: ServerStatus | None) -> Json | None:
    """Return the running devpi-server with its backlog; None: it has not reported yet."""
    if of is None:
        return None
    return {
        "version": of.version,
        "role": of.role,
        "addresses": ["unix" if a.startswith("unix:") else a for a in of.addresses],
        "plugins": [{"name": name, "version": version} for name, version in of.plugins],
        "serial": None if server is None else server.serial,
        "behind": None if server is None else server.behind,
        "replicas": [] if server is None else [replica(each, server) for each in server.replicas],
        "backlog": None if server is None else backlog(server),
    }


def backlog(of: ServerStatus) -> Json:
    """Return what devpi-server does after it started to serve."""
    return {"events": of.events_behind, "search_index": of.search_index_queue}


def replica(of: Replica, server: ServerStatus) -> Json:
    """Return a replica, as its primary reported it."""
    return {"address": of.address, "behind": server.lag(of), "asked_at": rfc3339(of.asked)}


def bootstrap(of: RootPasswordStatus) -> Json:
    """Return `/bootstrap`."""
    return {
        "root_password": {
            "state": of.state.value,
            "generated": rfc3339(of.generated),
            "expires": rfc3339(of.expires),
            "claimed_at": rfc3339(of.claimed_at),
            "claimed_from": of.claimed_from,
        }
    }
