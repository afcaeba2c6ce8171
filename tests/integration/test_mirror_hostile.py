"""A mirror of a hostile upstream: nothing hangs, grows, leaks, or serves wrong bytes."""

from __future__ import annotations

import http.client
import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from testbed import upstream_faults as faults
from testbed import upstream_pages as pages
from testbed.upstream import JSON, PYPI_NAMES, Fault, Project, Upstream, numbered
from tests.support.container import PATIENCE, Answer, Container, cleared_away, request, wait_for
from tests.support.mirrored import Mirrored, Page

pytestmark = pytest.mark.slow

FLAGS = ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--request-timeout", "5")
MIB = 2**20
GROWTH = 256 * MIB
"""Bytes that devpi-server's memory may grow by: several times the largest page (DEVPI_MIRROR_MAX_PAGE_SIZE)."""
LATER = (502, 503, 504)
SECRET = b"sw0rdfish-in-a-local-file"
TRICKS = {
    "wrong-digest": Project(wrong_digest=True),
    "changes": Project(changes=True),
    "parent": Project(filename="../../parent-1.0.tar.gz"),
    "encoded-parent": Project(filename="..%2f..%2fencoded-parent-1.0.tar.gz"),
    "other": Project(filename="another_project-1.0.tar.gz"),
    "long": Project(filename=f"long-{'1' * 5000}.tar.gz"),
    "script": Project(filename='script-1.0"><script>alert(1)</script>.tar.gz'),
    "many": Project(versions=12_000),
}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    """A mirror without a list of projects; `private` is in `dev`."""
    with (
        Upstream(["cached"], size=2000, projects=TRICKS) as upstream,
        cleared_away(Container(tmp_path_factory.mktemp("hostile"), flags=FLAGS)) as made,
    ):
        mirrored = Mirrored(lambda _, **__: made, upstream)
        mirrored.upload("dev", "private")
        assert mirrored.page("dev", "cached") == Page(200, 1, None)
        yield mirrored


@pytest.fixture
def bounded(mirrored: Mirrored) -> Iterator[None]:
    """devpi-server is the same process afterwards, has not grown beyond the bound, and works."""
    pid = mirrored.container.devpi_pid
    before = peak(pid)
    yield
    mirrored.upstream.heal()
    wait_for(lambda: mirrored.page("dev", numbered(next(_numbers))).status == 200, "a page after the fault", 60)
    assert pid == mirrored.container.devpi_pid
    assert mirrored.page("dev", "private") == Page(200, 1, None)
    assert (peak(pid) - before) / MIB <= GROWTH / MIB


def peak(pid: int) -> int:
    """Return the peak resident bytes of a process so far."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def files_of(mirrored: Mirrored, project: str, index: str = "dev") -> tuple[Answer, dict[str, str]]:
    """Request a page; return the answer, and file name → URL."""
    url = f"{mirrored.devpi}/root/{index}/+simple/{project}/"
    answer = request(url, accept=JSON)
    files = answer.json["files"] if answer.status == 200 else []
    return answer, {each["filename"]: urljoin(url, each["url"]) for each in files}


def download(url: str) -> tuple[int, bytes, bool]:
    """Return status, body, and whether the body is whole by its length."""
    split = urlsplit(url)
    connection = http.client.HTTPConnection(split.netloc, timeout=PATIENCE)
    try:
        connection.request("GET", split.path)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read(), True
        except http.client.IncompleteRead as error:
            return answer.status, error.partial, False
    finally:
        connection.close()


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ENDLESS", "BOMB", "DEEP", "DRIPS"])
@pytest.mark.usefixtures("bounded")
def test_a_page_without_bounds(mirrored: Mirrored, kind: str) -> None:
    """It is a failure within seconds, and devpi-server's memory stays bounded."""
    mirrored.upstream.page_fault = getattr(faults, kind)
    for _ in range(2):
        answer = mirrored.page("dev", numbered(next(_numbers)))
        assert answer.status in LATER
        assert answer.retry_after is not None


@pytest.mark.parametrize("kind", ["ENDLESS", "BOMB", "DEEP"])
@pytest.mark.usefixtures("bounded")
def test_a_list_without_bounds(mirrored: Mirrored, kind: str) -> None:
    """The same of the list of projects, without which names are asked for one by one."""
    mirrored.upstream.list_fault = getattr(faults, kind)
    mirrored.put("listed", type="mirror", mirror_url=mirrored.upstream.url, mirror_no_project_list=False)
    try:
        assert mirrored.page("listed", numbered(next(_numbers))) == Page(200, 1, None)
        assert mirrored.page("listed", "nowhere").status in (404, *LATER)
    finally:
        mirrored.delete("listed")


@pytest.mark.usefixtures("bounded")
def test_a_page_of_twelve_thousand_files(mirrored: Mirrored) -> None:
    """It is large, and served."""

    def look() -> int | None:
        answer, files = files_of(mirrored, "many")
        assert answer.status in (200, *LATER)
        return len(files) if answer.status == 200 else None

    assert 12_000 == wait_for(look, "the page", 120)


@pytest.mark.usefixtures("bounded")
def test_an_endless_file(mirrored: Mirrored) -> None:
    """A body that is longer than it should be is never served as a whole file."""
    name = numbered(next(_numbers))
    _, files = files_of(mirrored, name)
    mirrored.upstream.file_fault = faults.ENDLESS
    (url,) = files.values()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    try:
        connection.request("GET", urlsplit(url).path)
        answer = connection.getresponse()
        body = answer.read(64 * MIB)  # then the client leaves
        assert answer.status != 200 or body == held(name) or len(body) == 64 * MIB
    finally:
        connection.close()


def held(name: str) -> bytes:
    """Return the bytes of a project's first file as upstream has them."""
    return pages.wheel(name, "1.0").content


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_a_digest_that_does_not_match(mirrored: Mirrored) -> None:
    """No client gets the file as a whole, at the first request or later."""
    _, files = files_of(mirrored, "wrong-digest")
    (url,) = files.values()
    for _ in range(3):
        status, body, whole = download(url)
        assert status != 200 or not whole, (status, len(body))


def test_a_file_that_changes(mirrored: Mirrored) -> None:
    """Each client that gets a whole file gets the bytes of the digest on the page."""
    _, files = files_of(mirrored, "changes")
    (url,) = files.values()
    answers = [download(url) for _ in range(4)]
    assert {held("changes")} == {body for status, body, whole in answers if status == 200 and whole}
    assert 200 == answers[0][0]


@pytest.mark.parametrize("fault", [faults.CUT, faults.LOGIN_PAGE, faults.IMAGE, Fault(500), faults.LOOP])
def test_a_file_that_is_something_else(mirrored: Mirrored, fault: Fault) -> None:
    """No client gets that as the file; later the right one is served."""
    name = numbered(next(_numbers))
    _, files = files_of(mirrored, name)
    (url,) = files.values()
    mirrored.upstream.file_fault = fault
    try:
        status, body, whole = download(url)
        assert status != 200 or not whole, (status, body[:100])
        assert status != 404
    finally:
        mirrored.upstream.heal()
    assert (200, held(name), True) == wait_for(lambda: _right(url), "the file after the fault", 60)


def _right(url: str) -> tuple[int, bytes, bool] | None:
    answer = download(url)
    return answer if answer[0] == 200 and answer[2] else None


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("project", ["parent", "encoded-parent", "other", "long", "script"])
def test_names_of_files(mirrored: Mirrored, project: str) -> None:
    """A name that is no file name of the project: no 500, nothing outside of devpi's folder, no markup on the page."""
    answer, files = files_of(mirrored, project)
    assert answer.status in (200, *LATER)
    for url in files.values():
        assert f"{urlsplit(mirrored.devpi).netloc}" == urlsplit(url).netloc
        assert urlsplit(url).path.startswith("/root/mirror/"), url
        assert download(url)[0] < 600
    shown = request(f"{mirrored.devpi}/root/dev/+simple/{project}/", accept="text/html")
    assert b"<script>" not in shown.body
    home = mirrored.container.home
    for name in ("parent-1.0.tar.gz", "encoded-parent-1.0.tar.gz"):
        outside = [path for path in home.rglob(f"*{name}*") if "+files" not in path.parts]
        assert [] == outside


def test_a_file_of_this_machine(mirrored: Mirrored, tmp_path: Path) -> None:
    """A link to `file://` is not followed: the bytes of a local file are never served."""
    (tmp_path / "local-1.0.tar.gz").write_bytes(SECRET)
    mirrored.upstream.projects["cached"] = Project(filename="local-1.0.tar.gz", files_at=f"file://{tmp_path}/")
    name = numbered(next(_numbers))
    mirrored.upstream.projects[name] = Project(filename=f"{name}-1.0.tar.gz", files_at=f"file://{tmp_path}/")
    (tmp_path / f"{name}-1.0.tar.gz").write_bytes(SECRET)
    answer, files = files_of(mirrored, name)
    assert answer.status in (200, *LATER)
    for url in files.values():
        status, body, _ = download(url)
        assert status >= 400
        assert SECRET not in body
    redirected = numbered(next(_numbers))
    _, files = files_of(mirrored, redirected)
    mirrored.upstream.file_fault = Fault(location=f"file://{tmp_path}/local-1.0.tar.gz")
    try:
        for url in files.values():
            status, body, _ = download(url)
            assert status >= 400
            assert SECRET not in body
    finally:
        mirrored.upstream.heal()


def test_secrets_stay_here(mirrored: Mirrored) -> None:
    """User and password of the mirror's URL are sent to its own origin only: not to another port, not into the log."""
    with Upstream(size=3) as other, Upstream(size=3) as own:
        own.files_at = other.url.replace("/simple/", "/files/")
        mirrored.put("secret", type="mirror", mirror_url=own.url.replace("//", "//someone:s3cr3t@"))
        mirrored.patch("secret", mirror_no_project_list=True)
        own.user = "someone:s3cr3t"
        answer, files = files_of(mirrored, numbered(0), "secret")
        assert 200 == answer.status
        for url in files.values():
            assert 200 == download(url)[0]
        own.page_fault = Fault(location=other.url + numbered(1) + "/")
        files_of(mirrored, numbered(1), "secret")
        assert own.authorised
        assert [] == other.authorised
        own.page_fault = Fault(500)
        files_of(mirrored, numbered(2), "secret")
    assert "s3cr3t" not in mirrored.container.log


def test_pypi_with_a_tenth_invalid(container: Callable[..., Container]) -> None:
    """650,000 names of which a tenth is invalid: the right answers within bounds, and a listing without odd links."""
    with Upstream(size=PYPI_NAMES, one_invalid_in=10, delay=0.03) as upstream:
        mirrored = Mirrored(container, upstream, project_list=True)
        pid = mirrored.container.devpi_pid
        began = time.monotonic()
        for _ in range(6):
            assert mirrored.page("dev", numbered(next(_numbers))) == Page(200, 1, None)
        print(f"six pages in {time.monotonic() - began:.1f} s")
        assert mirrored.page("dev", "nowhere").status == 404
        wait_for(lambda: upstream.count("/simple/"), "a request for the list")
        listing = wait_for(lambda: _listing(mirrored), "the whole listing")
        odd = [
            link for link in re.findall(rb'href="([^"]*)"', listing) if not re.fullmatch(rb"[a-z0-9][a-z0-9.-]*/", link)
        ]
        assert [] == odd[:5]
        assert b"<script>" not in listing
        assert peak(pid) / MIB <= GROWTH / MIB


def _listing(mirrored: Mirrored) -> bytes | None:
    _, body, whole = download(f"{mirrored.devpi}/root/mirror/+simple/")
    return body if whole and body.count(b"href=") > PYPI_NAMES / 2 else None
