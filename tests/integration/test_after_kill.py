"""Uploads that a killed devpi-server leaves are finished if they were committed, and otherwise removed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed.plugins import installed_plugin
from tests.support.container import (
    Container,
    call_devpi,
    login_token,
    make_index,
    request,
    upload,
    wait_for,
)

pytestmark = pytest.mark.slow

SUFFIX = f"-{'0a' * 32}-tmp"
HOLDS = """
import functools, os, time
from devpi_server.config import hookimpl
from devpi_server.filestore_fs import FSFactory

make = FSFactory.from_content

def wait():
    while os.path.exists(os.environ["HOLD"]):
        time.sleep(0.01)

@functools.wraps(make)
def from_content(*arguments):
    file = make(*arguments)
    wait()
    return file

FSFactory.from_content = staticmethod(from_content)

@hookimpl
def devpiserver_cmdline_run(xom):
    wait()
"""
"""A devpi-server that blocks before it listens, or where an upload is written and not committed."""


@pytest.fixture
def held(container: Callable[..., Container], tmp_path: Path) -> tuple[Container, Path]:
    """A container, not started, whose devpi-server blocks while the file exists."""
    hold = tmp_path / "hold"
    return container(env=installed_plugin(tmp_path / "plugin", "holds", HOLDS) | {"HOLD": str(hold)}), hold


def unfinished(one: Container) -> list[Path]:
    """Return the unfinished files of uploads."""
    return list((one.serverdir / "+files").rglob("*-tmp"))


def test_committed_uploads_are_finished_and_others_removed(container: Callable[..., Container]) -> None:
    """devpi itself finishes only those of its last transaction; a kill between two writers leaves more."""
    one = container().start().wait_ready()
    token = login_token(one.devpi, one.claim())
    index = make_index(one.devpi, token)
    for name in ("committed", "torn", "last"):
        upload(index, token, name, name.encode() * 1000)
    one.kill()
    files = {path.name: path for path in (one.serverdir / "+files").rglob("*.tar.gz")}
    committed, torn, last = (files[f"{name}-1.0.tar.gz"] for name in ("committed", "torn", "last"))
    committed.rename(committed.with_name(committed.name + SUFFIX))
    half = torn.with_name(torn.name + SUFFIX)
    half.write_bytes(torn.read_bytes()[:100])
    never = last.with_name(f"never-1.0.tar.gz{SUFFIX}")
    never.write_bytes(b"was not committed")

    one.start().wait_ready()
    assert "finished 1 committed uploads, removed 2 uncommitted ones" in one.log
    assert not list((one.serverdir / "+files").rglob("*-tmp"))
    for name in ("committed", "torn", "last"):
        (link,) = call_devpi(f"{one.devpi}/root/dev/{name}").json["result"]["1.0"]["+links"]
        assert request(link["href"]).body == name.encode() * 1000


def test_a_stop_before_devpi_listens_does_not_forget_the_kill(held: tuple[Container, Path]) -> None:
    """Killed, started, and stopped before anything was removed: the start after that finishes the upload."""
    one, hold = held
    one.start().wait_ready()
    token = login_token(one.devpi, one.claim())
    index = make_index(one.devpi, token)
    for name in ("acknowledged", "last"):
        upload(index, token, name, name.encode() * 1000)
    one.kill()
    (file,) = (one.serverdir / "+files").rglob("acknowledged-*")
    file.rename(file.with_name(file.name + SUFFIX))
    hold.touch()
    one.start().wait_phase("launching")
    assert one.stop() == 0
    assert not file.exists()

    hold.unlink()
    one.start().wait_ready()
    (link,) = call_devpi(f"{one.devpi}/root/dev/acknowledged").json["result"]["1.0"]["+links"]
    assert request(link["href"]).body == b"acknowledged" * 1000
    assert one.stop() == 0
    assert not (one.serverdir / ".sidecar" / "serving").exists()


@pytest.mark.parametrize("cut_by", ["a second signal", "the grace"])
def test_a_stop_that_cuts_an_upload(held: tuple[Container, Path], cut_by: str) -> None:
    """It kills devpi-server, as any kill does: what that leaves, up to 1 GiB, is removed at the next start."""
    one, hold = held
    if cut_by == "the grace":
        one.env["SIDECAR_STOP_GRACE"] = "0.2"
    one.start().wait_ready()
    token = login_token(one.devpi, one.claim())
    index = make_index(one.devpi, token)
    hold.touch()
    with ThreadPoolExecutor(1) as client:
        cut = client.submit(upload, index, token, "cut", b"content")
        wait_for(lambda: unfinished(one), "a partly written file")
        os.kill(one.pid, signal.SIGTERM)
        if cut_by == "a second signal":
            wait_for(lambda: one.get("/readyz").status == 503, "the first signal's effect")
            os.kill(one.pid, signal.SIGTERM)
        assert one.wait_end() == 0
        assert cut.exception() is not None
    assert len(unfinished(one)) == 1

    hold.unlink()
    one.start().wait_ready()
    assert "removed 1 uncommitted ones" in one.log
    assert unfinished(one) == []


def test_nothing_is_looked_for_after_a_clean_stop(container: Callable[..., Container]) -> None:
    """A walk through all files costs time, which is needed only after a kill."""
    one = container().start().wait_ready()
    token = login_token(one.devpi, one.claim())
    upload(make_index(one.devpi, token), token, "whole", b"content")
    assert one.stop() == 0
    (file,) = (one.serverdir / "+files").rglob("*.tar.gz")
    stray = file.with_name(f"stray-1.0.tar.gz{SUFFIX}")
    stray.write_bytes(b"")
    one.start().wait_ready()
    assert stray.exists()


def test_an_event_serial_that_a_power_cut_emptied(container: Callable[..., Container]) -> None:
    """Plain devpi-server does not start with it; it is removed, and the events are processed again."""
    one = container().start().wait_ready()
    assert one.stop() == 0
    serial = one.serverdir / ".event_serial"
    serial.write_bytes(b"")
    one.start().wait_ready()
    assert "handles all events again" in one.log
    wait_for(lambda: int(serial.read_bytes()) == 1, "the events")
