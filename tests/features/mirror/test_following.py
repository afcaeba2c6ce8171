"""`sidecar.features.mirror.following`: what devpi-server's process reports, from its start to its end."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from sidecar.core.board import Board
from sidecar.core.check import NOT_RUNNING, PASS, PENDING, WARN, Check
from sidecar.core.sample import Family
from sidecar.core.settings import MirrorSettings
from sidecar.devpi.protocol import MirrorsSeen, Serve, UpstreamsSeen
from sidecar.features.hooks import Plan, Running
from sidecar.features.mirror import following
from sidecar.features.mirror.following import Mirror
from sidecar.features.mirror.upstream_state import MANY
from tests.support.upstreams import AT, seen_failing, seen_up


class World:
    """The feature, and a devpi-server that starts and ends."""

    def __init__(self) -> None:
        self.board = Board()
        self.mirror = Mirror(self.board, MirrorSettings(user="u"))
        self.changes = 0
        self.board.on_change(self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def start(self) -> None:
        serve = await self.mirror.launching(Serve(""), cast(Plan, None))
        assert serve.mirror["user"] == "u"
        await self.mirror.devpi_up(cast(Running, None))

    def sees(self, *seen: dict[str, object]) -> None:
        self.mirror.hear(UpstreamsSeen(len(seen), list(seen)))

    @property
    def check(self) -> Check:
        (check,) = self.board.checks()
        return check

    def family(self, name: str) -> Family:
        (found,) = [family for family in self.mirror.samples() if family.name == name]
        return found

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        return {sample.labels: sample.value for sample in self.family(name).samples}


@pytest.fixture
async def world() -> World:
    return World()


async def test_the_check_in_a_life(world: World) -> None:
    """Pending, unused, failing, up again at once, and not running."""
    assert (world.check.name, world.check.status, world.check.gates) == ("mirror", PENDING, False)
    await world.start()
    assert (world.check.status, world.check.reason) == (PASS, "no upstream has been used yet")
    world.sees(seen_failing("root/pypi"))
    assert (world.check.status, world.check.hint) == (WARN, "set DEVPI_MIRROR_CA to the file /etc/ca.pem")
    world.sees(seen_up("root/pypi"), seen_failing("x/y"))
    assert (world.check.reason or "").startswith("x/y: ")
    world.sees(seen_up("root/pypi"), seen_up("x/y"))
    assert (world.check.status, world.check.reason, world.check.hint) == (PASS, None, None)
    world.sees(seen_failing("root/pypi"))
    await world.mirror.devpi_down()
    assert (world.check.status, world.check.reason, world.check.hint) == (WARN, NOT_RUNNING, None)
    assert world.mirror.status() == {"mirrors": None}
    await world.start()
    assert world.check.status is PASS


async def test_a_report_before_devpi_is_up(world: World) -> None:
    """It is judged once devpi-server is up."""
    await world.mirror.launching(Serve(""), cast(Plan, None))
    world.sees(seen_failing("root/pypi"))
    assert world.check.status is PENDING
    await world.mirror.devpi_up(cast(Running, None))
    assert world.check.status is WARN


async def test_a_list_ages_without_reports(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks judge it; the same verdict is pushed once."""
    pushed: list[None] = []
    at = datetime.fromtimestamp(AT, UTC)
    monkeypatch.setattr(following, "now", lambda: at)
    await world.start()
    world.sees(seen_up("root/pypi", list="stale"))
    world.board.on_push(lambda: pushed.append(None))
    world.board.tick(looked=False)
    assert (world.check.status, len(pushed)) == (PASS, 0)
    at += timedelta(hours=25)
    for _ in range(3):
        world.board.tick(looked=False)
    assert (world.check.status, len(pushed)) == (WARN, 1)


async def test_failures_are_logged_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """With the hint, though reports follow."""
    caplog.set_level(logging.INFO)
    await world.start()
    for number in range(3):
        world.sees(seen_failing("root/pypi", answers={"trust": number}))
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "check mirror: warn: root/pypi: the certificate" in line.getMessage()
    assert "set DEVPI_MIRROR_CA" in line.getMessage()


async def test_mirrors_without_a_list(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """They are noted once for all reports."""
    caplog.set_level(logging.INFO)
    for _ in range(2):
        world.mirror.hear(MirrorsSeen(1, ["a/b"]))
    mirrors = cast(dict[str, object], world.mirror.status()["mirrors"])
    assert mirrors["without_list"] == {"total": 1, "indexes": ["a/b"]}
    assert (mirrors["total"], mirrors["upstreams"]) == (0, [])
    assert 1 == len([record for record in caplog.records if "a/b has no list" in record.getMessage()])
    assert world.changes == 2


async def test_counts_outlive_a_process(world: World) -> None:
    """The state does not."""
    await world.start()
    world.sees(seen_up("root/pypi"))
    await world.mirror.devpi_down()
    assert world.values("devpi_server_upstream_requests") == {("root/pypi", "200"): 61, ("root/pypi", "304"): 4}
    assert {} == world.values("devpi_server_upstream_up") == world.values("devpi_server_mirror_list_projects")
    await world.start()
    world.sees(seen_failing("a/b"), seen_up("root/pypi"))
    assert world.values("devpi_server_upstream_requests")["root/pypi", "200"] == 122
    assert world.values("devpi_server_mirror_pages")["root/pypi", "hit"] == 1624
    assert world.values("devpi_server_upstream_up") == {("a/b",): 0, ("root/pypi",): 1}
    (mirrors,) = world.mirror.status().values()
    assert "'304': 8" in str(mirrors)


async def test_the_metrics_of_one(world: World) -> None:
    """Each value has its family."""
    world.sees(seen_up("root/pypi"))
    name = ("root/pypi",)
    assert world.values("devpi_server_upstream_response_bytes") == {name: 48123456}
    assert world.values("devpi_server_mirror_files")["root/pypi", "miss"] == 25
    assert world.values("devpi_server_mirror_list_projects") == {name: 650123}
    assert world.values("devpi_server_mirror_list_timestamp_seconds") == {name: 1795342830.0}
    assert world.values("devpi_server_upstream_success_timestamp_seconds") == {name: 1795342830.0}
    (durations,) = world.family("devpi_server_upstream_request_duration_seconds").samples
    assert (durations.value, sum(durations.counts)) == (2.5, 65)


async def test_the_series_are_bounded(world: World) -> None:
    """Also after devpi-servers that used other mirrors."""
    for process in range(3):
        await world.start()
        world.sees(*(seen_up(f"u{process}/m{number:02}") for number in range(50)))
        await world.mirror.devpi_down()
    indexes = {sample.labels[0] for family in world.mirror.samples() for sample in family.samples}
    assert {f"u2/m{number:02}" for number in range(MANY)} == indexes


@pytest.mark.parametrize("broken", [{"state": "odd"}, {"durations": [1]}, {"answers": 7}, {"list": None}, {"url": 3}])
async def test_a_report_that_cannot_be_understood(
    world: World, caplog: pytest.LogCaptureFixture, broken: dict[str, object]
) -> None:
    """It is logged once, and the last one stays."""
    await world.start()
    world.sees(seen_failing("root/pypi"))
    for _ in range(3):
        world.sees(seen_up("root/pypi", **broken))
    assert 1 == len([record for record in caplog.records if "internal error" in record.getMessage()])
    assert world.check.status is WARN
