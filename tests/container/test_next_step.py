"""`sidecar.container.next_step`: what the log tells an operator to do once devpi-server is ready."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from sidecar.container.next_step import NextStep, command
from sidecar.core.lifecycle import Lifecycle, Phase
from sidecar.features.credentials.keeper import Credentials
from sidecar.features.credentials.password_status import PasswordChange, RootPassword, RootPasswordStatus

LOGGER = "sidecar.container.next_step"
URL = "http://127.0.0.1:3142"


def known(status: RootPasswordStatus) -> Credentials:
    """The feature that has the state of root's password."""
    return cast(Credentials, SimpleNamespace(root_password=status))


@pytest.mark.parametrize("state", list(RootPassword))
def test_a_password_that_can_be_claimed_is_named_with_its_command(
    state: RootPassword, caplog: pytest.LogCaptureFixture
) -> None:
    """The page is always named; the claim only if there is something to claim."""
    caplog.set_level(logging.INFO, LOGGER)
    lifecycle = Lifecycle()
    NextStep(lifecycle, known(RootPasswordStatus(state, change=PasswordChange.HERE)), URL)
    lifecycle.enter(Phase.LAUNCHING)
    assert [] == caplog.messages
    lifecycle.enter(Phase.READY)
    page, *claim = caplog.messages
    assert f"the page is at {URL}/" == page
    expected = [f"root's password is not claimed yet; to print it (only once), run: {command()} claim"]
    assert (expected if state is RootPassword.CLAIMABLE else []) == claim


def test_it_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A relaunched devpi-server is not reported again."""
    caplog.set_level(logging.INFO, LOGGER)
    lifecycle = Lifecycle()
    NextStep(lifecycle, known(RootPasswordStatus()), URL)
    for _ in range(2):
        lifecycle.enter(Phase.LAUNCHING)
        lifecycle.enter(Phase.READY)
    assert 1 == len(caplog.messages)


def test_the_command_can_be_called_as_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name if PATH has it, otherwise by a path that is valid in the working directory."""
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    script = folder / "sidecar"
    script.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(folder))
    assert "sidecar" == command()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert "venv/bin/sidecar" == command()
    monkeypatch.chdir("/")
    assert str(script).removeprefix("/") == command()
    monkeypatch.chdir(folder.parent)
    assert "bin/sidecar" == command()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert str(script) == command()
