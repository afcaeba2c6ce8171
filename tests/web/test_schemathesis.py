"""Schemathesis: valid and invalid requests, generated from `/openapi.json`; each answer must match it."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from sidecar.web import admin_auth
from tests.web.conftest import TOKEN, Site

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).with_name("schemathesis.toml")


ENDLESS = "/events"
"""Its answer to GET has no end."""
ENDLESS_OPERATIONS = 3
"""GET, HEAD and OPTIONS."""


class Setter:
    """A devpi-server that accepts every password."""

    async def set_root_password(self, password: str, login_secret: bytes | None) -> None:
        pass


async def schemathesis(url: str, *options: str, examples: int) -> str:
    """Run it, check that it finds nothing, and return its report."""
    running = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        f"--config-file={CONFIG}",
        *("run", f"{url}/openapi.json", f"--exclude-path={ENDLESS}", f"--max-examples={examples}", *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await asyncio.wait_for(running.communicate(), 600)
    finally:
        if running.returncode is None:
            running.kill()
    assert running.returncode == 0, told.decode()
    return told.decode()


@pytest.mark.parametrize("phase", ["starting", "ready"])
async def test_every_answer_is_as_described(site: Site, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """No server error but 503; status, media type, headers and body as described; unsound requests are refused."""
    monkeypatch.setattr(admin_auth, "DELAY", 0.0001)  # it tries wrong tokens too
    if phase == "ready":
        await site.become_ready()
        site.generate_password(Setter())
    url = f"http://127.0.0.1:{site.web.port}"
    report = await schemathesis(url, f"--header=Authorization: Bearer {TOKEN}", examples=20)
    counts = re.search(r"Operations: +(\d+) selected / (\d+) total\n(?s:.*)Tested: (\d+)\n", report)
    assert counts, report
    selected, total, tested = map(int, counts.groups())
    assert (total - ENDLESS_OPERATIONS, selected) == (selected, tested), report
    made = re.search(r"(\d+) generated", report)
    assert made
    assert int(made[1]) > 300
