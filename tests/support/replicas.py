"""A primary and its replica."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.support.container import Container, free_port, login_token, make_index, upload

PASSWORD = "the root password of these tests"
STOP_DELAY = "2s"
"""Twice the time after which the balancer's checks, every half second, notice."""
FILE = os.urandom(300_000)


def replicating(make: Callable[..., Container], home: Path) -> tuple[Container, Container, str]:
    """A primary and its replica, both ready, and the link to a file on both."""
    secret = home / "secret"
    secret.write_text("fedcba9876543210" * 4)
    both = {"SIDECAR_STOP_DELAY": STOP_DELAY, "SIDECAR_SECRET_IS_RANDOM": "true"}
    flags = ("--host", "127.0.0.1", "--no-root-pypi", "--secretfile", str(secret), "--port")
    primary = make(
        "primary",
        flags=(*flags, str(free_port()), "--role", "primary", "--offline-mode"),
        env=both | {"SIDECAR_PORT": str(free_port()), "DEVPI_PASSWORD": PASSWORD},
    )
    primary.start().wait_ready()
    token = login_token(primary.devpi, PASSWORD)
    link = upload(make_index(primary.devpi, token), token, "hello", FILE).partition("#")[0]
    replica = make(
        "replica",
        flags=(
            *flags,
            str(free_port()),
            "--primary-url",
            primary.devpi,
        ),  # --offline-mode would cut it off from its primary
        env=both | {"SIDECAR_PORT": str(free_port())},
    )
    replica.start().wait_ready()
    return primary, replica, link
