"""`/status`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from sidecar.core.lifecycle import DevpiInfo, Failure, Notice, Phase
from sidecar.features.bootstrap.import_status import Archive, Count, ImportFailure, ImportState, ImportStatus, LeftOut
from sidecar.features.credentials.password_status import RootPassword, RootPasswordStatus, UnusablePasswords
from sidecar.features.mirror.following import Mirrors, Named
from sidecar.web.serializers import public
from tests.support.fake_devpi import UUID, eventually, status_of
from tests.support.upstreams import seen_failing, seen_up, upstreams_of
from tests.web.conftest import PASSWORD, TOKEN, Site

AT = datetime(2026, 11, 22, 10, 20, 30, 456000, tzinfo=UTC)


async def test_status_at_first(site: Site) -> None:
    """Every field is there from the start."""
    answer = await site.get("/status")
    assert answer.status == 200
    assert answer.json["phase"] == "starting"
    assert answer.json["import"]["state"] == "none"
    assert answer.json["root_password"]["state"] == "unknown"
    assert answer.json["unusable_passwords"] is None
    assert answer.json["notices"] == []
    assert answer.json["mirrors"] is None
    assert answer.json["devpi"] is None
    assert answer.json["sidecar"] == {"version": "1.2.3"}
    assert answer.json["wrong_admin_tokens"] == {"total": 0, "turned_away": 0, "last": None}


async def test_status_of_notices(site: Site) -> None:
    """In their order, each once, without paths."""
    first = Notice("configuration", "unknown option x in the configuration file /etc/devpi.yml", "remove it")
    site.lifecycle.notice(first, first)
    site.lifecycle.notice(Notice("variable", "unknown variable DEVPI_X", "remove it"), first)
    reasons = ["unknown option x in the configuration file <path>", "unknown variable DEVPI_X"]
    told = (await site.get("/status")).json["notices"]
    assert reasons == [notice["reason"] for notice in told]
    assert {"about": "variable", "reason": reasons[1], "hint": "remove it"} == told[1]


async def test_status_of_mirrors(site: Site) -> None:
    """Their upstreams, with the last error and its hint, the list of projects and counts; no path of a URL."""
    site.tell(mirrors=Mirrors(3, upstreams_of(seen_up("root/pypi"), seen_failing("x/y")), Named(1, ("x/y",))))
    mirrors = (await site.get("/status")).json["mirrors"]
    up, failing = mirrors["upstreams"]
    assert (3, "root/pypi", "up", None) == (mirrors["total"], up["index"], up["state"], up["error"])
    assert up["last_success"] == "2026-11-22T10:20:30.000Z"
    assert up["list"] == {"state": "fresh", "refreshed": up["last_success"], "projects": 650123, "error": None}
    assert up["pages"] == {"hit": 812, "miss": 40, "stale": 0, "failed": 0}
    assert (up["answers"], up["received_bytes"]) == ({"200": 61, "304": 4}, 48123456)
    assert failing["error"] == {
        "kind": "trust",
        "reason": "the certificate is not signed by a trusted CA",
        "hint": "set DEVPI_MIRROR_CA to the file <path>",
    }
    assert (failing["state"], failing["origin"]) == ("down", "https://index.example.com:8443")
    assert failing["next_try"] == "2026-11-22T10:41:22.000Z"
    assert mirrors["without_list"] == {"total": 1, "indexes": ["x/y"]}
    assert "x/y has no list" in mirrors["notes"][0]
    site.tell(mirrors=Mirrors())
    assert (await site.get("/status")).json["mirrors"]["notes"] == []


async def test_status_of_users_who_need_a_new_password(site: Site) -> None:
    """How many, and names of the first."""
    site.tell(unusable_passwords=UnusablePasswords(21, ("alice", "b <\u202e")))
    assert (await site.get("/status")).json["unusable_passwords"] == {
        "total": 21,
        "users": ["alice", "b <\u202e"],
        "hint": None,
    }
    site.lifecycle.enter(Phase.LAUNCHING)
    assert (await site.get("/status")).json["unusable_passwords"]["hint"] == "as root: `devpi passwd NAME`"
    site.tell(unusable_passwords=UnusablePasswords(0))
    assert (await site.get("/status")).json["unusable_passwords"] == {"total": 0, "users": [], "hint": None}


async def test_status_of_what_was_left_out(site: Site) -> None:
    """How many entries, and the first ones with archive and reason."""
    assert (await site.get("/status")).json["import"]["left_out"] == {"total": 0, "first": []}
    left_out = (LeftOut("backup.bz2", "../x", "leads out"),)
    site.tell(imported=ImportStatus(ImportState.COMPLETED, left_out_total=12, left_out=left_out))
    expected = {"total": 12, "first": [{"archive": "backup.bz2", "member": "../x", "reason": "leads out"}]}
    assert (await site.get("/status")).json["import"]["left_out"] == expected


async def test_status_of_an_import(site: Site) -> None:
    """The format that clients rely on."""
    site.lifecycle.enter(Phase.IMPORTING)
    site.tell(
        imported=ImportStatus(
            state=ImportState.LOADING,
            archives=(Archive("backup.bz2", 1, "ab"),),
            files=Count(512, 2000),
            projects=Count(1, 2),
            rate=180.512,
            eta_seconds=8.24,
            started=AT,
        )
    )
    answer = await site.get("/status")
    assert answer.json["phase"] == "importing"
    assert [p["phase"] for p in answer.json["phases"]] == ["starting", "importing"]
    imported = answer.json["import"]
    assert imported["state"] == "loading"
    assert imported["archives"] == [{"name": "backup.bz2", "bytes": 1, "sha256": "ab"}]
    assert imported["files"] == {"done": 512, "total": 2000}
    assert (imported["rate"], imported["eta_seconds"], imported["error"]) == (180.5, 8.2, None)
    assert imported["started"] == "2026-11-22T10:20:30.456Z"
    assert {"users", "indexes", "projects", "files", "bytes"} <= imported.keys()


async def test_status_of_a_failed_import(site: Site) -> None:
    """Archive, member, reason and hint; no paths."""
    site.lifecycle.enter(Phase.IMPORTING)
    error = ImportFailure(
        "can't read '/srv/secret place/x'", "look at /srv/secret", "backup.bz2", "alice/dev/x-1.tar.gz"
    )
    site.tell(imported=ImportStatus(ImportState.FAILED, error=error))
    site.lifecycle.enter(
        Phase.FAILED, Failure("the import failed: /srv/secret/y", "chown /srv/secret; see GET /status")
    )
    answer = await site.get("/status")
    assert answer.json["import"]["error"] == {
        "archive": "backup.bz2",
        "member": "alice/dev/x-1.tar.gz",
        "reason": "can't read <path>",
        "hint": "look at <path>",
    }
    assert answer.json["failure"] == {"reason": "the import failed: <path>", "hint": "chown <path>; see GET /status"}
    for path in ("/readyz", "/readyz/process", "/health"):
        assert b"secret" not in (await site.get(path)).body


async def test_status_of_devpi(site: Site) -> None:
    """Version, role and plugins, without the path of a Unix socket."""
    site.lifecycle.learn(
        DevpiInfo("6.20.3", "primary", ("http://0.0.0.0:3141", "unix:/run/devpi.sock"), (("devpi-web", "5.0"),))
    )
    assert (await site.get("/status")).json["devpi"] == {
        "version": "6.20.3",
        "role": "primary",
        "addresses": ["http://0.0.0.0:3141", "unix"],
        "plugins": [{"name": "devpi-web", "version": "5.0"}],
        "serial": None,
        "behind": None,
        "replicas": [],
        "backlog": None,
    }


async def test_status_of_replicas(site: Site) -> None:
    """The address, lag and last request of each of a primary's replicas."""
    await site.become_ready()
    site.lifecycle.learn(DevpiInfo("6.20.3", "primary"))
    replica = {"remote-ip": "10.0.3.7", "serial": 5, "last-request": 1e9, "outside-url": None, "in-request": True}
    site.devpi.status = status_of(serial=7) | {"polling_replicas": {UUID: replica}}
    site.health.probe_now()
    await eventually(lambda: (said := site.health.server_status()) and said.replicas)
    told = (await site.get("/status")).json["devpi"]
    assert [{"address": "10.0.3.7", "behind": 2, "asked_at": "2001-09-09T01:46:40.000Z"}] == told["replicas"]
    assert told["behind"] is None
    site.devpi.status = status_of(role="REPLICA", serial=7, primary_serial=9)
    site.health.probe_now()
    await eventually(lambda: (said := site.health.server_status()) and said.is_replica)
    told = (await site.get("/status")).json["devpi"]
    assert ([], 2) == (told["replicas"], told["behind"])


@pytest.mark.parametrize("state", list(RootPassword))
async def test_root_password_state(site: Site, state: RootPassword) -> None:
    """Every state with its time, without the address and the password."""
    site.tell(root_password=RootPasswordStatus(state, changed=AT, claimed_from="10.0.3.7"))
    answer = await site.get("/status")
    assert answer.json["root_password"]["state"] == state.value
    assert b"10.0.3.7" not in answer.body
    assert (answer.json["root_password"]["claimed_at"] is not None) is (state is RootPassword.CLAIMED)


async def test_no_secret_in_any_anonymous_answer(site: Site) -> None:
    """Neither the password nor the token."""
    site.generate_password()
    for path in ("/", "/livez?verbose", "/readyz?verbose", "/health", "/status", "/bootstrap"):
        answer = await site.get(path)
        assert PASSWORD.encode() not in answer.body
        assert TOKEN.encode() not in answer.body
        assert not re.search(rb"/tmp|/srv|/var", answer.body)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("the file /var/lib/devpi/.sqlite is gone", "the file <path> is gone"),
        ("can't read '/a b/c': no", "can't read <path>: no"),
        ("path=/etc/passwd, and (/tmp/x)", "path=<path>, and (<path>)"),
        ("alice/dev/x and/or http://h:1/p", "alice/dev/x and/or http://h:1/p"),
        ("POST /bootstrap/rotate", "POST /bootstrap/rotate"),
        (None, None),
    ],
)
def test_public(text: str | None, told: str | None) -> None:
    """Absolute paths are masked, but not members, URLs and our own routes."""
    assert public(text) == told
