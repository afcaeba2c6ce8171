"""`/events`: changes, sent to browsers that connect, disconnect, and don't read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.core.lifecycle import DevpiInfo, Failure, Phase
from sidecar.features.bootstrap.import_status import Count, ImportState, ImportStatus
from sidecar.web.app import make_app
from sidecar.web.page import stream as events
from sidecar.web.page.stream import HUB, Hub
from sidecar.web.server import site as server
from tests.support.fake_devpi import eventually
from tests.web.conftest import PASSWORD, TOKEN, Site

SECTIONS = {"verdict", "headline", "phases", "notices", "import", "checks", "password", "replicas", "versions"}


class Listener:
    """A client of `/events` like a browser's EventSource."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.last_id = ""
        self.sections: dict[str, str] = {}
        self.raw = b""

    async def next(self) -> tuple[str, Any]:
        """Return the next event: its name, and its parsed data."""
        async with asyncio.timeout(60):
            while True:
                name, data = "message", ""
                while line := (await self.response.content.readline()).decode():
                    self.raw += line.encode()
                    if line == "\n":
                        break
                    field, _, value = line.rstrip("\n").partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        data += value
                    elif field == "id":
                        self.last_id = value
                else:
                    raise EOFError
                if name == "section":
                    section, text = json.loads(data)
                    self.sections[section] = text
                    return section, text
                if data:
                    return name, json.loads(data)
                if name == "pulse":
                    return name, None

    async def until(self, section: str, words: str) -> str:
        """Wait until the section contains the words, and return it."""
        while words not in self.sections.get(section, ""):
            await self.next()
        return self.sections[section]

    async def settle(self) -> Listener:
        """Wait until all initial events have arrived."""
        while not self.last_id:
            await self.next()
            if self.sections.keys() >= SECTIONS:
                self.raw += await self.response.content.readuntil(b"id: ")
                self.last_id = (await self.response.content.readline()).decode().strip()
        return self


@contextlib.asynccontextmanager
async def listening(site: Site, **headers: str) -> AsyncIterator[Listener]:
    async with site.session.get(f"http://127.0.0.1:{site.web.port}/events", headers=headers) as response:
        assert 200 == response.status, await response.text()
        assert "text/event-stream" == response.content_type
        yield Listener(response)


def hub(site: Site) -> Hub:
    return site.web.runner.app[HUB]


async def test_at_first_everything(site: Site) -> None:
    """The epoch, the clock, the delay before a reconnect, and each section; no secrets."""
    site.generate_password()
    async with listening(site) as stream:
        name, hello = await stream.next()
        assert "hello" == name
        assert {"epoch", "edition", "now"} == hello.keys()
        assert b"retry: 1000\n" in stream.raw
        await stream.settle()
        assert SECTIONS <= stream.sections.keys()
        assert stream.last_id.startswith(hello["epoch"])
        assert "starting" in stream.sections["phases"]
        assert not [secret for secret in (PASSWORD, TOKEN) if secret.encode() in stream.raw]


@pytest.mark.alone
async def test_changes_alone(site: Site) -> None:
    """A change sends at once only the sections that differ."""
    async with listening(site) as stream:
        await stream.settle()
        stream.sections.clear()
        began = time.monotonic()
        site.lifecycle.enter(Phase.INITIALISING)
        await stream.until("phases", "initialising")
        assert time.monotonic() - began < 0.2
        assert {"verdict", "headline", "phases", "checks"} >= stream.sections.keys()


async def test_a_check_that_changes_is_told(site: Site) -> None:
    """They follow the monitor's next tick, without a timer of the hub."""
    await site.become_ready()
    async with listening(site) as stream:
        await stream.until("headline", "Ready")
        site.health.process_ended("devpi-server was ended by SIGKILL")
        site.health.probe_now()
        await stream.until("headline", "was ended by SIGKILL")


async def test_a_figure_that_runs_on_is_told_to_nobody_at_once(site: Site) -> None:
    """While devpi-server hangs, no check renders anything; screen readers get the check's name, and no figure."""
    await site.become_ready()
    async with listening(site) as stream:
        await stream.settle()
        site.devpi.delay = 30.0
        said = await stream.until("verdict", "warning")
        assert "Ready, with a warning: http" == said
        told = hub(site)._number
        first = reason_of_http(site)
        await eventually(lambda: reason_of_http(site) != first)
        ticks = 0

        def tick() -> None:
            nonlocal ticks
            ticks += 1

        site.board.on_tick(tick)
        await eventually(lambda: ticks > 2)
        assert "no answer for" in reason_of_http(site)
        assert told == hub(site)._number


def reason_of_http(site: Site) -> str:
    return next(check.reason or "" for check in site.board.checks() if check.name == "http")


async def test_an_import_is_told_four_times_a_second(site: Site) -> None:
    """A hundred reports in a second cause few events; the last one has the last count."""
    site.lifecycle.enter(Phase.IMPORTING)
    async with listening(site) as stream:
        await stream.settle()
        seen = []
        began = time.monotonic()
        for done in range(1, 101):
            site.tell(imported=ImportStatus(ImportState.LOADING, files=Count(done, 100)))
            await asyncio.sleep(0.01)
        while "Files</dt><dd>100 " not in stream.sections["import"]:
            if (await stream.next())[0] == "import":
                seen.append(stream.sections["import"])
        assert 3 <= len(seen) <= 4 * (time.monotonic() - began) + 2


async def test_reconnecting(site: Site) -> None:
    """A client that missed something, or comes from an earlier epoch, gets everything; others get nothing."""
    async with listening(site) as stream:
        last = (await stream.settle()).last_id
        async with listening(site, **{"Last-Event-ID": last}) as again:
            assert "hello" == (await again.next())[0]
            site.lifecycle.enter(Phase.INITIALISING)
            await again.until("phases", "initialising")
            assert "password" not in again.sections
        async with listening(site, **{"Last-Event-ID": "0badf00d-1"}) as stranger:
            await stranger.settle()
            assert SECTIONS <= stranger.sections.keys()


async def test_each_is_told_how_to_use_it_from_where_it_is(site: Site) -> None:
    """Each client gets the same change, with the host name that it used."""
    async with listening(site, Host="one:3142") as one, listening(site, Host="two:3142") as two:
        await one.settle()
        await two.settle()
        site.lifecycle.learn(DevpiInfo("6.20.3", addresses=("http://0.0.0.0:3141",)))
        site.lifecycle.enter(Phase.LAUNCHING)
        await one.until("use", "http://one:3141")
        await two.until("use", "http://two:3141")


async def test_a_pulse_when_nothing_happens(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It only shows that the stream is alive."""
    monkeypatch.setattr(events, "PULSE", 0.3)
    async with listening(site) as stream:
        await stream.settle()
        assert ("pulse", None) == await stream.next()


async def test_no_more_than_so_many(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with Retry-After above the limit; a closed stream makes room for another."""
    monkeypatch.setattr(hub(site), "most", 2)
    monkeypatch.setattr(events, "PULSE", 0.3)
    async with listening(site):
        async with listening(site):
            refused = await site.get("/events")
            assert (503, "30") == (refused.status, refused.headers["Retry-After"])
            assert "urn:devpi-sidecar:problem:too-many-streams" == refused.json["type"]
        await eventually(lambda: len(hub(site)) == 1)
        async with listening(site) as stream:
            await stream.settle()
    await eventually(lambda: len(hub(site)) == 0)


async def test_streams_leave_connections_for_probes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the limit of connections: streams are always busy, and never closed for a new connection."""
    monkeypatch.setattr(server, "MOST", 56)
    context = site.context
    await site.web.stop()
    site.web = await server.serve(make_app(context), "127.0.0.1", 0)
    async with listening(site), listening(site):
        assert 503 == (await site.get("/events")).status
        assert 200 == (await site.get("/livez")).status


async def test_who_never_reads_is_dropped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory for such a client is bounded, and other clients get everything meanwhile."""
    monkeypatch.setattr(events, "PATIENCE", 3.0)
    monkeypatch.setattr(events, "GAP", 0.0)
    site.lifecycle.enter(Phase.IMPORTING)
    async with listening(site) as stream:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.web.port, limit=1)
        writer.write(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
        await eventually(lambda: len(hub(site)) == 2)
        done, most = 0, 0
        deadline = time.monotonic() + 300
        while len(hub(site)) == 2:
            assert time.monotonic() < deadline
            done += 1
            error = "n" * 900 + str(done)
            site.tell(imported=ImportStatus(ImportState.LOADING, current=error, files=Count(done, 10**9)))
            await stream.until("import", f"Files</dt><dd>{done:,} ")
            most = max([most, *(sum(map(len, each.pending.values())) for each in hub(site)._streams)])
        assert 1 == len(hub(site))
        assert most < 64 * 1024
        writer.close()
        reader.feed_eof()


async def test_a_client_that_goes_is_forgotten(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next pulse at the latest; then nothing is rendered any more."""
    monkeypatch.setattr(events, "PULSE", 0.3)
    async with listening(site):
        assert 1 == len(hub(site))
    await eventually(lambda: len(hub(site)) == 0)


@pytest.mark.alone
async def test_the_end(site: Site) -> None:
    """The last change is sent, then the streams end; the stop waits for none of them."""
    async with listening(site) as stream:
        await stream.settle()
        site.lifecycle.enter(Phase.FAILED, Failure("devpi-server was ended by SIGKILL", "its log says why"))
        began = time.monotonic()
        await site.web.stop()
        assert time.monotonic() - began < 0.5
        await stream.until("headline", "was ended by SIGKILL")
        await stream.response.content.read()
        assert stream.response.content.at_eof()


async def test_an_error_in_the_page_is_nobody_elses(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The lifecycle continues, probes answer, and the error is logged."""
    from sidecar.web.page import report

    async with listening(site) as stream:
        await stream.settle()
        monkeypatch.setattr(report, "sections", lambda _view: 1 / 0)
        site.lifecycle.enter(Phase.INITIALISING)
        await eventually(lambda: "ZeroDivisionError" in caplog.text)
        assert "initialising" == (await site.get("/status")).json["phase"]
        assert 200 == (await site.get("/livez")).status


async def test_hostile_names_end_no_event(site: Site) -> None:
    """A newline in a name doesn't end a line of the stream."""
    async with listening(site) as stream:
        await stream.settle()
        name = "x\n\nevent: hello\ndata: {}\n\n<script>\u2028\r"
        site.lifecycle.enter(Phase.IMPORTING)
        site.tell(imported=ImportStatus(ImportState.LOADING, current=name))
        text = await stream.until("import", "event: hello")
        assert "<script" not in text
        assert 1 == stream.raw.count(b"\nevent: hello\n") + stream.raw.startswith(b"event: hello\n")


async def test_head(site: Site) -> None:
    """HEAD returns the content type, and ends."""
    answer = await site.ask("HEAD", "/events")
    assert (200, b"") == (answer.status, answer.body)
    assert "text/event-stream" in answer.headers["Content-Type"]
    assert 0 == len(hub(site))
