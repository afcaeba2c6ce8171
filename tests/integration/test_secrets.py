"""What a run leaves or shows to others, searched for every secret in every encoding; and who may read it at all."""

from __future__ import annotations

import base64
import http.client
import json
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, quote_plus
from urllib.request import urlopen

import pytest

from sidecar.web.app import ROUTES
from testbed.upstream import Upstream
from tests.support import exported
from tests.support.container import PYTHON, TOKEN, Container, call_devpi, children, login_token, request, wait_for

pytestmark = pytest.mark.slow

CLAIM, ROTATE = "/bootstrap/root-password", "/bootstrap/rotate"
GIVEN = 'gäv\'n "by" th\\e %op+erat/or='
"""With characters that every encoding escapes differently."""


def shapes(secret: str) -> set[bytes]:
    """Return all encodings of a secret: raw, escaped for Python, JSON or a URL, in base64 at any offset, in hex."""
    raw = secret.encode()
    texts = {
        secret,
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        repr(raw)[2:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        raw.hex(),
    }
    found = {text.encode() for text in texts}
    for offset in range(3):  # what depends on the bytes around it is cut off
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(offset) + raw)[4 if offset else 0 : -4])
    return found


def holding(secrets: dict[str, str], content: bytes) -> list[str]:
    """Return the names of the secrets that are in it, in any encoding."""
    return [name for name, secret in secrets.items() if any(shape in content for shape in shapes(secret))]


def test_a_secret_is_found_in_every_shape() -> None:
    """Otherwise the searches below would prove nothing."""
    for text in (GIVEN, repr({"a": GIVEN}), json.dumps(GIVEN), quote(GIVEN), ascii(GIVEN)):
        assert ["it"] == holding({"it": GIVEN}, b"before" + text.encode() + b"behind")
    for before in ("", "r", "ro", "root:"):
        assert ["it"] == holding({"it": GIVEN}, base64.b64encode(f"{before}{GIVEN}".encode()))
    assert [] == holding({"it": GIVEN}, base64.b64encode(b"something else altogether, and long enough"))


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    with suppress(OSError):
        for child in children(pid):
            found += family(child)
    return found


class Watcher:
    """Watches the command line and the environment of every process of a run, until stopped."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.arguments: set[bytes] = set()
        self.environments: set[bytes] = set()
        """Those of the descendants: what the orchestrator sets in the first one stays there."""
        self._over = threading.Event()

    def look(self) -> None:
        """Look once."""
        with suppress(OSError):
            own = Path(f"/proc/{self.pid}/cmdline").read_bytes()
            for pid in family(self.pid):
                with suppress(OSError):
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    self.arguments.add(command)
                    if command != own:  # otherwise it was forked and has not called exec yet
                        self.environments.add(Path(f"/proc/{pid}/environ").read_bytes())

    def _run(self) -> None:
        while not self._over.wait(0.01):
            self.look()

    @contextmanager
    def looking(self) -> Iterator[Watcher]:
        """Look repeatedly, in a thread."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()


def answers(c: Container) -> Iterator[tuple[str, bytes]]:
    """Return every answer of every route except those that return a password: heads and bodies, by name."""
    for route in ROUTES:
        path = route.path.replace("{check}", "root-password")
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE"):
            if method == "POST" and path in (CLAIM, ROTATE):
                continue
            for accept in ("text/plain", "application/json"):
                for query in ("", "?verbose"):
                    if (method, path) == ("GET", "/events"):
                        yield f"{method} {path}{query}", stream(c.url + path + query)
                        continue
                    answer = request(c.url + path + query, method, token=TOKEN, accept=accept)
                    yield f"{method} {path}{query}", repr(answer.headers).encode() + answer.body
    for token in (None, "wrong-token-0123456789"):  # these are slowed down
        answer = c.post(CLAIM, token)
        assert 401 == answer.status
        yield f"the claim with {token}", repr(answer.headers).encode() + answer.body
    for path in ("/", "/+api", "/+status", "/root", "/+authcheck", "/no/such", "/root/no"):
        answer = call_devpi(c.devpi + path)
        yield f"devpi {path}", repr(answer.headers).encode() + answer.body


def stream(url: str) -> bytes:
    """Return what an event stream sends to a page that opens it: all sections, and then the latest id."""
    with urlopen(url, timeout=20) as answer:
        told = repr(dict(answer.headers)).encode()
        while b"id: " not in told:
            told += answer.read1()
    return told


def force_errors(c: Container, password: str) -> None:
    """Send requests that fail where a secret is used, with a database that fails below devpi-server."""
    port = int(c.devpi.rpartition(":")[2])
    basic = base64.b64encode(f"root:{password}".encode()).decode()
    auth = base64.b64encode(f"root:{login_token(c.devpi, password)}".encode()).decode()
    for headers in ({"Authorization": f"Basic {basic}"}, {"X-Devpi-Auth": auth}, {"X-Devpi-Auth": basic}):
        for method, path, body in (
            ("POST", "/+login", json.dumps({"user": "root", "password": password})[:-1]),
            ("POST", "/+login", json.dumps({"user": "root", "password": [password]})),
            ("PATCH", "/root", json.dumps({"password": {"no": password}})),
            ("PUT", "/root/dev/x", "\0"),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request(method, path, body.encode(), {**headers, "Content-Type": "application/json"})
            connection.getresponse().read()
            connection.close()
    (c.serverdir / ".sqlite").write_bytes(b"no database")
    assert 500 == c_login(c, password)
    assert c.post(ROTATE).status in (409, 503)
    wait_for(lambda: c.get("/readyz").status == 503, "the failure")


def c_login(c: Container, password: str) -> int:
    """Return the status of a login."""
    return call_devpi(f"{c.devpi}/+login", "POST", {"user": "root", "password": password}).status


@pytest.mark.parametrize("way", ["generated", "file", "variable"])
def test_no_secret_is_seen_anywhere(container: Callable[..., Container], tmp_path: Path, way: str) -> None:
    """From the first start to the end, with everything logged and every possible error forced."""
    secret_file = tmp_path / "secret"
    secret_file.write_text(f"{GIVEN}\n")
    env = {"variable": {"DEVPI_PASSWORD": GIVEN}, "file": {"DEVPI_PASSWORD_FILE": str(secret_file)}}.get(way, {})
    c = container(env={"SIDECAR_LOG_LEVEL": "DEBUG", **env}).start()
    with Watcher(c.pid).looking() as watcher:
        c.wait_ready()
        record = c.serverdir / ".sidecar/root-password.json"
        first = json.loads(record.read_text())["password"] if way == "generated" else GIVEN
        secrets = {"password": first, "token": TOKEN, "login secret": (c.runtime / "login-secret").read_text()}

        kept = on_disk(c, secrets)
        allowed = {"token": {"runtime/token"}, "login secret": {".sidecar/login-secret.json", "runtime/login-secret"}}
        assert kept == allowed | ({"password": {".sidecar/root-password.json"}} if way == "generated" else {})
        for name, answer in answers(c):
            assert [] == holding(secrets, answer), name

        assert first == (c.claim() if way == "generated" else first)
        assert allowed == on_disk(c, secrets)
        secrets["rotated"] = c.post(ROTATE).json["password"]
        secrets["new login secret"] = (c.runtime / "login-secret").read_text()
        assert secrets["new login secret"] != secrets["login secret"]
        force_errors(c, secrets["rotated"])
        for name, answer in answers(c):
            assert [] == holding(secrets, answer), name
    assert b"sidecar.worker" in b"".join(watcher.arguments)
    assert b"HOME=" in b"".join(watcher.environments)
    assert [] == holding(secrets, b"\n".join(watcher.arguments))
    assert [] == holding(secrets, b"\n".join(watcher.environments))
    assert b"DEVPI_PASSWORD" not in b"".join(watcher.environments)
    assert 0 == c.stop()
    assert "Traceback" in c.log, "no error was forced"
    assert [] == holding(secrets, c.log.encode())
    assert [] == list(c.runtime.glob("*token*")) + list(c.runtime.glob("login-secret"))


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_mirrors_password_is_in_no_line_and_no_answer(container: Callable[..., Container], style: str) -> None:
    """devpi logs and serves the URLs of mirrors unchanged: any client that may read its indexes reads them there."""
    flags = ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--debug")
    env = {"SIDECAR_LOG_LEVEL": "debug", "SIDECAR_LOG_FORMAT": style}
    c = container(flags=flags, env=env).start().wait_ready()
    token = login_token(c.devpi, c.claim())
    secrets = {"in a URL": "MirrorSecret7", "with a bare slash": "Slash/Secret7"}
    for name, secret in zip("mn", secrets.values(), strict=True):
        config = {"type": "mirror", "mirror_url": f"http://muser:{secret}@127.0.0.1:9/simple/"}
        assert 200 == call_devpi(f"{c.devpi}/root/{name}", "PUT", config, token=token).status
        assert call_devpi(f"{c.devpi}/root/{name}/+simple/hello/").status in (404, 500, 502, 503)
    secret = secrets.pop("with a bare slash")
    assert b"MirrorSecret7" in call_devpi(f"{c.devpi}/root/m").body  # as devpi does; see docs/security.md
    for route in ("/", "/status", "/metrics", "/health", "/events"):
        answer = stream(c.url + route) if route == "/events" else c.get(route).body
        assert [] == holding(secrets, answer), route
        assert secret.encode() not in answer, route
    assert 0 == c.stop()
    assert "created index root/m" in c.log
    assert "***@127.0.0.1:9/simple/" in c.log
    assert [] == holding(secrets, c.log.encode())
    assert "Secret7" not in c.log


@pytest.mark.parametrize("way", ["file", "variable", "url"])
def test_the_credentials_of_the_mirror_are_seen_nowhere(
    container: Callable[..., Container], tmp_path: Path, way: str
) -> None:
    """Those of root/pypi's upstream: not on the volume, in a process's arguments or environment, an answer or the log.

    Neither while pages are requested, with all of devpi-server's log, nor in an error of the settings.
    """
    secrets = {"user": "mirror-reader-7", "password": GIVEN}
    (tmp_path / "secret").write_text(f"{GIVEN}\n")
    flags = ("--host", "127.0.0.1", "--port", "0", "--debug", "--request-timeout", "5")
    with Upstream(["hello"]) as upstream:
        with_credentials = upstream.url.replace("//", f"//{secrets['user']}:{quote(GIVEN, safe='')}@")
        env = {
            "file": {"DEVPI_MIRROR_URL": upstream.url, "DEVPI_MIRROR_PASSWORD_FILE": str(tmp_path / "secret")},
            "variable": {"DEVPI_MIRROR_URL": upstream.url, "DEVPI_MIRROR_PASSWORD": GIVEN},
            "url": {"DEVPI_MIRROR_URL": with_credentials},
        }[way]
        if way != "url":
            env["DEVPI_MIRROR_USER"] = secrets["user"]
        c = container(flags=flags, env={"SIDECAR_LOG_LEVEL": "DEBUG", "DEVPI_PASSWORD": "of-root", **env}).start()
        with Watcher(c.pid).looking() as watcher:
            c.wait_ready()
            token = login_token(c.devpi, "of-root")
            assert 200 == call_devpi(f"{c.devpi}/root/pypi/+simple/hello/").status
            upstream.refuse()
            assert 200 != call_devpi(f"{c.devpi}/root/pypi/+simple/another/").status
            assert {} == on_disk(c, secrets)
            config = call_devpi(f"{c.devpi}/root/pypi", token=token)
            assert upstream.url == config.json["result"]["mirror_url"]
            for name, answer in (("root/pypi", repr(config.headers).encode() + config.body), *answers(c)):
                assert [] == holding(secrets, answer), name
    assert b"sidecar.worker" in b"".join(watcher.arguments)
    assert [] == holding(secrets, b"\n".join(watcher.arguments))
    assert [] == holding(secrets, b"\n".join(watcher.environments))
    assert b"DEVPI_MIRROR" not in b"".join(watcher.environments)
    assert 0 == c.stop()
    assert f"is now {upstream.url} (DEVPI_MIRROR_URL)" in c.log
    assert [] == holding(secrets, c.log.encode())
    c.env["DEVPI_MIRROR_URL"] = with_credentials + ("?x" if way == "url" else "")
    assert 2 == c.start().wait_end()
    assert "error: DEVPI_MIRROR_URL: " in c.log
    assert [] == holding(secrets, c.log.encode())


def test_an_imports_failure_tells_no_password_of_a_url(container: Callable[..., Container], tmp_path: Path) -> None:
    """Not on `/status`, the page or in the log, whichever value of an export it names."""
    c = container()
    export = exported.write(tmp_path / "export", projects=1)
    data = exported.load(export)
    data["indexes"]["mass/dev"]["indexconfig"]["type"] = "http://muser:MirrorSecret7@127.0.0.1:9/simple/"
    exported.save(export, data)
    exported.pack(export, c.init_dir / "backup.tar.gz")
    c.start().wait_phase("failed")
    assert "'http://***@127.0.0.1:9/simple/'" in c.status()["import"]["error"]["reason"]
    told = [c.log.encode(), *(c.get(path).body for path in ("/", "/status", "/readyz", "/health"))]
    told += [(c.serverdir / ".sidecar" / "import.json").read_bytes()]
    assert [] == [each for each in told if b"MirrorSecret7" in each]


def on_disk(c: Container, secrets: dict[str, str]) -> dict[str, set[str]]:
    """Return the files of volume and runtime directory that hold each secret."""
    found: dict[str, set[str]] = {}
    for folder in (c.serverdir, c.runtime):
        for path in folder.rglob("*"):
            if path.is_file():
                for name in holding(secrets, path.read_bytes()):
                    place = path.relative_to(c.serverdir if folder == c.serverdir else c.home)
                    found.setdefault(name, set()).add(str(place))
    return found


def test_no_file_is_open_to_others(container: Callable[..., Container]) -> None:
    """All that a start writes, on the volume or in the runtime directory, is this user's and closed to all others."""
    c = container(env={"SIDECAR_ADMIN_TOKEN": "-"}).start().wait_ready()
    written = [path for folder in (c.serverdir, c.runtime) for path in (folder, *folder.rglob("*"))]
    names = {path.name for path in written}

    assert {"root-password.json", "admin-token", "login-secret.json", "login-secret", ".sqlite", ".nodeinfo"} <= names
    assert [] == [str(path) for path in written if stat.S_IMODE(path.lstat().st_mode) & 0o077]
    assert {os.getuid()} == {path.lstat().st_uid for path in written}


def test_another_process_of_the_same_user_sees_nothing(other_user: Callable[..., Container]) -> None:
    """Neither environment nor memory of sidecar and devpi-server, with the same uid; and no core is dumped."""
    c = other_user(env={"DEVPI_PASSWORD": GIVEN}).start().wait_ready()
    look = "import sys; open(sys.argv[1], 'rb').read(1)"
    for pid in (c.pid, c.devpi_pid):
        assert 0 == Path(f"/proc/{pid}/environ").stat().st_uid  # so proc(5) describes a process that dumps no core
        for file in ("environ", "mem", "maps"):
            seen = subprocess.run(
                [c.command[0], "-c", look, f"/proc/{pid}/{file}"],
                env=c.given_environ,
                user=c.user,
                group=c.user,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
            assert "PermissionError" in seen.stderr, (pid, file)


def test_a_crash_of_the_sidecar_tells_no_secret(container: Callable[..., Container], tmp_path: Path) -> None:
    """An unexpected error in the middle of a claim: the traceback has no value in it."""
    script = tmp_path / "faulty.py"
    script.write_text(
        "import sys\n"
        "sys.path.insert(0, sys.argv.pop(1))\n"
        "from sidecar.features.credentials.claims import Claims\n"
        "import entrypoint\n"
        "async def faulty(self, record):\n"
        "    password = record.unclaimed\n"
        "    assert password is None\n"
        "Claims._still_holds = faulty\n"
        "sys.exit(entrypoint.main(sys.argv[1:]))\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    c = container(command=(PYTHON, str(script), root), env={"SIDECAR_LOG_LEVEL": "DEBUG"})
    c.start().wait_ready()
    password = json.loads((c.serverdir / ".sidecar/root-password.json").read_text())["password"]
    answer = c.post(CLAIM)
    assert 500 == answer.status
    assert "AssertionError" in c.log
    assert [] == holding({"password": password, "token": TOKEN}, answer.body + c.log.encode())
