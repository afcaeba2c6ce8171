"""`/livez`, `/startupz`, `/readyz`, `/health`."""

from __future__ import annotations

import errno
import re
import socket
import time

import pytest

from sidecar.core.lifecycle import Failure, Phase
from sidecar.features.bootstrap.import_status import Count, ImportStatus
from sidecar.web.app import make_app
from sidecar.web.context import CONTEXT
from sidecar.web.negotiation import _names_text
from sidecar.web.server.site import serve
from tests.support.described import CHECKS
from tests.support.fake_devpi import eventually
from tests.web.conftest import Site

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


async def test_livez_is_ok_whatever_devpi_does(site: Site) -> None:
    """A container whose devpi-server failed is alive, so that an operator can read the reason."""
    site.lifecycle.enter(Phase.FAILED, Failure("no", "do"))
    answer = await site.get("/livez")
    assert (answer.status, answer.body) == (200, b"ok")


async def test_livez_fails_with_a_supervisor_that_does_not_tick(site: Site) -> None:
    """A supervisor that hangs or has ended needs a restart; the body names it."""
    site.tick_age = 11
    answer = await site.get("/livez")
    assert answer.status == 503
    assert answer.body == b"[-]supervisor failed: no tick for 11 s\n[+]monitor ok\nlivez check failed\n"
    site.tick_age = float("inf")
    answer = await site.get("/livez", Accept="application/json")
    assert answer.json["checks"] == [{"name": "supervisor", "status": "fail", "reason": "it has stopped"}]


async def test_startupz_is_ok_during_an_import(site: Site) -> None:
    """A startup probe must not kill a long import."""
    site.lifecycle.enter(Phase.IMPORTING)
    assert (await site.get("/startupz")).body == b"ok"
    assert (await site.get("/startupz", Accept="application/json")).json == {"status": "pass", "checks": []}


async def test_readyz_says_why_not(site: Site) -> None:
    """503 in the format that clients rely on, for `Accept: */*`, which probes and curl send."""
    site.lifecycle.enter(Phase.IMPORTING)
    site.tell(imported=ImportStatus(files=Count(512, 2000)))
    answer = await site.get("/readyz")
    assert answer.status == 503
    assert answer.json["status"] == "pending"
    process = answer.json["checks"][0]
    assert (process["name"], process["status"]) == ("process", "pending")
    assert process["reason"] == "importing: 512 of 2000 files"
    assert re.fullmatch(TIME, process["since"])
    assert {name for name, gates in CHECKS.items() if gates} == {check["name"] for check in answer.json["checks"]}


async def test_readyz_when_ready(site: Site) -> None:
    """200, as JSON or as text."""
    await site.become_ready()
    assert (await site.get("/readyz")).json == {"status": "pass", "checks": []}
    answer = await site.get("/readyz", Accept="text/plain")
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_readyz_verbose_reads_as_kubernetes(site: Site) -> None:
    """?verbose lists every check, as text unless JSON is requested."""
    await site.become_ready()
    await eventually(lambda: all(c.status == "pass" for c in site.board.checks()))
    answer = await site.get("/readyz?verbose")
    assert answer.body.decode().splitlines() == [
        *(f"[+]{n} ok" for n in CHECKS),
        "readyz check passed",
    ]
    answer = await site.get("/readyz?verbose", Accept="application/json")
    assert len(answer.json["checks"]) == 9


async def test_readyz_text_failing(site: Site) -> None:
    """A failing probe is always verbose, with reason and hint."""
    await site.become_ready()
    site.root_password("empty", allowed=False)
    answer = await site.get("/readyz", Accept="text/plain")
    assert answer.status == 503
    lines = answer.body.decode().splitlines()
    assert lines[-1] == "readyz check failed"
    assert (
        "[-]root-password failed: root's password is empty;"
        " run `sidecar rotate`, or set SIDECAR_ALLOW_EMPTY_ROOT=true to allow it"
    ) in lines


async def test_an_import_fails_nothing(site: Site) -> None:
    """During an import, readiness is 503 without any failure or warning."""
    site.lifecycle.enter(Phase.IMPORTING)
    site.tell(imported=ImportStatus(files=Count(512, 2000)))
    answer = await site.get("/readyz", Accept="text/plain")
    assert (answer.status, answer.body.decode().splitlines()) == (
        503,
        [
            "[-]process pending: importing: 512 of 2000 files",
            *(f"[-]{name} pending: not checked yet" for name in [name for name, gates in CHECKS.items() if gates][1:]),
            *(f"[+]{name} pending: not checked yet" for name in ("disk", "events", "mirror")),
            "readyz check pending",
        ],
    )
    for path in ("/readyz", "/readyz?verbose", "/readyz/http", "/readyz/disk", "/health"):
        answer = await site.get(path, Accept="application/json")
        assert not re.search(rb"\b(fail|warn)", answer.body), path
        assert answer.json["status"] == "pending"
    samples = (await site.get("/metrics")).body.decode()
    assert 'devpi_sidecar_check_status{check="http",status="pending"} 1.0' in samples
    assert 'devpi_sidecar_check_status{check="http",status="fail"} 0.0' in samples
    assert "devpi_sidecar_ready 0.0" in samples


async def test_readyz_exclude(site: Site) -> None:
    """Excluded checks don't count; an unknown name is a warning, as in Kubernetes."""
    await site.become_ready()
    site.root_password("empty", allowed=False)
    assert (await site.get("/readyz?exclude=http")).status == 503
    answer = await site.get("/readyz?exclude=http&exclude=root-password&exclude=nope%0a&verbose")
    assert answer.status == 200
    lines = answer.body.decode().splitlines()
    assert "[+]root-password excluded: ok" in lines
    assert 'warn: some health checks cannot be excluded: no matches for "nope "' in lines
    answer = await site.get("/readyz?exclude=root-password&exclude=nope")
    assert answer.json["warnings"] == ["there is no check 'nope' to exclude"]


async def test_readyz_of_one_check(site: Site) -> None:
    """One check by name; a check that only warns never answers 503; an unknown name is 404."""
    assert (await site.get("/readyz/http")).status == 503
    assert (await site.get("/readyz/disk")).status == 200
    answer = await site.get("/readyz/http", Accept="text/plain")
    assert answer.body == b"[-]http pending: not checked yet\n"
    assert (await site.get("/readyz/disk", Accept="text/plain")).body == b"[+]disk pending: not checked yet\n"
    await site.become_ready()
    assert (await site.get("/readyz/http")).json["unit"] == "seconds"
    assert (await site.get("/readyz/http", Accept="text/plain")).body == b"ok"
    answer = await site.get("/readyz/nope")
    assert (answer.status, answer.json["title"]) == (404, "Not Found")


async def test_health_lists_all_checks(site: Site) -> None:
    """Every check, in full."""
    await site.become_ready()
    site.root_password("empty", allowed=True)
    answer = await site.get("/health")
    assert (answer.status, answer.json["status"]) == (200, "warn")
    assert [c["name"] for c in answer.json["checks"]] == [c.name for c in site.board.checks()]
    expected = {"name", "status", "reason", "hint", "since", "gates", "value", "unit"}
    assert all(set(check) == expected for check in answer.json["checks"])
    site.health.process_ended("gone")
    assert (await site.get("/health")).json["status"] == "fail"


async def test_head_works_wherever_get_does(site: Site) -> None:
    """The same status and headers, no body."""
    for path in ("/", "/livez", "/startupz", "/readyz", "/readyz/http", "/health", "/status"):
        got, head = await site.get(path), await site.ask("HEAD", path)
        assert (head.status, head.body) == (got.status, b""), path
        assert head.headers["Content-Type"] == got.headers["Content-Type"]


async def test_every_answer_has_the_common_headers(site: Site) -> None:
    """No version, no sniffing, no caches; also for errors."""
    for path in ("/", "/livez", "/readyz", "/nope", "/bootstrap"):
        headers = (await site.get(path)).headers
        assert headers["Server"] == "devpi-sidecar"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("application/json", False),
        ("application/json, text/plain, */*", False),
        ("text/*;q=0.5, application/json;q=0.4", True),
        ("text/plain;q=x, application/json;q=0.1", False),
        ("image/png, */*", None),
        ("", None),
        (";;;,,q=1", None),
    ],
)
def test_accept(accept: str, text: bool | None) -> None:
    """Text if the client prefers it to JSON."""
    assert _names_text(accept) is text


async def test_index_lists_the_paths(site: Site) -> None:
    """`/` shows a person what the port offers."""
    assert b"/readyz" in (await site.get("/")).body


async def test_a_port_in_use_is_an_oserror(site: Site) -> None:
    """The caller reports it; nothing stays open."""
    app = make_app(site.web.runner.app[CONTEXT])
    with pytest.raises(OSError, match="Address already in use") as caught:
        await serve(app, "127.0.0.1", site.web.port)
    assert caught.value.errno == errno.EADDRINUSE


async def test_a_foreign_address_is_an_oserror(site: Site) -> None:
    """An address that isn't this host's."""
    app = make_app(site.web.runner.app[CONTEXT])
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its errno is what counts
        await serve(app, "192.0.2.1", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_idle_clients_do_not_delay_the_stop(site: Site) -> None:
    """A keep-alive connection is closed at once."""
    await site.get("/livez")
    with socket.create_connection(("127.0.0.1", site.web.port)):
        started = time.monotonic()
        await site.web.stop()
        assert time.monotonic() - started < 30, "aiohttp would wait for a minute"
