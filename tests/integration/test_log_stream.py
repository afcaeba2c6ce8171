"""The log of real containers: one stream on stdout, of both processes, in which every line has one format."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from testbed.plugins import installed_plugin
from tests.support.container import (
    TOKEN,
    Container,
    login_token,
    make_index,
    upload,
    wait_for,
)

NAMES = {"@timestamp", "log.level", "message", "ecs.version", "service.name", "log.logger", "process.pid"}
TEXT_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO |WARNI|ERROR|CRITI) \[[\w.]+\] .+")
HOSTILE = "x\n2026-11-22 10:20:30,456 INFO  [sidecar.container.supervisor] forged \u202e\x1b[31m"

PLUGIN = """
import faulthandler, sys, traceback, warnings
from devpi_server.config import hookimpl

class Plugin:
    @hookimpl
    def devpiserver_cmdline_run(self, xom):
        print("printed", file=sys.stdout)
        print("complained", file=sys.stderr)
        try:
            try:
                raise KeyError("the cause")
            except KeyError as error:
                raise ValueError("printed, with its cause") from error
        except ValueError:
            traceback.print_exc()
        warnings.warn("something odd")

    @hookimpl
    def devpiserver_on_upload(self, stage, project, version, link):
        raise RuntimeError("forced " + {hostile!r})

    @hookimpl
    def devpiserver_stage_created(self, stage):
        if stage.name.endswith("/crash"):
            faulthandler._sigsegv()
"""


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which devpi-server has a misbehaving plugin."""
    source = PLUGIN.replace("{hostile!r}", ascii(HOSTILE)) + "\nplugin = Plugin()\n"
    return installed_plugin(tmp_path / "plugin", "misbehaving", source, "plugin")


def objects(container: Container) -> list[dict[str, Any]]:
    """Return the log, of which every line must be a complete object."""
    said = [json.loads(line) for line in container.log.splitlines()]
    assert said
    for each in said:
        assert each.keys() >= NAMES, each
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each["@timestamp"])
    return said


def upload_badly(container: Container, password: str) -> None:
    """Upload a file, after which the plugin fails in devpi's thread for events."""
    token = login_token(container.devpi, password)
    upload(make_index(container.devpi, token), token, "hello", b"content")
    wait_for(lambda: "forged" in container.log, "the traceback")


def test_every_line_is_one_object(container: Callable[..., Container], plugin: dict[str, str]) -> None:
    """Start, claim, an upload that ends in a traceback, prints, warnings, stop; nothing on stderr."""
    c = container(env={**plugin, "SIDECAR_LOG_FORMAT": "json", "SIDECAR_LOG_ACCESS": "true"}, stderr_apart=True)
    c.start().wait_ready()
    upload_badly(c, c.claim())
    assert c.stop() == 0
    said = objects(c)
    assert c.errors == ""
    assert {each["service.name"] for each in said} == {"sidecar", "devpi-server"}
    assert {each["process.pid"] for each in said} > {c.pid}
    phases = [each["sidecar.phase"] for each in said if each["log.logger"] == "sidecar.core.journal"]
    assert phases == ["initialising", "launching", "ready", "stopping"]
    assert all("sidecar.phase" in each for each in said), [each for each in said if "sidecar.phase" not in each]
    of_devpi = [each["sidecar.phase"] for each in said if each["service.name"] == "devpi-server"]
    assert set(of_devpi) >= {"initialising", "launching", "ready"}
    assert of_devpi == sorted(of_devpi, key=["starting", *phases].index)

    by_message = {each["message"]: each for each in said}
    assert by_message["printed"]["log.level"] == "info"
    assert by_message["complained"]["log.level"] == "warning"
    (warned,) = [each for each in said if each["message"].startswith("UserWarning: something odd")]
    assert warned["service.name"] == "devpi-server"

    assert by_message["KeyError: 'the cause'"]["log.level"] == "error"
    printed = by_message["ValueError: printed, with its cause"]
    assert (printed["log.level"], printed["log.logger"]) == ("error", "devpi.stderr")
    assert printed["error.stack_trace"].startswith("Traceback (most recent call last):\n  File ")

    failed = [each for each in said if each.get("error.type") == "RuntimeError"]
    assert len(failed) == 1, failed
    assert failed[0]["log.level"] == "error"
    assert failed[0]["error.message"] == f"forced {HOSTILE}"
    assert failed[0]["error.stack_trace"].startswith("Traceback (most recent call last):")
    (claim,) = [each for each in said if each.get("sidecar.route") == "/bootstrap/root-password"]
    assert claim["http.response.status_code"] == 200
    about = [each["log.logger"] for each in said if each.get("http.request.id") == claim["http.request.id"]]
    assert about == ["sidecar.features.credentials.claims", "sidecar.access"]


def test_devpis_lines_have_the_requests_id(container: Callable[..., Container]) -> None:
    """Every line about it, also errors: a proxy's id, or a new one; and the answer has it."""
    c = container(env={"SIDECAR_LOG_FORMAT": "json"}, stderr_apart=True).start().wait_ready()
    for given in ("proxy-4711", None):
        call = urllib.request.Request(f"{c.devpi}/root/no-such-index", headers={"Accept": "application/json"})
        if given is not None:
            call.add_header("X-Request-ID", given)
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(call, timeout=20)
        with answer.value:
            told = answer.value.headers["X-Request-ID"]
        assert given is None or told == given
        assert re.fullmatch(r"proxy-4711|[0-9a-f]{16}", told)
        about = [each for each in objects(c) if each.get("http.request.id") == told]
        assert "devpi-server" in {each["service.name"] for each in about}
        assert any("GET /root/no-such-index" in each["message"] for each in about)
    others = [each for each in objects(c) if "serving at url" in each["message"]]
    assert others
    assert all("http.request.id" not in each for each in others)
    assert c.stop() == 0


@pytest.mark.slow
def test_text_lines_cannot_be_forged(container: Callable[..., Container], plugin: dict[str, str]) -> None:
    """Every line has our format, or is an indented one of a traceback; none has control characters."""
    c = container(env=plugin, stderr_apart=True).start().wait_ready()
    upload_badly(c, c.claim())
    assert c.stop() == 0
    assert c.errors == ""
    lines = c.log.split("\n")[:-1]
    assert [] == [line for line in lines if not (TEXT_LINE.fullmatch(line) or line.startswith("  "))]
    assert all(line.isprintable() for line in lines)
    forged = [line for line in lines if "[sidecar.container.supervisor] forged" in line]
    assert forged
    assert all(line.startswith("  ") for line in forged)
    assert "    raise RuntimeError" in c.log
    assert re.search(r" WARNI \[devpi.stderr\] complained$", c.log, re.MULTILINE)


@pytest.mark.slow
def test_a_crash_of_devpis_interpreter_is_one_object(
    container: Callable[..., Container], plugin: dict[str, str]
) -> None:
    """The position, by faulthandler, before the line with the reason of the exit."""
    c = container(env={**plugin, "SIDECAR_LOG_FORMAT": "json"}, stderr_apart=True).start().wait_ready()
    token = login_token(c.devpi, c.claim())
    with suppress(OSError, HTTPException):  # devpi-server may have sent the answer, or half of it
        make_index(c.devpi, token, "crash")
    assert c.wait_end() == 128 + signal.SIGSEGV
    *_, crashed, ended = [each for each in objects(c) if each["log.level"] in ("critical", "error")]
    assert crashed["message"] == "devpi-server crashed: Fatal Python error: Segmentation fault"
    assert "misbehaving.py" in crashed["error.stack_trace"]
    assert "was killed by SIGSEGV" in ended["message"]
    assert c.errors == ""


def test_a_failed_import_in_json(container: Callable[..., Container]) -> None:
    """The lines of the forked process and the reason, logged once, are objects like all others."""
    c = container(env={"SIDECAR_LOG_FORMAT": "json"}, stderr_apart=True)
    c.init_dir.mkdir()
    (c.init_dir / "backup.bz2").write_bytes(b"no archive")
    c.start().wait_phase("failed")
    assert c.stop() == 0
    (failed,) = [each for each in objects(c) if each["log.level"] == "error"]
    assert "backup.bz2" in failed["message"]
    assert 1 == sum("the import failed" in each["message"] for each in objects(c))
    assert c.errors == ""


def test_devpis_level(container: Callable[..., Container]) -> None:
    """SIDECAR_LOG_LEVEL filters both; devpi's --debug is devpi's own."""
    flags = ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--offline-mode")
    quiet = container("quiet", env={"SIDECAR_LOG_LEVEL": "warning"}).start().wait_ready()
    assert quiet.stop() == 0
    assert " INFO " not in quiet.log
    loud = container("loud", flags=(*flags, "--debug"), env={"SIDECAR_LOG_LEVEL": "error"}).start().wait_ready()
    assert loud.stop() == 0
    assert " DEBUG [devpi] " in loud.log
    assert "[sidecar" not in loud.log


@pytest.mark.slow
def test_an_operators_logger_cfg_wins(
    container: Callable[..., Container], plugin: dict[str, str], tmp_path: Path
) -> None:
    """devpi-server's lines follow its configuration, and prints are unchanged; the sidecar's lines stay the same."""
    config = tmp_path / "log.json"
    handler = {"class": "logging.StreamHandler", "formatter": "f", "stream": "ext://sys.stderr"}
    content = {"version": 1, "formatters": {"f": {"format": "OWN %(message)s"}}, "handlers": {"h": handler}}
    config.write_text(json.dumps(content | {"root": {"level": "INFO", "handlers": ["h"]}}))
    flags = ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--offline-mode", "--logger-cfg", str(config))
    c = container(flags=flags, env={**plugin, "SIDECAR_LOG_FORMAT": "json"}, stderr_apart=True).start().wait_ready()
    assert c.stop() == 0
    ours = [line for line in c.log.splitlines() if line.startswith("{")]
    assert {"sidecar"} == {json.loads(line)["service.name"] for line in ours if "staging" not in line} - {
        "devpi-server"
    }
    assert re.search("^OWN NOCTX serving at url", c.errors, re.MULTILINE)
    assert "complained" in c.errors.splitlines()
    assert "printed" in c.log.splitlines()
    assert "serving at url" not in c.log


@pytest.mark.slow
def test_no_secret_is_in_any_line(container: Callable[..., Container]) -> None:
    """At the highest level of both, through a claim, logins, wrong tokens and a rotation; in no encoding."""
    flags = ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--offline-mode", "--debug")
    env = {"SIDECAR_LOG_LEVEL": "debug", "SIDECAR_LOG_ACCESS": "true", "SIDECAR_LOG_FORMAT": "json"}
    c = container(flags=flags, env=env).start().wait_ready()
    first = c.claim()
    login = login_token(c.devpi, first)
    assert c.login("root", "wrong" + first) == 401
    make_index(c.devpi, login)
    assert c.post("/bootstrap/rotate", "wrong-" + TOKEN).status == 401
    second = c.post("/bootstrap/rotate").json["password"]
    login_secret = (c.runtime / "login-secret").read_text().strip()
    look = wait_for(lambda: "+login" in c.log, "devpi's debug lines")
    assert look
    assert c.stop() == 0
    said = objects(c)
    assert {each["log.level"] for each in said} >= {"debug", "info", "warning"}
    for secret in (TOKEN, first, second, login, login_secret):
        assert len(secret) >= 16
        for form in (secret, base64.b64encode(f"root:{secret}".encode()).decode(), secret[: len(secret) // 2]):
            assert form not in c.log


def test_the_version_is_printed_as_it_is(container: Callable[..., Container]) -> None:
    """The requested text goes to stdout, whatever the log's format."""
    c = container(env={"SIDECAR_LOG_FORMAT": "json"})
    done = c.run("--version")
    assert re.search(r"^\d+\.\d+\.\d+$", done.stdout, re.MULTILINE)
    assert done.returncode == os.EX_OK
