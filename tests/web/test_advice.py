"""Follow each advice about passwords, in each role and phase: it succeeds."""

from __future__ import annotations

import asyncio
import html
import logging
import re
import shlex
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import commands
from sidecar.container.next_step import NextStep
from sidecar.core.lifecycle import DevpiInfo, Failure, Lifecycle, Phase
from sidecar.devpi.protocol import UnusableSeen
from sidecar.features.credentials import password_advice
from sidecar.features.credentials.login_secret import LoginSecret
from sidecar.features.credentials.password_status import RootPassword
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.storage.runtime_dir import RuntimeDir
from tests.web.conftest import ADMIN, PASSWORD, TOKEN, Devpi, Site

ROLES = ("standalone", "primary", "replica")
BEFORE = ("starting", "initialising", "importing", "launching")
"""Phases, and `listening`: the phase launching, while devpi-server answers the sidecar."""
SERVING = ("listening", "ready")
AFTER = ("failed import", "failed", "stopping")


def _claimed(record: RootPasswordFile) -> None:
    record.write_generated(PASSWORD)
    record.claim("10.0.0.1", record.generated)  # type: ignore[arg-type]


def _expired(record: RootPasswordFile) -> None:
    record.write_generated(PASSWORD)
    record.expire(record.generated)  # type: ignore[arg-type]


RECORDS: dict[RootPassword, Callable[[RootPasswordFile], None]] = {
    RootPassword.UNKNOWN: lambda record: None,
    RootPassword.CLAIMABLE: lambda record: record.write_generated(PASSWORD),
    RootPassword.CLAIMED: _claimed,
    RootPassword.EXPIRED: _expired,
    RootPassword.PROVIDED: RootPasswordFile.write_provided,
    RootPassword.FROM_IMPORT: RootPasswordFile.write_from_import,
}


def become(lifecycle: Lifecycle, **changes: Any) -> None:
    """Set any phase, whatever the current one."""
    lifecycle._become(replace(lifecycle.snapshot, **changes))


@dataclass
class Stage:
    """A container in a role and a phase, with a terminal."""

    site: Site
    runtime: RuntimeDir
    secret: LoginSecret
    capsys: pytest.CaptureFixture[str]

    def be(self, role: str, phase: str, state: RootPassword, *, own_secret: bool) -> None:
        """Go to this phase as the supervisor does, from any other."""
        lifecycle, credentials = self.site.lifecycle, self.site.credentials
        name = Phase({"listening": "launching", "failed import": "failed"}.get(phase, phase))
        launched, listened = phase in ("launching", *SERVING, *AFTER[1:]), phase in (*SERVING, *AFTER[1:])
        become(lifecycle, phase=Phase.LAUNCHING if launched else Phase.STARTING, failure=None, devpi=None)
        credentials._record = credentials._claims = None
        record = RootPasswordFile(self.site.folder / "root-password.json")
        record.path.unlink(missing_ok=True)
        if launched:
            RECORDS[state](record)
            claims = self.site.attach(record, None if own_secret else self.secret)
        if listened:
            become(lifecycle, devpi=DevpiInfo("6.20.3", role))
            claims.devpi_up(Devpi(), role)
            users = credentials._users
            users.begin("unknown" if role == "replica" else "empty", password_advice.rotate(claims.status()))
            users.unusable = None
            if role != "replica":
                users.hear(UnusableSeen(1, ["alice"]))
        failure = Failure("no", "do") if name is Phase.FAILED else None
        become(lifecycle, phase=name, failure=failure)
        if name is Phase.STOPPING:
            claims.devpi_down()

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a `sidecar` command, and return its exit code and output."""
        self.capsys.readouterr()
        code = await asyncio.to_thread(commands.main, list(arguments))
        return (code, *self.capsys.readouterr())

    async def advised(self) -> str:
        """Return all texts that are shown in this role and phase."""
        said = ["\n".join((await self.run(*command))[1:]) for command in (["status"], ["claim"], ["claim"])]
        for path, accept in (("/", "text/html"), ("/status", "*/*"), ("/health", "*/*"), ("/readyz", "text/plain")):
            answer = await self.site.get(path, Accept=accept)
            text = re.sub("<code>(.*?)</code>", r"`\1`", answer.body.decode())
            said.append(html.unescape(re.sub("<[^>]+>", " ", text)))
        for path in ("/bootstrap/root-password", "/bootstrap/rotate"):
            if (answer := await self.site.ask("POST", path, headers=ADMIN)).status != 200:
                said.append(answer.body.decode())
        return "\n".join(said)


@pytest.fixture
async def stage(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Stage]:
    runtime = RuntimeDir.open(tmp_path / "run")
    runtime.write_token(TOKEN)
    runtime.write_state("127.0.0.1", site.web.port)
    monkeypatch.setenv("SIDECAR_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "secret").mkdir()
    yield Stage(site, runtime, LoginSecret.load_or_generate(tmp_path / "secret", tmp_path / "secret"), capsys)
    runtime.close()


def commands_in(said: str) -> set[str]:
    """Return the advised commands and requests that change a password."""
    found = re.findall(r"`(sidecar (?:claim|rotate)[a-z -]*)`", said)
    return {*found, *re.findall(r"POST /bootstrap/[a-z-]+(?:\?[a-z_=]+)?", said)}


@pytest.mark.parametrize("own_secret", [False, True], ids=["", "with its own --secretfile"])
@pytest.mark.parametrize("phase", [*BEFORE, *SERVING, *AFTER])
@pytest.mark.parametrize("role", ROLES)
async def test_what_is_advised_succeeds(stage: Stage, role: str, phase: str, own_secret: bool) -> None:
    """A serving devpi-server that isn't a replica gets an advice; otherwise there is none that would fail."""
    for state in RECORDS:
        stage.be(role, phase, state, own_secret=own_secret)
        said = await stage.advised()
        advised = commands_in(said)
        for command in sorted(advised):
            stage.be(role, phase, state, own_secret=own_secret)
            if command.startswith("POST "):
                assert (await stage.site.ask("POST", command[5:], headers=ADMIN)).status == 200, (state, command)
            else:
                code, out, err = await stage.run(*shlex.split(command)[1:])
                assert (code, len(out.strip()) >= len(PASSWORD)) == (0, True), (state, command, err)
        if phase in SERVING and role != "replica":
            rotate = "sidecar rotate --keep-logins" if own_secret else "sidecar rotate"
            assert rotate in advised, state
            assert ("sidecar claim" in advised) is (state is RootPassword.CLAIMABLE)
            assert "`devpi passwd NAME`" in said
        else:
            assert advised == set(), state
            assert "devpi passwd" not in said
            assert "held data before" not in said


@pytest.mark.parametrize(("role", "state"), list(product(ROLES, RECORDS)))
async def test_the_log_names_a_claim_that_succeeds(
    stage: Stage, role: str, state: RootPassword, caplog: pytest.LogCaptureFixture
) -> None:
    """The last log lines of a start: only if there is something to claim, and not at the primary."""
    caplog.set_level(logging.INFO, "sidecar.container.next_step")
    stage.be(role, "listening", state, own_secret=False)
    NextStep(stage.site.lifecycle, stage.site.credentials, "http://x")
    stage.site.lifecycle.enter(Phase.READY)
    claim = [message for message in caplog.messages if "claim" in message]
    assert len(claim) == (state is RootPassword.CLAIMABLE and role != "replica")
    if claim:
        assert (await stage.run("claim"))[0] == 0


async def test_a_claim_where_there_never_was_a_password(stage: Stage) -> None:
    """A fresh replica has no earlier data: it reports whose password applies."""
    stage.be("replica", "ready", RootPassword.UNKNOWN, own_secret=False)
    code, out, err = await stage.run("claim")
    assert (code, out) == (1, "")
    assert "this is a replica: its users and root's password are the primary's" in err
    stage.be("standalone", "ready", RootPassword.UNKNOWN, own_secret=False)
    assert "held data before this sidecar" in (await stage.run("claim"))[2]


@pytest.mark.parametrize(
    ("phase", "why"),
    [
        ("importing", "devpi-server does not run yet (importing) (retry in 2 s)"),
        (
            "failed import",
            "refused (503): not running; the container failed: see /status, fix the cause, and restart\n",
        ),
        ("stopping", "refused (503): not running; the container is stopping\n"),
    ],
)
async def test_a_refusal_names_the_phase(stage: Stage, phase: str, why: str) -> None:
    """`claim` and `rotate` don't promise what never happens."""
    stage.be("standalone", phase, RootPassword.CLAIMABLE, own_secret=False)
    for command in ("claim", "rotate"):
        code, out, err = await stage.run(command)
        assert (code, out) == (1, "")
        assert why in err


async def test_a_failing_root_password_has_no_advice_once_devpi_stops(stage: Stage) -> None:
    """The check stays the same, but its advice would be refused now."""
    stage.be("standalone", "listening", RootPassword.PROVIDED, own_secret=False)
    check = next(c for c in stage.site.board.checks() if c.name == "root-password")
    assert check.hint == "run `sidecar rotate`, or set SIDECAR_ALLOW_EMPTY_ROOT=true to allow it"
    become(stage.site.lifecycle, phase=Phase.STOPPING)
    check = next(c for c in stage.site.board.checks() if c.name == "root-password")
    assert (check.status, check.hint) == ("fail", None)
