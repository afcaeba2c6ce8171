"""What a killed devpi-server leaves of uploads is finished where it was committed, and else removed."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.container import Container, call_devpi, login_token, make_index, request, upload, wait_for

SUFFIX = f"-{'0a' * 32}-tmp"


def test_committed_uploads_are_finished_and_others_removed(container: Callable[..., Container]) -> None:
    """devpi itself finishes those of its last transaction alone; a kill between two writers leaves more."""
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
    assert "finished 1 committed uploads, removed 2 that were not" in one.log
    assert not list((one.serverdir / "+files").rglob("*-tmp"))
    for name in ("committed", "torn", "last"):
        (link,) = call_devpi(f"{one.devpi}/root/dev/{name}").json["result"]["1.0"]["+links"]
        assert request(link["href"]).body == name.encode() * 1000


def test_nothing_is_looked_for_after_a_clean_stop(container: Callable[..., Container]) -> None:
    """A walk through all files costs time, which only a kill is worth."""
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
    """devpi-server alone does not start with it; it is removed, and the events are handled again."""
    one = container().start().wait_ready()
    assert one.stop() == 0
    serial = one.serverdir / ".event_serial"
    serial.write_bytes(b"")
    one.start().wait_ready()
    assert "handles all its events again" in one.log
    wait_for(lambda: int(serial.read_bytes()) == 1, "the events")
