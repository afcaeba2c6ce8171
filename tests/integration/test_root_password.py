"""Root's password, case by case: provided, generated, imported, existing; claimed once; and rotated."""

from __future__ import annotations

import http.client
import json
import shutil
import stat
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.container import (
    TOKEN,
    Answer,
    Container,
    call_devpi,
    login_token,
    request,
    token_holds,
    wait_for,
)

CLAIM, ROTATE = "/bootstrap/root-password", "/bootstrap/rotate"
GIVEN = "given by the operator"
EXPORTED = "of the export"


def state(c: Container) -> str:
    """Return root's password as in `/status`."""
    told: str = c.status()["root_password"]["state"]
    return told


def record(c: Container) -> dict[str, object]:
    """Return its record on the volume."""
    told: dict[str, object] = json.loads((c.serverdir / ".sidecar/root-password.json").read_text())
    return told


def read_volume(c: Container) -> bytes:
    """Return all bytes in our folder of the volume."""
    return b"".join(path.read_bytes() for path in (c.serverdir / ".sidecar").rglob("*") if path.is_file())


# --- an empty serverdir -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["variable", "file"])
def test_given_at_the_first_start(container: Callable[..., Container], tmp_path: Path, way: str) -> None:
    """DEVPI_PASSWORD, or the line in DEVPI_PASSWORD_FILE, is root's; there is nothing to claim."""
    secret = tmp_path / "secret"
    secret.write_text(f"{GIVEN}\n")
    env = {"DEVPI_PASSWORD": GIVEN} if way == "variable" else {"DEVPI_PASSWORD_FILE": str(secret)}
    c = container(env=env).start().wait_ready()
    claim = c.post(CLAIM)

    assert [200, 401] == [c.login("root", GIVEN), c.login("root", "")]
    assert (404, "provided") == (claim.status, state(c))
    assert "DEVPI_PASSWORD" in claim.json["detail"]
    assert GIVEN.encode() not in read_volume(c)


def test_generated_kept_until_claimed_once(container: Callable[..., Container]) -> None:
    """32 random characters survive restarts until they are claimed; then it is 410 for ever, with time and address."""
    c = container().start().wait_ready()
    generated = record(c)["password"]
    assert "claimable" == state(c)
    assert 0 == c.stop()

    c.start().wait_ready()
    assert "claimable" == state(c)
    password = c.claim()
    assert (generated, 32) == (password, len(password))
    assert [200, 401] == [c.login("root", password), c.login("root", "")]
    assert password.encode() not in read_volume(c)
    assert 0 == c.stop()

    c.start().wait_ready()
    again = c.post(CLAIM)
    assert (410, "already claimed", "127.0.0.1") == (again.status, again.json["title"], again.json["claimed_from"])
    assert record(c)["claimed_at"][:19] == again.json["claimed_at"][:19]  # type: ignore[index]
    assert "claimed" == state(c)
    assert 200 == c.login("root", password)


@pytest.mark.slow
def test_claimed_by_many_at_once(container: Callable[..., Container]) -> None:
    """Of 20 simultaneous claims one gets the password, the others get 410."""
    c = container().start().wait_ready()
    barrier = threading.Barrier(20)

    def claim(_number: int) -> Answer:
        barrier.wait()
        return c.post(CLAIM)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(claim, range(20)))

    assert {200: 1, 410: 19} == Counter(answer.status for answer in answers)
    (winner,) = [answer for answer in answers if answer.status == 200]
    assert 200 == c.login("root", winner.json["password"])
    assert "no-store" in winner.headers["Cache-Control"]


@pytest.mark.slow
def test_an_unclaimed_one_expires(container: Callable[..., Container]) -> None:
    """After SIDECAR_CLAIM_TTL the password is deleted from the volume, the claim is 410, and rotating helps."""
    c = container(env={"SIDECAR_CLAIM_TTL": "1.5"}).start().wait_ready()
    assert "claimable" == state(c)
    wait_for(lambda: state(c) == "expired", "expiry")
    wait_for(lambda: record(c)["state"] == "expired", "its record")
    claim = c.post(CLAIM)

    assert (410, "expired") == (claim.status, claim.json["title"])
    assert "password" not in record(c)
    rotated = c.post(ROTATE)
    assert 200 == rotated.status
    assert 200 == c.login("root", rotated.json["password"])
    assert 410 == c.post(CLAIM).status


def test_one_that_was_changed_in_another_way_is_not_told(container: Callable[..., Container]) -> None:
    """It was read from the volume and another one set: the claim is 410 with that reason; rotating helps."""
    c = container().start().wait_ready()
    generated = str(record(c)["password"])
    token = login_token(c.devpi, generated)
    assert 200 == call_devpi(f"{c.devpi}/root", "PATCH", {"password": "mine now"}, token=token).status
    claim = c.post(CLAIM)

    assert (410, "superseded") == (claim.status, claim.json["title"])
    assert generated.encode() not in claim.body
    rotated = c.post(ROTATE)
    assert [200, 401] == [c.login("root", rotated.json["password"]), c.login("root", "mine now")]


# --- an import --------------------------------------------------------------------------------------------------------


def imported(
    container: Callable[..., Container], export: Path, *, password: str | None = None, without_root: bool = False
) -> Container:
    """A ready container that has imported this export into an empty serverdir."""
    c = container(env={} if password is None else {"DEVPI_PASSWORD": password})
    copy = c.init_dir / "backup"
    shutil.copytree(export, copy)
    if without_root:
        index = copy / "dataindex.json"
        data = json.loads(index.read_text())
        del data["users"]["root"]
        index.write_text(json.dumps(data))
    c.start().wait_ready()
    assert "completed" == c.status()["import"]["state"]
    return c


def test_import_alone(container: Callable[..., Container], made_by_devpi: Callable[..., Path]) -> None:
    """An export's root password is kept; there is nothing to claim."""
    c = imported(container, made_by_devpi(EXPORTED, export=True))

    assert [200, 401] == [c.login("root", EXPORTED), c.login("root", "")]
    assert (404, "from_import") == (c.post(CLAIM).status, state(c))


@pytest.mark.slow
def test_import_with_a_given_one(container: Callable[..., Container], made_by_devpi: Callable[..., Path]) -> None:
    """The provided password is root's, although devpi itself would keep the export's."""
    c = imported(container, made_by_devpi(EXPORTED, export=True), password=GIVEN)

    assert [200, 401] == [c.login("root", GIVEN), c.login("root", EXPORTED)]
    assert (404, "provided") == (c.post(CLAIM).status, state(c))


@pytest.mark.slow
@pytest.mark.parametrize("root", ["absent", "empty"])
@pytest.mark.parametrize("password", [None, GIVEN], ids=["generated", "given"])
def test_import_without_a_root_password(
    container: Callable[..., Container], made_by_devpi: Callable[..., Path], root: str, password: str | None
) -> None:
    """If the export has no root, or devpi's default of an empty password, it is as with an empty serverdir."""
    export = made_by_devpi(EXPORTED if root == "absent" else "", export=True)
    c = imported(container, export, password=password, without_root=root == "absent")

    assert ("claimable" if password is None else "provided") == state(c)
    if password is not None:
        assert 404 == c.post(CLAIM).status
    assert [200, 401] == [c.login("root", password or c.claim()), c.login("root", "")]
    assert 200 == c.get("/readyz/root-password").status


# --- a serverdir that holds data --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_data_keeps_its_password(container: Callable[..., Container], made_by_devpi: Callable[..., Path]) -> None:
    """DEVPI_PASSWORD has no effect on existing data, which is reported; see `test_unused_input`."""
    c = container(env={"DEVPI_PASSWORD": GIVEN})
    shutil.copytree(made_by_devpi(EXPORTED), c.serverdir)
    c.start().wait_ready()

    assert [200, 401] == [c.login("root", EXPORTED), c.login("root", GIVEN)]
    wait_for(lambda: c.status()["notices"], "the notice")
    assert 1 == c.log.count("is not used: the serverdir holds data")
    assert "unknown" == state(c)


@pytest.mark.slow
def test_data_with_an_empty_password(container: Callable[..., Container], made_by_devpi: Callable[..., Path]) -> None:
    """The check root-password keeps it from being ready, with hints that all work."""
    c = container()
    shutil.copytree(made_by_devpi(""), c.serverdir)
    c.start().wait_phase("launching")
    wait_for(lambda: c.get("/readyz/http").status == 200, "devpi's answer")
    answer = wait_for(lambda: (a := c.get("/readyz/root-password")).json["reason"] != "not checked yet" and a, "news")

    assert (503, 503) == (answer.status, c.get("/readyz").status)
    assert "sidecar rotate" in answer.json["hint"]
    assert "SIDECAR_ALLOW_EMPTY_ROOT" in answer.json["hint"]
    assert ["root-password"] == [check["name"] for check in c.get("/readyz").json["checks"]]
    assert 200 == c.login("root", "")
    assert 0 == c.stop()

    c.env["SIDECAR_ALLOW_EMPTY_ROOT"] = "true"
    c.start().wait_ready()
    assert 200 == c.login("root", "")
    assert 0 == c.stop()

    del c.env["SIDECAR_ALLOW_EMPTY_ROOT"]
    c.start().wait_listening()
    wait_for(lambda: c.get("/readyz/http").status == 200, "devpi's answer")
    assert 503 == c.get("/readyz").status
    rotated = c.sidecar("rotate")
    assert 0 == rotated.returncode, rotated
    c.wait_ready()
    assert [401, 200] == [c.login("root", ""), c.login("root", rotated.stdout.strip())]


# --- who may claim ----------------------------------------------------------------------------------------------------


def raw_claim(c: Container, authorization: bytes | None) -> tuple[int, str | None]:
    """Return the status of a claim with this exact header, and the challenge in the answer."""
    connection = http.client.HTTPConnection(c.url.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", CLAIM)
    if authorization is not None:
        connection.putheader("Authorization", authorization)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"Bearer",
        b"Bearer " + TOKEN[:-1].encode() + b"x",
        b"Bearer " + TOKEN.encode() + b"x",
        "Bearer gehe\N{LATIN SMALL LETTER I WITH DIAERESIS}m".encode(),
        b"Bearer \xff\xfe",
        b"Bearer " + b"x" * 5000,
        b"Basic cm9vdDo=",
    ],
    ids=["missing", "empty", "wrong", "longer", "utf-8", "no utf-8", "over-long", "basic"],
)
def test_without_the_token(ready: Container, authorization: bytes | None) -> None:
    """Without the exact admin token, the claim is 401 with a challenge, and changes nothing."""
    status, challenge = raw_claim(ready, authorization)

    assert 401 == status
    assert challenge is not None
    assert challenge.startswith("Bearer")
    assert ready.running
    assert "claimable" == state(ready)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
@pytest.mark.parametrize("path", [CLAIM, ROTATE])
def test_only_post_reveals(ready: Container, method: str, path: str) -> None:
    """No other method claims or rotates."""
    answer = request(ready.url + path, method, token=TOKEN)

    assert 405 == answer.status
    assert "claimable" == state(ready)
    assert str(record(ready)["password"]).encode() not in answer.body


def test_what_there_is_to_claim(ready: Container) -> None:
    """GET /bootstrap answers only the admin, and never has the password."""
    told = ready.get("/bootstrap", token=TOKEN)

    assert "claimable" == told.json["root_password"]["state"]
    assert str(record(ready)["password"]).encode() not in told.body + ready.get("/status").body
    assert 401 == ready.get("/bootstrap").status


def test_the_commands(container: Callable[..., Container]) -> None:
    """`sidecar token`, healthcheck, status, claim and rotate cover all of it, with a generated token."""
    c = container(env={"SIDECAR_ADMIN_TOKEN": "-"}).start().wait_ready()
    kept = c.serverdir / ".sidecar/admin-token"
    token = c.sidecar("token").stdout.strip()
    assert kept.read_text().strip() == token
    assert 0o600 == stat.S_IMODE(kept.stat().st_mode)
    assert 401 == c.post(CLAIM).status
    assert 200 == c.get("/bootstrap", token=token).status

    healthy, before, claim = c.sidecar("healthcheck"), c.sidecar("status"), c.sidecar("claim")
    assert (0, 0, 0) == (healthy.returncode, before.returncode, claim.returncode), (healthy, before, claim)
    assert "ready" in before.stdout
    assert "sidecar claim" in before.stdout
    assert 200 == c.login("root", claim.stdout.strip())
    again = c.sidecar("claim")
    assert (1, "") == (again.returncode, again.stdout)
    assert "already claimed" in again.stderr
    rotated = json.loads(c.sidecar("rotate", "--json").stdout)
    assert [401, 200] == [c.login("root", claim.stdout.strip()), c.login("root", rotated["password"])]
    assert "claimed" == json.loads(c.sidecar("status", "--json").stdout)["root_password"]["state"]
    assert token not in c.log
    assert 0 == c.stop()

    assert [1, 2] == [c.sidecar("healthcheck").returncode, c.sidecar("status").returncode]
    c.start().wait_ready()
    assert token == c.sidecar("token").stdout.strip()


# --- rotating ---------------------------------------------------------------------------------------------------------


def test_rotating(container: Callable[..., Container]) -> None:
    """The old password and, unless they are kept, the old logins are invalid at once; also after a restart."""
    c = container().start().wait_ready()
    first = c.claim()
    login_of_first = login_token(c.devpi, first)

    second = c.post(f"{ROTATE}?keep_logins=true").json["password"]
    assert [401, 200] == [c.login("root", first), c.login("root", second)]
    assert token_holds(c.devpi, login_of_first)

    third = c.post(ROTATE).json["password"]
    assert [401, 200] == [c.login("root", second), c.login("root", third)]
    assert not token_holds(c.devpi, login_of_first)
    login_of_third = login_token(c.devpi, third)
    assert token_holds(c.devpi, login_of_third)
    again = c.post(CLAIM)
    assert (410, "127.0.0.1") == (again.status, again.json["claimed_from"])
    assert 0 == c.stop()

    c.start().wait_ready()
    assert [401, 200] == [c.login("root", second), c.login("root", third)]
    assert [False, True] == [token_holds(c.devpi, token) for token in (login_of_first, login_of_third)]


@pytest.mark.slow
@pytest.mark.parametrize("keep_logins", [False, True])
def test_a_rotation_cut_short(container: Callable[..., Container], keep_logins: bool) -> None:
    """Killed between its record and its answer, the next start finishes it; it was not returned, so it is claimable."""
    c = container().start().wait_ready()
    first = c.claim()
    old_login = login_token(c.devpi, first)

    def killed_while(path: str) -> bool:
        """Whether the sidecar could be killed in the middle of it."""
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(c.post, path)
            wait_for(lambda: record(c)["state"] == "rotating", "the intent")
            c.kill()
            with pytest.raises((OSError, http.client.HTTPException)):
                answer.result()
        return record(c)["state"] == "rotating"

    assert killed_while(ROTATE + ("?keep_logins=true" if keep_logins else ""))
    c.start().wait_ready()
    assert "claimable" == state(c)
    assert "finished an interrupted change of root's password" in c.log
    password = c.claim()
    assert [401, 200] == [c.login("root", first), c.login("root", password)]
    assert keep_logins == token_holds(c.devpi, old_login)
    assert password.encode() not in read_volume(c)
    assert 0 == c.stop()

    c.start().wait_ready()
    assert [401, 200, 410] == [c.login("root", first), c.login("root", password), c.post(CLAIM).status]


@pytest.mark.slow
def test_killed_in_a_claim(container: Callable[..., Container]) -> None:
    """Killed at any instant, it is claimed or claimable afterwards, never both: one password, returned once."""
    c = container()
    for instant in ("sent", "recorded"):
        c.start().wait_ready()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(c.post, CLAIM)
            if instant == "recorded":
                wait_for(lambda: record(c)["state"] == "claimed", "the claim")
            c.kill()
            try:
                told = answer.result()
            except (OSError, http.client.HTTPException):
                told = None
        recorded = record(c)["state"]
        c.start().wait_ready()

        assert recorded == state(c)
        if told is not None:
            assert ("claimed", 200) == (recorded, c.login("root", told.json["password"]))
        if recorded == "claimed":
            assert 410 == c.post(CLAIM).status
            break
        assert "recorded" != instant
        assert 0 == c.stop()
    assert "claimed" == state(c)


# --- at the end of it all ---------------------------------------------------------------------------------------------


def test_the_shared_one_is_claimable_to_the_end(ready: Container) -> None:
    """After all refused calls above it can be claimed; a client that hangs up changes nothing; rotating helps."""
    connection = http.client.HTTPConnection(ready.url.removeprefix("http://"), timeout=20)
    connection.request("POST", CLAIM, headers={"Authorization": f"Bearer {TOKEN}"})
    connection.close()  # without reading the answer
    wait_for(lambda: state(ready) == "claimed", "the claim of a client that hung up")

    assert "password" not in record(ready)
    assert 410 == ready.post(CLAIM).status
    lost = ready.sidecar("rotate")
    assert 200 == ready.login("root", lost.stdout.strip())
