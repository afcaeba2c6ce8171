"""Play stories on one devpi-server, export the result, and import it twice.

`python -m tests.differential.worker FOLDER` reads lines of JSON, each a story (`tests.differential.stories`), and
answers each with the results of plain devpi-import and of our import of its export. Every story, export and import runs
in a fork, so that devpi is imported once and stories are independent. Passwords are hashed at the lowest cost, and not
checked.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import shutil
import sys
import tarfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import argon2
from devpi_server import auth, importexport, init, main, model
from devpi_server.config import get_pluginmanager, parseoptions

from sidecar.devpi.protocol import Import, Progress
from sidecar.exports.sources import ImportRefused, Limits
from sidecar.worker import load
from sidecar.worker.flags import Listen, ServerFlags

if TYPE_CHECKING:
    from devpi_server.main import XOM

PASSWORD = "p"
_BOUNDARY = "7a1f0e6f0d2c4b3d"
_CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Listener:
    """The sidecar's side of the channel, as far as an import needs it: keeps what was left out."""

    def __init__(self) -> None:
        self.left_out: dict[str, Any] = {"total": 0, "first": []}

    def send(self, message: Progress) -> None:
        """Receive one report of progress."""
        self.left_out = message.left_out or self.left_out


class Api:
    """devpi-server's WSGI app, called as an HTTP server would."""

    def __init__(self, xom: XOM) -> None:
        self._app: Any = xom.create_app()

    def call(self, method: str, path: str, body: bytes, kind: str, user: str | None) -> int:
        """Return the status of the answer; 500 if the app raises, as waitress does."""
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method, "PATH_INFO": path.encode().decode("latin-1"), "SCRIPT_NAME": "",
            "QUERY_STRING": "", "SERVER_NAME": "h", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "h", "HTTP_ACCEPT": "application/json", "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": kind, "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr, "wsgi.multithread": False,
            "wsgi.multiprocess": False, "wsgi.run_once": False,
        }  # fmt: skip
        if user is not None:
            environ["HTTP_X_DEVPI_AUTH"] = base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
        statuses: list[str] = []
        try:
            answer = self._app(environ, lambda status, headers, exc_info=None: statuses.append(status))
            b"".join(answer)
        except Exception:
            traceback.print_exc()
            return 500
        return int(statuses[-1].split()[0])

    def tell(self, step: dict[str, Any]) -> int:
        """Send one step of a story: JSON to a path, or a form to an index."""
        if "json" in step:
            body = json.dumps(step["json"]).encode()
            return self.call(step["method"], step["path"], body, "application/json", step["user"])
        parts = [(f'name="{name}"', value.encode()) for name, value in step["form"].items()]
        if "file" in step:
            parts.append((f'name="content"; filename="{step["file"]}"', step["content"].encode()))
        body = b"".join(
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + value + b"\r\n"
            for name, value in parts
        )
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        return self.call("POST", step["path"], body + f"--{_BOUNDARY}--\r\n".encode(), kind, step["user"])


def in_a_fork(log: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of the work in a process of its own, which prints into `log`."""
    read, write = os.pipe()
    if not (child := os.fork()):
        _work(log, work, write)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    status = os.waitpid(child, 0)[1]
    result: dict[str, Any] = json.loads(said) if said else {"outcome": f"died with status {status}"}
    return result


def _work(log: Path, work: Callable[[], dict[str, Any]], write: int) -> NoReturn:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        said = work()
    except ImportRefused as error:
        said = {"outcome": "refused", "why": str(error)}
    except BaseException as error:
        traceback.print_exc()
        said = {"outcome": "raised", "why": repr(error)[:500]}
    with os.fdopen(write, "w") as file:
        json.dump(said, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def exported(serverdir: Path, into: Path) -> dict[str, Any]:
    """Run `devpi-export`."""
    code = importexport.export(argv=["devpi-export", "--serverdir", serverdir, "--include-mirrored-files", into])
    return {"outcome": "refused" if code else "done"}


def imported_bare(export: Path, serverdir: Path) -> dict[str, Any]:
    """Run plain `devpi-import`."""
    argv = ["devpi-import", "--serverdir", serverdir, "--no-events", "--no-root-pypi", export]
    return {"outcome": "refused" if importexport.import_(argv=argv) else "done"}


def imported_by_us(init_dir: Path, home: Path, *, strict: bool) -> dict[str, Any]:
    """Import an archive as the worker's fork does."""
    scratch, target = home / "scratch", home / "state"
    scratch.mkdir(parents=True)
    request = Import(
        init_dir=str(init_dir), target=str(target), scratch=str(scratch), password="generated", password_provided=False,
        limits={field: getattr(Limits(), field) for field in ("members", "member_bytes", "total_bytes", "ratio",
        "index_bytes")}, allow_unverified=False, strict=strict,
    )  # fmt: skip
    nowhere = Listen((), (), None, 0o600, 1)
    flags = ServerFlags(
        argv=("devpi-server",), serverdir=target, listen=nowhere, replica=False, primary_url=None, storage="sqlite",
        secretfile=None, no_root_pypi=False, own_derivation=False, version_asked=False, tool_flags=(), outside_url=None,
    )  # fmt: skip
    listener = Listener()
    load.import_exports(request, flags, get_pluginmanager(), listener)  # type: ignore[arg-type]
    return {"outcome": "done", "left_out": listener.left_out}


def packed(export: Path, archive: Path) -> None:
    """Pack an export as `python3 -m tarfile --create` does."""
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w") as tar:
        tar.add(export, export.name)


class Stage:
    """A devpi-server's state, restored for each story, and the app on it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._state, self._first = home / "state", home / "first-state"
        if init.init(argv=["devpi-init", "--serverdir", self._state, "--no-root-pypi", "--root-passwd", PASSWORD]):
            raise SystemExit("devpi-init failed")
        shutil.copytree(self._state, self._first)
        argv = ["devpi-server", "--serverdir", str(self._state), "--offline-mode"]
        argv += ["--argon2-memory-cost", "1024", "--argon2-time-cost", "1", "--argon2-parallelism", "1"]
        self._api = Api(main.xom_from_config(parseoptions(get_pluginmanager(), argv)))

    def play(self, story: dict[str, Any]) -> dict[str, Any]:
        """Play one story. Return its steps' statuses, and each import's outcome with an export of its result."""
        shutil.rmtree(self._state)
        shutil.copytree(self._first, self._state)
        home = self._home / "story"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        log = self._home / "log"
        log.unlink(missing_ok=True)
        answer: dict[str, Any] = in_a_fork(log, lambda: {"statuses": [self._api.tell(step) for step in story["steps"]]})
        export = home / "outer" / "export"
        answer["export"] = in_a_fork(log, lambda: exported(self._state, export))
        if answer["export"]["outcome"] != "done":
            return answer | {"log": log.read_text(errors="replace")[-3000:]}
        packed(export, home / "init" / "backup.tar")
        answer["bare"] = in_a_fork(log, lambda: imported_bare(export, home / "bare"))
        strict = bool(story.get("strict"))
        answer["ours"] = in_a_fork(log, lambda: imported_by_us(home / "init", home / "ours", strict=strict))
        for name, state in {"bare": home / "bare", "ours": home / "ours" / "state"}.items():
            if answer[name]["outcome"] == "done":
                again = home / f"again-{name}" / "export"
                in_a_fork(log, lambda state=state, again=again: exported(state, again))  # type: ignore[misc]
                answer[name]["holds"] = described(again)
        outside = {str(path.relative_to(self._home)) for path in home.iterdir()}
        return answer | {"outside": sorted(outside), "log": log.read_text(errors="replace")[-3000:]}


def described(export: Path) -> dict[str, Any]:
    """Return an export's `dataindex.json`, and the bytes of each file that it names."""
    data = json.loads((export / "dataindex.json").read_text())
    files = [file["relpath"] for index in data["indexes"].values() for file in index.get("files", [])]
    return {"data": data, "files": {relpath: (export / relpath).read_bytes().decode("latin-1") for relpath in files}}


def run(home: Path) -> None:
    """Play the stories of stdin, one a line."""
    answers = os.fdopen(os.dup(1), "w")
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    logging.disable(logging.CRITICAL)
    auth.hash_password = model.hash_password = _CHEAP.hash  # type: ignore[attr-defined]
    model.verify_and_update_password_hash = lambda *_: (True, None)  # type: ignore[attr-defined]
    stage = Stage(home)
    for line in sys.stdin:
        answers.write(json.dumps(stage.play(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
