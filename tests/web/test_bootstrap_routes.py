"""`/bootstrap`: claim, rotation, and access to them."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidecar.features.credentials.refusals import AlreadyClaimed, CannotRotate, NotYet
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.web import admin_auth
from sidecar.web.context import GUARD
from sidecar.web.problems import Problem
from tests.web.conftest import ADMIN, PASSWORD, TOKEN, Site

CLAIM = "/bootstrap/root-password"
ROTATE = "/bootstrap/rotate"
ROUTES = [("GET", "/bootstrap"), ("POST", CLAIM), ("POST", ROTATE)]


async def test_claim_once(site: Site) -> None:
    """The password once; then 410 with the time and address of the claim."""
    site.generate_password()
    first = await site.ask("POST", CLAIM, headers=ADMIN)
    assert (first.status, first.json) == (200, {"user": "root", "password": PASSWORD})
    assert first.headers["Cache-Control"] == "no-store"
    again = await site.ask("POST", CLAIM, headers=ADMIN)
    assert again.status == 410
    assert again.headers["Content-Type"].startswith("application/problem+json")
    assert (again.json["title"], again.json["status"]) == ("already claimed", 410)
    assert again.json["claimed_from"] == "127.0.0.1"
    assert again.json["claimed_at"].endswith("Z")
    assert PASSWORD not in again.body.decode()


async def test_claims_at_the_same_instant(site: Site) -> None:
    """Exactly one of many clients gets it."""
    site.generate_password()
    answers = await asyncio.gather(*(site.ask("POST", CLAIM, headers=ADMIN) for _ in range(10)))
    assert [200] + [410] * 9 == sorted(answer.status for answer in answers)


async def test_x_forwarded_for_is_not_believed(site: Site) -> None:
    """The address of a claim is that of the connection, because a client can set any header."""
    site.generate_password()
    await site.ask("POST", CLAIM, headers=ADMIN | {"X-Forwarded-For": "10.9.8.7", "Forwarded": "for=10.9.8.7"})
    status = await site.ask("GET", "/bootstrap", headers=ADMIN)
    assert status.json["root_password"]["claimed_from"] == "127.0.0.1"


async def test_get_never_reveals(site: Site) -> None:
    """It reports whether there is something to claim, not the password."""
    site.generate_password()
    answer = await site.ask("GET", "/bootstrap", headers=ADMIN)
    assert answer.json["root_password"]["state"] == "claimable"
    assert answer.json["root_password"]["generated"].endswith("Z")
    assert PASSWORD not in answer.body.decode()
    answer = await site.ask("GET", CLAIM, headers=ADMIN)
    assert (answer.status, answer.headers["Allow"]) == (405, "OPTIONS, POST")
    assert (await site.ask("POST", CLAIM, headers=ADMIN)).status == 200


async def test_claim_before_installation(site: Site) -> None:
    """503, with Retry-After."""
    answer = await site.ask("POST", CLAIM, headers=ADMIN)
    assert (answer.status, answer.json["title"]) == (503, "not yet")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_nothing_to_claim(site: Site) -> None:
    """404 if the operator has set the password."""
    record = RootPasswordFile(site.folder / "root-password")
    record.write_provided()
    site.attach(record)
    answer = await site.ask("POST", CLAIM, headers=ADMIN)
    assert (answer.status, answer.json["title"]) == (404, "nothing to claim")


@pytest.mark.parametrize("claim_ttl", [60.0])
async def test_expired(site: Site) -> None:
    """410 with that reason; only a rotation helps."""
    record = RootPasswordFile(site.folder / "root-password")
    record.write_generated(PASSWORD, datetime.now(UTC) - timedelta(seconds=61))
    site.attach(record)
    answer = await site.ask("POST", CLAIM, headers=ADMIN)
    assert (answer.status, answer.json["title"], answer.json["hint"]) == (410, "expired", None)


async def test_a_client_that_hangs_up_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that has begun finishes, although the client doesn't read the answer."""
    began, done = asyncio.Event(), asyncio.Event()

    async def claim(address: str) -> str:
        began.set()
        await asyncio.sleep(0.05)
        done.set()
        return PASSWORD

    monkeypatch.setattr(site.credentials, "claim", claim)
    _, writer = await asyncio.open_connection("127.0.0.1", site.web.port)
    writer.write(f"POST {CLAIM} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    await asyncio.wait_for(began.wait(), 5)
    writer.transport.abort()
    await asyncio.wait_for(done.wait(), 5)
    assert (await site.get("/livez")).status == 200


# --- rotating ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "body", "kept"),
    [
        ("", b"", False),
        ("", b"{}", False),
        ("", b'{"keep_logins": true}', True),
        ("", b'{"keep_logins": false}', False),
        ("?keep_logins=true", b"", True),
        ("?keep_logins=0", b"", False),
        ("?keep_logins=1", b'{"keep_logins": true}', True),
    ],
)
async def test_rotate(site: Site, monkeypatch: pytest.MonkeyPatch, query: str, body: bytes, kept: bool) -> None:
    """A new password, once; logins end unless `keep_logins` is set."""
    calls: list[Any] = []

    async def rotate(address: str, *, keep_logins: bool = False) -> str:
        calls.append((address, keep_logins))
        return "new"

    monkeypatch.setattr(site.credentials, "rotate", rotate)
    answer = await site.ask("POST", ROTATE + query, headers=ADMIN, data=body)
    assert (answer.status, answer.json) == (200, {"user": "root", "password": "new"})
    assert calls == [("127.0.0.1", kept)]


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("?keep_logins=maybe", b""),
        ("", b"{"),
        ("", b"[]"),
        ("", b'{"keep_logins": 1}'),
        ("", b'{"keep_login": true}'),
        ("", b"\xff"),
        ("", b"[" * 4000),
        ("?keep_logins=true", b'{"keep_logins": false}'),
        ("?keep_logins=true&keep_logins=false", b""),
        ("?keep_logins=true", b'{"keep_login": true}'),
    ],
)
async def test_rotate_with_an_unreadable_wish(site: Site, query: str, body: bytes) -> None:
    """400, and nothing is rotated: a wrong guess would end or keep all logins."""
    answer = await site.ask("POST", ROTATE + query, headers=ADMIN, data=body)
    assert (answer.status, answer.json["status"]) == (400, 400)


async def test_rotate_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """409 with the hint if it is impossible; 503 while devpi-server doesn't run."""

    async def rotate(address: str, *, keep_logins: bool = False) -> str:
        raise CannotRotate("this is a replica", "rotate at the primary")

    assert (await site.ask("POST", ROTATE, headers=ADMIN)).status == 503
    monkeypatch.setattr(site.credentials, "rotate", rotate)
    answer = await site.ask("POST", ROTATE, headers=ADMIN)
    assert (answer.status, answer.json["hint"]) == (409, "rotate at the primary")


async def test_an_unknown_claimer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim without a known address is reported, too; Retry-After is at least a whole second."""

    async def claim(address: str) -> str:
        raise AlreadyClaimed(datetime(2026, 1, 2, tzinfo=UTC), None)

    async def rotate(address: str, *, keep_logins: bool = False) -> str:
        raise NotYet("soon", 0.2)

    monkeypatch.setattr(site.credentials, "claim", claim)
    monkeypatch.setattr(site.credentials, "rotate", rotate)
    assert (await site.ask("POST", CLAIM, headers=ADMIN)).json["claimed_from"] is None
    assert (await site.ask("POST", ROTATE, headers=ADMIN)).headers["Retry-After"] == "1"


# --- access -----------------------------------------------------------------------------------------------------

WRONG = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer wrong-token-wrong"},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": TOKEN},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Authorization": "Bearer " + "x" * 5000},
    {"Authorization": "Bearer tökén-of-the-admin"},
]


@pytest.mark.parametrize("headers", WRONG)
async def test_wrong_tokens(site: Site, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]) -> None:
    """401 with WWW-Authenticate on every admin route, and the password stays claimable."""
    monkeypatch.setattr(admin_auth, "DELAY", 0.001)
    site.generate_password()
    for method, path in ROUTES:
        answer = await site.ask(method, path, headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json["status"] == 401
    assert (await site.ask("POST", CLAIM, headers=ADMIN)).status == 200


async def test_a_token_in_latin1_bytes(site: Site) -> None:
    """Bytes that aren't UTF-8 are a wrong token, not an error."""
    sent = f"POST {CLAIM} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer ".encode()
    answer = await site.raw(sent + b"t\xf6k\xe9n\xff\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_before_the_token_is_known(site: Site) -> None:
    """The sidecar listens before it has the token from the serverdir: 503 then, without a delay."""
    site.credentials._token = None
    answer = await site.ask("GET", "/bootstrap", headers=ADMIN)
    assert (answer.status, answer.json["title"]) == (503, "not yet")
    assert "Retry-After" in answer.headers
    assert site.web.runner.app[GUARD].rejections.wrong == 0


async def test_two_tokens_are_none(site: Site) -> None:
    """A proxy may check one, and the sidecar the other."""
    sent = f"GET /bootstrap HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    assert (await site.raw(sent + b"\r\n")).startswith(b"HTTP/1.1 200 ")
    answer = await site.raw(sent + b"Authorization: Bearer other\r\n\r\n")
    assert answer.split(b" ")[1] in {b"400", b"401"}


async def test_the_scheme_is_case_insensitive(site: Site) -> None:
    """See RFC 9110."""
    assert (await site.ask("GET", "/bootstrap", headers={"Authorization": f"bearer {TOKEN}"})).status == 200


async def test_wrong_tokens_are_delayed_and_counted(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wrong one is answered late, the right one never."""
    monkeypatch.setattr(admin_auth, "DELAY", 0.2)
    for _ in range(2):
        began = time.monotonic()
        assert (await site.ask("GET", "/bootstrap", headers={"Authorization": "Bearer guess"})).status == 401
        assert time.monotonic() - began >= 0.19
    monkeypatch.setattr(admin_auth, "DELAY", 3600)
    assert (await site.ask("GET", "/bootstrap", headers=ADMIN)).status == 200
    assert site.web.runner.app[GUARD].rejections.wrong == 2
    assert ["wrong admin token from 127.0.0.1 (1 so far)"] == [r.getMessage() for r in caplog.records]
    assert "guess" not in caplog.text


@pytest.mark.alone
async def test_a_flood_of_wrong_tokens(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the maximum of delayed ones, 429 at once and a closed connection; all are counted, and the right token
    from the same address passes at once.
    """
    monkeypatch.setattr(site.web.runner.app[GUARD], "most", 3)
    flood = [
        asyncio.create_task(site.ask("GET", "/bootstrap", headers={"Authorization": "Bearer guess"})) for _ in range(20)
    ]
    done, _ = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    assert {(429, "1")} == {(task.result().status, task.result().headers["Retry-After"]) for task in done}
    begun = time.monotonic()
    assert (await site.ask("GET", "/bootstrap", headers=ADMIN)).status == 200
    assert time.monotonic() - begun < 0.2
    answers = await asyncio.gather(*flood)
    assert [401] * 3 + [429] * 17 == sorted(answer.status for answer in answers)
    assert {answer.headers["Connection"] for answer in answers if answer.status == 429} == {"close"}
    counted = (await site.get("/status")).json["wrong_admin_tokens"]
    assert (counted["total"], counted["turned_away"]) == (20, 17)
    assert counted["last"].endswith("Z")
    assert site.web.runner.app[GUARD]._held_back == 0


async def test_the_log_is_not_flooded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One line in ten seconds, however many sources there are."""
    monkeypatch.setattr(admin_auth, "DELAY", 0.0)
    at = 1000.0
    the_guard = admin_auth.Guard(lambda _: False, lambda: at)
    for number in range(3000):
        at += 0.01
        with pytest.raises(Problem):
            await the_guard._reject(f"10.0.{number % 250}.{number // 250}")
    assert len(caplog.records) == 3
    assert the_guard.rejections.wrong == 3000


HERE = "http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Host: 127.0.0.1:{port}"], 200),  # no browser
        (["Host: 127.0.0.1:{port}", f"Origin: {HERE}"], 200),
        (["Host: 127.0.0.1:{port}", "Origin: http://evil.example"], 403),
        (["Host: 127.0.0.1:{port}", "Origin: null"], 403),
        (["Host:", "Origin: null"], 403),
        (["Host:", "Origin: http://"], 403),
        (["Host:", "Origin:"], 403),
        (["Host: 127.0.0.1:{port}", f"Origin: {HERE}", f"Origin: {HERE}"], 403),
        (["Host: 127.0.0.1:{port}", f"Origin: {HERE}", "Origin: http://evil.example"], 403),
        (["Host: 127.0.0.1:{port}", f"Origin: {HERE}, http://evil.example"], 403),
        (["Host: 127.0.0.1:{port}", "Origin: ftp://127.0.0.1:{port}"], 403),
        (["Host: 127.0.0.1:{port}", "Origin: chrome-extension://127.0.0.1:{port}"], 403),
        (["Host: 127.0.0.1:{port}", "Origin: 127.0.0.1:{port}"], 403),
        (["Host: devpi.example", "Origin: https://devpi.example"], 200),  # a proxy without X-Forwarded-Proto
        (["Host: devpi.example", "Origin: https://devpi.example", "X-Forwarded-Proto: https"], 200),
        (["Host: devpi.example", "Origin: http://devpi.example", "X-Forwarded-Proto: https"], 403),
        (["Host: devpi.example:443", "Origin: https://devpi.example"], 200),
        (["Host: DEVPI.example", "Origin: http://devpi.example:80"], 200),
        (["Host: devpi.example:443", "Origin: http://devpi.example"], 403),
        (["Host: devpi.example:3142", "Origin: https://devpi.example"], 403),
    ],
)
async def test_pages_of_other_origins(site: Site, headers: list[str], status: int) -> None:
    """A browser's request from another site's page is refused, as is any ambiguous one."""
    site.generate_password()
    said = "\r\n".join([f"POST {CLAIM} HTTP/1.1", f"Authorization: Bearer {TOKEN}", "Connection: close", *headers])
    answer = await site.raw(f"{said}\r\n\r\n".format(port=site.web.port).encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer


@pytest.mark.parametrize("token", [None, "guessed"])
async def test_a_rebound_name(site: Site, token: str | None) -> None:
    """A page whose name was rebound to this address has the right Origin, but no token: no browser adds one. Nor
    may it read an answer under another name, because no header allows it.
    """
    site.generate_password()
    headers = {"Host": "evil.example:3142", "Origin": "http://evil.example:3142"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    answer = await site.ask("POST", CLAIM, headers=headers)
    assert answer.status == 401
    assert not [name for name in answer.headers if name.lower().startswith(("access-control-", "set-cookie"))]
    assert site.credentials.root_password.state == "claimable"
