"""`sidecar status | top | token | claim | rotate | version`, for an operator inside the container.

Exit codes: 0 done (status: ready), 1 refused or failed (status: not ready), 2 no sidecar runs here, 64 wrong
usage, 130 interrupted, 141 the reader of a pipe went away.
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
    """The request was sent, and no whole answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sidecar answered."""

    status: int
    content: object
    """Parsed JSON; None where it was none."""
    retry_after: str | None = None

    @property
    def fields(self) -> Fields:
        """The content, as an object of which nothing is certain."""
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
    except OSError as error:  # of stdout: what the network says is worded where it happens
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python's own flush at exit would complain
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
    parser = _Parser(prog="sidecar", description="Ask the sidecar of the devpi-server in this container.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="say how devpi is; exit code 0: ready, 1: not ready")
    shape = status.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print what GET /status answers")
    shape.add_argument("--watch", action="store_true", help="go on saying it, live, until Ctrl-C")
    commands.add_parser("top", help="the same as status --watch")
    commands.add_parser("token", help="print the admin token")
    claim = commands.add_parser("claim", help="print root's generated password; works once")
    claim.add_argument("--json", action="store_true", help="print user and password as JSON")
    rotate = commands.add_parser("rotate", help="set and print a new root password, and end all logins")
    rotate.add_argument("--keep-logins", action="store_true", help="let logins that exist go on")
    rotate.add_argument("--json", action="store_true", help="print user and password as JSON")
    check = commands.add_parser("healthcheck", help="exit code 0: devpi is ready, 1: it is not (for HEALTHCHECK)")
    check.add_argument("--wait", action="store_true", help="wait while it starts or imports; 1: it failed, or ended")
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
        case "healthcheck":  # with something behind it, or cli.main had taken it
            from sidecar.cli import healthcheck

            return healthcheck.main(wait=options.wait)
        case _:
            return _write(f"devpi-sidecar {_version()} (Python {platform.python_version()})")


def _status(directory: str, *, as_json: bool) -> int:
    told = _ask(directory, "GET", "/status", 10)
    ready = _ask(directory, "GET", "/readyz", 10)
    if told.status != 200 or not isinstance(told.content, dict):
        _note(f"/status answered {told.status}: {_problem(told)}")
        return REFUSED
    if as_json:
        _write(json.dumps(told.content, indent=2))
    else:
        health = _ask(directory, "GET", "/health", 10)
        checks = health.fields.list("checks") or ready.fields.list("checks")
        _show(summary(told.fields, checks, ready=ready.status == 200))
    return DONE if ready.status == 200 else REFUSED


def _look(directory: str) -> watch.View:
    """One look for `watch`; a sidecar that isn't there, or a restart in the middle of it, is told as such."""
    try:
        told = _ask(directory, "GET", "/status", 3)
        health = _ask(directory, "GET", "/health", 3)
        ready = _ask(directory, "GET", "/readyz", 3).status == 200
    except (discovery.NoSidecar, AnswerLost) as error:
        return watch.View(gone=str(error))
    if told.status != 200:
        return watch.View(gone=f"/status answered {told.status}: {_problem(told)}")
    return watch.View(ready, told.fields, tuple(health.fields.list("checks")))


def _password(directory: str, path: str, *, as_json: bool) -> int:
    """Claim or rotate: the password on stdout and nothing else, all that is said about it on stderr."""
    headers = {"Authorization": f"Bearer {_token(directory)}"}
    try:
        answer = _ask(directory, "POST", path, 90, headers)
        if answer.status != 200:
            return _refused(answer)
        if not (password := answer.fields.text("password", limit=None)):
            raise AnswerLost("an answer without a password")
    except AnswerLost as error:
        raise AnswerLost(f"{error}: it may be done all the same: `sidecar status` says so, and what to do") from None
    try:
        _write(json.dumps({"user": "root", "password": password}) if as_json else password)
        sys.stdout.flush()
    except OSError:
        _note("the password could not be written, and is not shown again: `sidecar status` says how to set another one")
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
        _note(f"not yet: {why} (try again in {printable(answer.retry_after, 20)} s)")
    else:
        _note(f"refused ({answer.status}): {_problem(answer)}")
    return REFUSED


def _problem(answer: Answer) -> str:
    """The words of an `application/problem+json`."""
    title, detail, hint = (answer.fields.text(name, 1000) for name in ("title", "detail", "hint"))
    parts = [title, detail, "" if hint in detail else hint]
    return "; ".join(part for part in parts if part) or "without a reason"


def _token(directory: str) -> str:
    return discovery.read(directory, discovery.TOKEN).strip()


def _ask(directory: str, method: str, path: str, timeout: float, headers: Mapping[str, str] | None = None) -> Answer:
    """Raises `NoSidecar` where nobody listens, `AnswerLost`."""
    host, port = discovery.address(directory) or ("localhost", 0)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)  # heeds no proxy
    try:
        try:
            if port:
                connection.connect()
            else:
                connection.sock = _local_socket(directory, timeout)
        except OSError as error:
            reason = error.strerror or str(error)
            where = f"{printable(host)} port {port}" if port else "its socket"
            raise discovery.NoSidecar(f"none answers at {where}: {reason}") from None
        try:
            connection.request(method, path, headers={"Accept": "application/json", **(headers or {})})
            response = connection.getresponse()
            body = response.read(_LIMIT)
            if response.length:
                raise http.client.IncompleteRead(body, response.length)
        except (OSError, http.client.HTTPException) as error:
            reason = f"no whole answer to {method} {path.partition('?')[0]} ({type(error).__name__})"
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
    """Write the lines to stdout, fitted into its terminal if it is one."""
    columns = terminal_columns(sys.stdout)
    fitted = lines if columns is None else (part for line in lines for part in fit(line, columns))
    _write("\n".join(fitted))


def _note(text: str) -> None:
    columns = terminal_columns(sys.stderr)
    said = f"sidecar: {text}"
    sys.stderr.write("\n".join([said] if columns is None else fit(said, columns)) + "\n")
