"""The numbers on `/status` and in `/metrics` equal those of a real devpi-server, after each change and a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import (
    Container,
    call_devpi,
    cleared_away,
    login_token,
    make_index,
    upload,
    wait_for,
)

PASSWORD = "f1rst-Start"


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Container]:
    env = {"DEVPI_PASSWORD": PASSWORD, "SIDECAR_NAME": "Häuser & Söhne"}
    with cleared_away(Container(tmp_path / "c", env=env)) as made:
        yield made.start().wait_ready()


def counted(container: Container, **wanted: int) -> dict[str, Any]:
    """Return the numbers, once devpi-server's content is this."""

    def look() -> dict[str, Any] | None:
        numbers: dict[str, Any] = container.status()["numbers"]
        found = numbers["contents"] or {}
        return numbers if wanted == {name: found.get(name) for name in wanted} else None

    found: dict[str, Any] = wait_for(look, f"{wanted}")
    return found


def test_what_devpi_server_holds(new: Container) -> None:
    """Users, indexes, mirrors, and the projects of all indexes except mirrors; a deleted one is not counted."""
    counted(new, users=1, indexes=0, mirrors=0, projects=0)
    token = login_token(new.devpi, PASSWORD)
    dev, prod = make_index(new.devpi, token, "dev"), make_index(new.devpi, token, "prod")
    for index, name in ((dev, "one"), (dev, "two"), (prod, "two")):
        upload(index, token, name, b"content")
    mirror = {"type": "mirror", "mirror_url": "http://127.0.0.1:9/simple/"}
    assert 200 == call_devpi(f"{new.devpi}/root/m", "PUT", mirror, token=token).status
    assert 201 == call_devpi(f"{new.devpi}/bob", "PUT", {"password": "B0b-password"}, token=token).status
    numbers = counted(new, users=2, indexes=2, mirrors=1, projects=3)
    assert 3 == wait_for(lambda: new.status()["numbers"]["requests"]["uploads"], "the uploads")
    requests = new.status()["numbers"]["requests"]
    assert requests["total"] >= 9
    assert requests["last_upload"].endswith("Z")
    assert 0 < numbers["volume"]["free_bytes"] <= numbers["volume"]["size_bytes"]
    assert 200 == call_devpi(f"{dev}/two", "DELETE", token=token).status
    assert 201 == call_devpi(f"{new.devpi}/root/prod", "DELETE", token=token).status
    counted(new, users=2, indexes=1, mirrors=1, projects=1)
    metrics = new.get("/metrics").body.decode()
    for line in (
        "devpi_server_projects 1.0",
        "devpi_server_users 2.0",
        'devpi_server_indexes{type="stage"} 1.0',
        'devpi_server_indexes{type="mirror"} 1.0',
    ):
        assert f"\n{line}\n" in metrics
    assert 0 == new.stop()
    new.start().wait_ready()
    numbers = counted(new, users=2, indexes=1, mirrors=1, projects=1)
    assert (0, None) == (numbers["requests"]["uploads"], numbers["requests"]["last_upload"])


def test_its_name(new: Container) -> None:
    """On `/status`, and first in `sidecar status`."""
    assert "Häuser & Söhne" == new.status()["name"]
    assert new.sidecar("status").stdout.startswith("Häuser & Söhne: ready: ready since ")
