"""The container with TLS on the sidecar's port: probes, the `sidecar` command inside, and bad files."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from tests.support.certificates import Authority, Pair
from tests.support.container import ROOT, TOKEN, Container, wait_for

Make = Callable[..., Container]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    """The server's certificate."""
    return authority.issue("server")


def ask(url: str, context: ssl.SSLContext, method: str = "GET", token: str | None = None) -> tuple[int, bytes]:
    """A client outside of the container."""
    call = urllib.request.Request(url, method=method)
    if token is not None:
        call.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(call, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def wait_written(container: Container, name: str) -> None:
    """Wait until the sidecar has written this into its runtime directory."""
    wait_for((container.runtime / name).exists, name)


def test_a_container_with_tls(container: Make, authority: Authority, pair: Pair) -> None:
    """Probes and admin routes over TLS, with a client certificate if required; the command inside needs none."""
    running = container(env={**pair.settings, "SIDECAR_TLS_CLIENT_CA": str(authority.file)}).start()
    wait_written(running, "address")
    assert running.sidecar("healthcheck").stdout.startswith(("not ready (503): ", "ready"))
    assert wait_for(lambda: running.sidecar("healthcheck").returncode == 0, "a healthy container")
    url = running.url
    assert url.startswith("https://127.0.0.1:")
    anybody, admin = authority.client(), authority.client(authority.issue("admin"))
    assert ask(f"{url}/readyz", anybody)[0] == 200
    status, problem = ask(f"{url}/bootstrap/root-password", anybody, "POST", TOKEN)
    assert (status, json.loads(problem)["title"]) == (403, "Forbidden")
    assert ask(f"{url}/bootstrap", admin, token=TOKEN)[0] == 200
    assert ask(f"{url}/bootstrap", admin, token="x" * 20)[0] == 401

    said = running.sidecar("status")
    assert (said.returncode, said.stdout.splitlines()[0].partition(": ")[2][:5]) == (0, "ready")
    claimed = running.sidecar("claim", "--json")
    assert json.loads(claimed.stdout)["user"] == "root"
    assert running.sidecar("claim").returncode == 1
    rotated = running.sidecar("rotate")
    assert rotated.returncode == 0
    told = json.loads(running.sidecar("status", "--json").stdout)
    assert told["wrong_admin_tokens"]["total"] == 1
    assert running.stop() == 0
    assert not (running.runtime / "http").exists()


def test_a_healthcheck_needs_no_ssl(container: Make, pair: Pair) -> None:
    """It is started every few seconds: its imports matter."""
    running = container(env=pair.settings).start()
    wait_written(running, "address")
    code = "import sys; from sidecar.cli.__main__ import main; main(['healthcheck'])"
    code += "; print({'ssl', 'socket'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**running.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_killed_one_leaves_no_socket_behind(container: Make, pair: Pair) -> None:
    """The next start listens with the new one."""
    running = container(env=pair.settings).start()
    wait_written(running, "address")
    running.kill()
    assert (running.runtime / "http").exists()
    assert running.sidecar("healthcheck").returncode == 1
    running.start()
    assert wait_for(lambda: running.sidecar("healthcheck").returncode == 0, "a healthy container")


def test_a_key_of_another_user(other_user: Make, authority: Authority) -> None:
    """Reported with the uid that must be able to read it."""
    theirs = other_user(env=authority.issue("theirs").settings)
    assert theirs.start().wait_end() == 2
    assert "SIDECAR_TLS_KEY: can't read" in theirs.log or "SIDECAR_TLS_CERT: can't read" in theirs.log
    assert f"uid {theirs.user} can read it" in theirs.log


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda env: env.update(SIDECAR_TLS_KEY="/nonexistent/key"), "SIDECAR_TLS_KEY: can't read '/nonexistent/key'"),
        (lambda env: env.pop("SIDECAR_TLS_CERT"), "SIDECAR_TLS_KEY: SIDECAR_TLS_CERT is not set"),
        (lambda env: env.update(SIDECAR_TLS_KEY="tls.key"), "SIDECAR_TLS_KEY: 'tls.key' is not an absolute path"),
        (lambda env: env.pop("SIDECAR_TLS_KEY"), "SIDECAR_TLS_CERT: "),
    ],
)
def test_bad_files(container: Make, pair: Pair, spoil: Callable[[dict[str, str]], object], said: str) -> None:
    """Code 2 with the variable and the hint; nothing is made on disk."""
    env = pair.settings
    spoil(env)
    bad = container(env=env)
    assert bad.start().wait_end() == 2
    assert said in bad.log
    assert not bad.serverdir.exists()
    assert not bad.runtime.exists()
