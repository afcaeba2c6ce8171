"""`sidecar.core.variables`: which names are reported, and what is suggested."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from sidecar.core import variables
from sidecar.core.settings import from_environ

KNOWN = {*from_environ({}).known_variables, "DEVPISERVER_OUTSIDE_URL", "DEVPISERVER_HOST", "DEVPISERVER_PORT"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DEVPI_PASWORD", "DEVPI_PASSWORD"),
        ("DEVPI_PASSWD", "DEVPI_PASSWORD"),
        ("DEVPI_ROOT_PASSWORD", "DEVPI_PASSWORD"),
        ("DEVPISERVER_PASSWORD", "DEVPI_PASSWORD"),
        ("devpi_password_file", "DEVPI_PASSWORD_FILE"),
        ("DEVPI_SERVER_DIR", "DEVPI_SERVERDIR"),
        ("DEVPI_SERVER_PORT", "DEVPISERVER_PORT"),
        ("DEVPI_ADMIN_TOKEN", "SIDECAR_ADMIN_TOKEN"),
        ("SIDECAR_LOGLEVEL", "SIDECAR_LOG_LEVEL"),
        ("DEVPISERVER_OUTSIDE_ULR", "DEVPISERVER_OUTSIDE_URL"),
        ("DEVPI_OUTSIDE_URL", "DEVPISERVER_OUTSIDE_URL"),
        ("DEVPISERVER_FOO", None),
        ("SIDECAR_X", None),
        ("DEVPI_", None),
        ("DEVPI_" + "X" * 100_000, None),
    ],
)
def test_the_nearest_known_name(name: str, meant: str | None) -> None:
    """A common prefix does not make two names similar."""
    assert meant == variables.nearest(name, KNOWN)


def test_nothing_is_near_to_nothing() -> None:
    """Without known names there is no suggestion."""
    assert variables.nearest("DEVPI_PASSWORD", ()) is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DEVPI_SERVICE_HOST", "10.0.0.1", True),
        ("DEVPI_WEB_SERVICE_PORT", "80", True),
        ("DEVPI_SERVICE_PORT_HTTP_ALT", "80", True),
        ("DEVPI_PORT", "tcp://10.0.0.1:3141", True),
        ("DEVPI_WEB_PORT", "udp://10.0.0.1:53", True),
        ("DEVPI_PORT_3141_TCP", "tcp://10.0.0.1:3141", True),
        ("DEVPI_PORT_3141_SCTP_ADDR", "10.0.0.1", True),
        ("DEVPI_LISTEN_PORT", "3141", False),
        ("DEVPI_PORT_X_TCP", "tcp://10.0.0.1:3141", False),
        ("DEVPI_PORT_3141_TCP_USER", "x", False),
        ("DEVPI_SERVICE_HOSTS", "x", False),
        ("DEVPI_SERVICE_HOST\nX", "x", False),
    ],
)
def test_service_links(name: str, value: str, expected: bool) -> None:
    """Variables that Kubernetes sets for a Service, and none that only look similar."""
    assert expected == variables.is_service_link(name, value)
    assert expected == (name not in variables.ours({name: value}, ()))


def test_settings_name_what_they_read_and_what_nobody_reads() -> None:
    """Known names are those that are read, so a new setting is known automatically."""
    environ = {"DEVPI_PASSWORD": "x", "SIDECAR_LOG_LEVL": "hunter2", "PATH": "/bin", "Devpi_Port": "1", "XDEVPI_": ""}
    settings = from_environ(environ)
    assert ("Devpi_Port", "SIDECAR_LOG_LEVL") == settings.unknown_variables
    assert {"DEVPI_PASSWORD", "DEVPI_PASSWORD_FILE", "DEVPI_RESTRICT_MODIFY", "SIDECAR_PORT"} < settings.known_variables
    assert "hunter2" not in repr(settings)


def test_what_devpi_client_reads_is_known() -> None:
    """The client's own sources name the variables."""
    spec = importlib.util.find_spec("devpi")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    sources = [path for place in spec.submodule_search_locations for path in Path(place).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"environ\W+(?:get\W+)?(DEVPI_\w+)", path.read_text())}
    assert variables.DEVPI_CLIENT == named
    assert () == from_environ(dict.fromkeys(variables.DEVPI_CLIENT, "x")).unknown_variables
