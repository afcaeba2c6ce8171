"""All answers of a real container, from its first moment to its last, match `/openapi.json`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import described, exported
from tests.support.container import TOKEN, Container, request, wait_for

pytestmark = pytest.mark.slow

Make = Callable[..., Container]
KINDS = ("*/*", "application/json", "text/plain")


def paths() -> list[str]:
    """Return every path with GET; for checks one of them."""
    checks = described.DOCUMENT["components"]["schemas"]["CheckName"]["enum"]
    got = [path for path, item in described.DOCUMENT["paths"].items() if "get" in item]
    return [path for path in got if "{" not in path and path != "/events"] + [f"/readyz/{name}" for name in checks]


def hold(url: str, path: str, method: str = "GET", *, token: str | None = None, accept: str = "*/*") -> int:
    """Return the status of an answer, which must match the description."""
    answer = request(url + path, method, token=token, accept=accept)
    described.hold(method, path, answer.status, answer.headers, answer.body)
    return answer.status


def hold_all(container: Container) -> None:
    """Send every GET, HEAD and OPTIONS, in JSON and in text, with and without the admin token."""
    url = container.url
    for path in paths():
        for accept in KINDS:
            hold(url, path, token=TOKEN, accept=accept)
        hold(url, path, "HEAD", token=TOKEN)
        assert hold(url, path, "OPTIONS") == 204
    for query in ("?verbose", "?exclude=http&exclude=nope", "?verbose&exclude=disk"):
        for accept in KINDS:
            hold(url, f"/readyz{query}", accept=accept)
    assert hold(url, "/bootstrap") == 401
    assert hold(url, "/readyz/nope") == hold(url, "/nope") == 404
    assert hold(url, "/livez", "DELETE") == 405


def test_a_first_start_and_the_stop(container: Make) -> None:
    """Starting, ready, claimed, rotated; then stopping, as long as it answers."""
    one = container(env={"SIDECAR_STOP_DELAY": "60"}).start().wait_listening()
    hold_all(one)
    one.wait_ready()
    hold_all(one)
    claim, rotate = "/bootstrap/root-password", "/bootstrap/rotate"
    assert [200, 410] == [hold(one.url, claim, "POST", token=TOKEN) for _ in range(2)]
    assert 200 == hold(one.url, f"{rotate}?keep_logins=true", "POST", token=TOKEN)
    assert 400 == hold(one.url, f"{rotate}?keep_logins=perhaps", "POST", token=TOKEN)
    os.kill(one.pid, signal.SIGTERM)
    one.wait_phase("stopping")
    hold_all(one)
    assert one.stop() == 0


def test_an_import_and_one_that_failed(container: Make, tmp_path: Path) -> None:
    """While it loads, and with nothing to claim after it; or with the reason of its failure."""
    exported.pack(exported.write(tmp_path / "export", projects=300), tmp_path / "backup.tar")
    good, bad = container("good", env={"DEVPI_PASSWORD": "given by the operator"}), container("bad")
    for one in (good, bad):
        one.init_dir.mkdir()
    (good.init_dir / "backup.tar").write_bytes((tmp_path / "backup.tar").read_bytes())
    (bad.init_dir / "backup.tar").write_bytes((tmp_path / "backup.tar").read_bytes()[:20_000])
    good.start().wait_listening()
    wait_for(lambda: (told := good.status())["phase"] == "importing" and told["import"]["files"]["done"], "loading")
    hold_all(good)
    good.wait_ready()
    hold_all(good)
    assert 404 == hold(good.url, "/bootstrap/root-password", "POST", token=TOKEN)
    bad.start().wait_phase("failed")
    hold_all(bad)
    assert bad.status()["import"]["error"]["archive"] == "backup.tar"
    assert 503 == hold(bad.url, "/bootstrap/root-password", "POST", token=TOKEN)
