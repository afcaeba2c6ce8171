"""`sidecar status | top | token | claim | rotate | version`, for operators inside the container.

Exit codes: 0 success (status: ready), 1 refused or failed (status: not ready), 2 no running sidecar, 64 wrong usage,
130 interrupted, 141 broken pipe.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.metadata
import json
import os
import platform
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from sidecar.cli import watch
from sidecar.cli.fit import fit
from sidecar.cli.render import Fields, summary
from sidecar.core import discovery
from sidecar.core.terminal import columns as terminal_columns
from sidecar.core.terminal import printable, wants_color

DONE, REFUSED, NO_SIDECAR, USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 64, 130, 141

_LIMIT = 16 * 1024 * 1024


class AnswerLost(Exception):
    """The request was sent, but no complete answer arrived."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sidecar answered."""

    status: int
    content: object
    """The parsed JSON; None if it is not JSON."""
    retry_after: str | None = None

    @property
    def fields(self) -> Fields:
        """Return the content as an object with unverified fields."""
        return Fields(self.content)


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # names in any language, LANG=C
    try:
        code = _run(options, discovery.runtime_dir(os.environ))
        sys.stdout.flush()
    except discovery.NoSidecar as error:
        _note(f"no sidecar here: {error}; run this as the server's user, with its SIDECAR_RUNTIME_DIR")
        return NO_SIDECAR
    except AnswerLost as error:
        _note(str(error))
        return REFUSED
    except OSError as error:  # of stdout: network errors have become AnswerLost or NoSidecar
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise Python's own flush at exit reports the error again
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        _note(f"can't write: {error.strerror}")
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sidecar", description="Query and control the sidecar of this container's devpi-server.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="print the status; exit code 0: ready, 1: not ready")
    shape = status.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print the answer of GET /status")
    shape.add_argument("--watch", action="store_true", help="update the output until Ctrl-C")
    commands.add_parser("top", help="same as status --watch")
    commands.add_parser("token", help="print the admin token")
    claim = commands.add_parser("claim", help="print root's generated password; works once")
    claim.add_argument("--json", action="store_true", help="print user and password as JSON")
    rotate = commands.add_parser("rotate", help="set and print a new root password, and end all logins")
    rotate.add_argument("--keep-logins", action="store_true", help="keep existing logins valid")
    rotate.add_argument("--json", action="store_true", help="print user and password as JSON")
    check = commands.add_parser("healthcheck", help="exit code 0: ready, 1: not ready (for HEALTHCHECK)")
    check.add_argument("--wait", action="store_true", help="wait during start-up and import; exit code 1: failed")
    commands.add_parser("version", help="print the version")
    return parser


def _run(options: argparse.Namespace, directory: str) -> int:
    match options.command:
        case "top" | "status" if options.command == "top" or options.watch:
            return watch.watch(lambda: _look(directory), color=wants_color(os.environ))
        case "status":
            return _status(directory, as_json=options.json)
        case "token":
            return _write(_token(directory))
        case "claim":
            return _password(directory, "/bootstrap/root-password", as_json=options.json)
        case "rotate":
            path = "/bootstrap/rotate" + ("?keep_logins=true" if options.keep_logins else "")
            return _password(directory, path, as_json=options.json)
        case "healthcheck":  # abbreviated or repeated flags; cli.main handles the usual ones
            from sidecar.cli import healthcheck

            return healthcheck.main(wait=options.wait)
        case _:
            return _write(f"devpi-sidecar {_version()} (Python {platform.python_version()})")


def _status(directory: str, *, as_json: bool) -> int:
    status = _ask(directory, "GET", "/status", 10)
    ready = _ask(directory, "GET", "/readyz", 10)
    if status.status != 200 or not isinstance(status.content, dict):
        _note(f"GET /status failed ({status.status}): {_problem(status)}")
        return REFUSED
    if as_json:
        _write(json.dumps(status.content, indent=2))
    else:
        health = _ask(directory, "GET", "/health", 10)
        checks = health.fields.list("checks") or ready.fields.list("checks")
        _show(summary(status.fields, checks, ready=ready.status == 200))
    return DONE if ready.status == 200 else REFUSED


def _look(directory: str) -> watch.View:
    """Query the sidecar once for `watch`. A missing sidecar or a restart meanwhile is part of the result."""
    try:
        status = _ask(directory, "GET", "/status", 3)
        health = _ask(directory, "GET", "/health", 3)
        ready = _ask(directory, "GET", "/readyz", 3).status == 200
    except (discovery.NoSidecar, AnswerLost) as error:
        return watch.View(gone=str(error))
    if status.status != 200:
        return watch.View(gone=f"GET /status failed ({status.status}): {_problem(status)}")
    return watch.View(ready, status.fields, tuple(health.fields.list("checks")))


def _password(directory: str, path: str, *, as_json: bool) -> int:
    """Claim or rotate. Print only the password to stdout, and everything else to stderr."""
    headers = {"Authorization": f"Bearer {_token(directory)}"}
    try:
        answer = _ask(directory, "POST", path, 90, headers)
        if answer.status != 200:
            return _refused(answer)
        if not (password := answer.fields.text("password", limit=None)):
            raise AnswerLost("the answer contains no password")
    except AnswerLost as error:
        raise AnswerLost(f"{error}, but the password may have changed; run `sidecar status` and follow it") from None
    try:
        _write(json.dumps({"user": "root", "password": password}) if as_json else password)
        sys.stdout.flush()
    except OSError:
        _note("the password can't be written, and is not shown again; `sidecar status` shows how to set a new one")
        raise
    _note("this is root's password; it is not shown again")
    return DONE


def _refused(answer: Answer) -> int:
    fields = answer.fields
    if answer.status == 410 and (at := fields.text("claimed_at")):
        address = fields.text("claimed_from") or "an unknown address"
        hint = fields.text("hint", 1000)
        _note(f"already claimed at {at} from {address}" + (f"; {hint}" if hint else ""))
    elif answer.status == 503 and answer.retry_after:
        why = fields.text("detail", 1000) or _problem(answer)
        _note(f"not yet: {why} (retry in {printable(answer.retry_after, 20)} s)")
    else:
        _note(f"refused ({answer.status}): {_problem(answer)}")
    return REFUSED


def _problem(answer: Answer) -> str:
    """Return the text of an `application/problem+json`."""
    title, detail, hint = (answer.fields.text(name, 1000) for name in ("title", "detail", "hint"))
    parts = [title, detail, "" if hint in detail else hint]
    return "; ".join(part for part in parts if part) or "no reason given"


def _token(directory: str) -> str:
    return discovery.read(directory, discovery.TOKEN).strip()


def _ask(directory: str, method: str, path: str, timeout: float, headers: Mapping[str, str] | None = None) -> Answer:
    """Send a request and return the answer. Raises `NoSidecar` if it can't connect, and `AnswerLost`."""
    host, port = discovery.address(directory) or ("localhost", 0)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)  # ignores proxy variables
    try:
        try:
            if port:
                connection.connect()
            else:
                connection.sock = _local_socket(directory, timeout)
        except OSError as error:
            reason = error.strerror or str(error)
            where = f"{printable(host)} port {port}" if port else "its socket"
            raise discovery.NoSidecar(f"can't connect to {where}: {reason}") from None
        try:
            connection.request(method, path, headers={"Accept": "application/json", **(headers or {})})
            response = connection.getresponse()
            body = response.read(_LIMIT)
            if response.length:
                raise http.client.IncompleteRead(body, response.length)
        except (OSError, http.client.HTTPException) as error:
            reason = f"no complete answer to {method} {path.partition('?')[0]} ({type(error).__name__})"
            raise AnswerLost(reason) from None
    finally:
        connection.close()
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    return Answer(response.status, content, response.getheader("Retry-After"))


def _local_socket(directory: str, timeout: float) -> socket.socket:
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.settimeout(timeout)
        connected.connect(discovery.socket_path(folder))
    except BaseException:
        connected.close()
        raise
    finally:
        os.close(folder)
    return connected


def _version() -> str:
    try:
        return importlib.metadata.version("devpi-sidecar")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _write(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    return DONE


def _show(lines: Iterable[str]) -> None:
    """Write the lines to stdout, fitted to its width if it is a terminal."""
    columns = terminal_columns(sys.stdout)
    fitted = lines if columns is None else (part for line in lines for part in fit(line, columns))
    _write("\n".join(fitted))


def _note(text: str) -> None:
    columns = terminal_columns(sys.stderr)
    line = f"sidecar: {text}"
    sys.stderr.write("\n".join([line] if columns is None else fit(line, columns)) + "\n")
