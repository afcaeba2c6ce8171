"""A mirror reports failures of its upstream, also to all indexes that inherit from it."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from sidecar.worker.patches.failures import LONGEST, RETRY_AFTER
from testbed.upstream import CUT, GARBAGE, HANGS, JSON, Fault, Upstream, numbered
from tests.support.container import PATIENCE, Container, call_devpi, cleared_away, login_token, request, wait_for
from tests.support.mirrored import FLAGS, Mirrored, Page, config_of

pytestmark = pytest.mark.slow

DEFAULT = str(RETRY_AFTER)
SOON = {"1", "2", DEFAULT}
"""The Retry-After of an answer for which upstream gave none."""
INDEXES = ("mirror", "dev", "white")
FAILURES = {
    "500": (Fault(500), 503, DEFAULT),
    "503": (Fault(503), 503, DEFAULT),
    "503 with Retry-After": (Fault(503, "7"), 503, "7"),
    "429 with Retry-After": (Fault(429, "9"), 503, "9"),
    "429 for a day": (Fault(429, "86400"), 503, str(LONGEST)),
    "401": (Fault(401), 502, DEFAULT),
    "cut": (CUT, 503, DEFAULT),
    "garbage": (GARBAGE, 502, DEFAULT),
    "silence": (HANGS, 503, DEFAULT),
    "refused": (None, 503, DEFAULT),
}
"""The upstream's behaviour, and the client's first answer."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    """A server with mirrors of one upstream."""
    with (
        Upstream(["cached", "private"], size=1000, versions=2) as upstream,
        cleared_away(Container(tmp_path_factory.mktemp("mirrored"), flags=FLAGS)) as made,
    ):
        yield Mirrored(lambda _, **__: made, upstream)


@pytest.fixture
def mirrored(server: Mirrored) -> Mirrored:
    """A mirror without the list of its upstream's projects, which has cached `cached`; `private` is in all above it."""
    server.upstream.heal()
    mirrored = server.again()
    assert mirrored.page("dev", "cached") == Page(200, 2, None)
    for index in ("dev", "white"):
        mirrored.upload(index, "private")
    return mirrored


_numbers = itertools.count()


@pytest.fixture
def new() -> str:
    """A project of the upstream that was not requested yet."""
    return numbered(next(_numbers))


@pytest.fixture
def fails(mirrored: Mirrored) -> Iterator[Callable[[Fault | None], None]]:
    """Let the upstream fail until the end of the test."""

    def fail(fault: Fault | None) -> None:
        if fault is None:
            mirrored.upstream.refuse()
        mirrored.upstream.page_fault = fault

    yield fail
    mirrored.upstream.heal()


def recovered(mirrored: Mirrored, project: str, files: int = 2, index: str = "dev") -> None:
    """Wait until the upstream is used again."""
    wait_for(lambda: mirrored.page(index, project) == Page(200, files, None), "the page of a healed upstream")


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_is_no_404(mirrored: Mirrored, fails: Callable[[Fault | None], None], new: str, kind: str) -> None:
    """An uncached name with a failing upstream: 502 or 503 with Retry-After, in the mirror and in all that inherit."""
    fault, status, retry_after = FAILURES[kind]
    fails(fault)
    first = mirrored.page("mirror", new)
    assert (first.status, first.files) == (status, 0)
    assert first.retry_after in (SOON if retry_after == DEFAULT else {retry_after})
    for index in INDEXES:
        answer = mirrored.page(index, new)
        assert answer.status in (status, 503), index
        assert answer.files == 0
        assert int(answer.retry_after or 0) >= 1
    assert mirrored.page("dev", "cached") == Page(200, 2, None)
    assert mirrored.page("dev", "private") == Page(200, 1, None)
    if retry_after != str(LONGEST):  # upstream is left alone for a minute then
        mirrored.upstream.heal()
        recovered(mirrored, new)
        for index in INDEXES:
            assert mirrored.page(index, new) == Page(200, 2, None), index


def test_a_cached_page_is_served_stale(mirrored: Mirrored, fails: Callable[[Fault | None], None], new: str) -> None:
    """A page that was fetched before is served, also after its expiry, while the upstream fails."""
    assert mirrored.page("dev", new).files == 2
    mirrored.patch("mirror", mirror_cache_expiry=0)
    fails(Fault(500))
    asked = len(mirrored.upstream.asked)
    for index in INDEXES:
        assert mirrored.page(index, new) == Page(200, 2, None)
    assert asked < len(mirrored.upstream.asked)
    mirrored.patch("mirror", mirror_cache_expiry=1800)


def test_what_upstream_does_not_have_is_404(mirrored: Mirrored) -> None:
    """The upstream's own 404 is a 404, in the mirror and in all that inherit."""
    for index in INDEXES:
        assert mirrored.page(index, "nowhere").status == 404


def test_a_whitelisted_project_fails_with_its_mirror(mirrored: Mirrored, fails: Callable[[Fault | None], None]) -> None:
    """A private project whose name is whitelisted has files of the mirror too: without them its page is incomplete."""
    name = numbered(999)
    fails(Fault(500))
    mirrored.upload("white", name)
    assert mirrored.page("white", name).status == 503
    mirrored.upstream.heal()
    recovered(mirrored, name, 3, "white")


def test_a_project_that_is_private_and_whitelisted_further_down(mirrored: Mirrored) -> None:
    """devpi itself leaves out the mirror's files there, unless they are cached."""
    name = numbered(998)
    mirrored.put("base", bases=[mirrored.name("mirror")])
    mirrored.put("above", bases=[mirrored.name("base")], mirror_whitelist=[name])
    mirrored.upload("base", name)
    assert mirrored.page("above", name) == Page(200, 3, None)


def test_tls_and_passwords(mirrored: Mirrored, new: str) -> None:
    """An upstream whose TLS fails counts as failing; and a client doesn't see the mirror's password."""
    url = mirrored.upstream.url.replace("http://", "https://someone:s3cret@")
    mirrored.put("tls", type="mirror", mirror_url=url, mirror_no_project_list=True)
    mirrored.put("below", bases=[mirrored.name("tls")])
    for index in ("tls", "below"):
        answer = call_devpi(f"{mirrored.devpi}/{mirrored.name(index)}/+simple/{new}/")
        assert (502, DEFAULT) == (answer.status, answer.headers.get("Retry-After"))
        assert b"try again later" in answer.body
        assert b"s3cret" not in answer.body
        assert b"someone" not in answer.body


def test_a_file_of_a_page_that_is_not_cached(mirrored: Mirrored, new: str) -> None:
    """A lock file's URL works on a server that never saw the project's page; a failing upstream is no 404, nor 500."""
    answer = request(f"{mirrored.devpi}/{mirrored.name('dev')}/+simple/{new}/", accept=JSON)
    path = urljoin(f"/{mirrored.name('dev')}/+simple/{new}/", answer.json["files"][0]["url"])
    other = mirrored.again(project_list=True)
    url = mirrored.devpi + path.replace(mirrored.name("mirror"), other.name("mirror"))
    other.upstream.list_fault, other.upstream.page_fault = Fault(500), Fault(503, "30")
    answer = request(url)
    assert (503, True) == (answer.status, int(answer.headers.get("Retry-After", "0")) > 0), answer
    third = mirrored.again(project_list=True)
    url = mirrored.devpi + path.replace(mirrored.name("mirror"), third.name("mirror"))
    third.upstream.page_fault = None
    assert request(url).status == 200
    third.upstream.heal()


def test_a_name_that_is_asked_for_otherwise_is_not_forgotten(listed: Mirrored) -> None:
    """Without a list, devpi's JSON of a project does not make it "not found" for half an hour."""
    listed.upstream.list_fault = Fault(500)
    call_devpi(f"{listed.devpi}/{listed.name('mirror')}/{numbered(5)}?ignore_bases=1")
    assert listed.page("dev", numbered(5)) == Page(200, 2, None)


def test_versions_are_not_hidden_either(mirrored: Mirrored, fails: Callable[[Fault | None], None], new: str) -> None:
    """`devpi list`, which requests JSON, shows the failure too."""
    fails(Fault(503, "7"))
    answer = call_devpi(f"{mirrored.devpi}/{mirrored.name('dev')}/{new}", token=mirrored.token)
    assert (503, "7") == (answer.status, answer.headers.get("Retry-After"))
    assert "try again later" in answer.json["message"]


def test_nobody_waits_for_what_came_to_nothing(
    mirrored: Mirrored, fails: Callable[[Fault | None], None], new: str
) -> None:
    """A request that the upstream never answered ends with its connection: the next one does not wait for it."""
    fails(HANGS)
    assert mirrored.page("dev", new).status == 503
    mirrored.upstream.heal()
    recovered(mirrored, new)


def test_no_list_of_projects_is_asked_for(mirrored: Mirrored) -> None:
    """Neither by pages nor by the listing, which shows the cached names."""
    asked = mirrored.upstream.asked.count("/simple/")  # by probes
    listing = call_devpi(f"{mirrored.devpi}/{mirrored.name('mirror')}/+simple/", token=mirrored.token)
    assert b"cached" in listing.body
    assert mirrored.upstream.asked.count("/simple/") == asked


# --- with the list of projects --------------------------------------------------------------------------------------


@pytest.fixture
def listed(container: Callable[..., Container]) -> Iterator[Mirrored]:
    """A mirror that keeps the list of its upstream's projects."""
    with Upstream(["private"], size=20, versions=2) as upstream:
        yield Mirrored(container, upstream, project_list=True)


def asked(mirrored: Mirrored, project: str) -> int:
    """Return how often the upstream was asked for a page."""
    return mirrored.upstream.asked.count(f"/simple/{project}/")


def test_a_fresh_list_decides(listed: Mirrored) -> None:
    """Upstream is not asked for a name that its list lacks."""
    assert listed.page("dev", numbered(1)) == Page(200, 2, None)
    wait_for(lambda: "/simple/" in listed.upstream.asked and listed.page("dev", "nowhere").status == 404, "the list")
    wait_for(lambda: list_of(listed)["list"]["state"] == "fresh", "the list")
    before = asked(listed, "nowhere-else")
    for index in INDEXES:
        assert listed.page(index, "nowhere-else").status == 404
        assert listed.page(index, numbered(2)) == Page(200, 2, None)
    assert asked(listed, "nowhere-else") == before == 0


def list_of(mirrored: Mirrored) -> dict[str, Any]:
    """Return what `/status` says of the upstream."""
    (upstream,) = mirrored.container.status()["mirrors"]["upstreams"]
    found: dict[str, Any] = upstream
    return found


def test_without_a_list_names_are_asked_for(listed: Mirrored) -> None:
    """A list that fails hides no project: 404 is upstream's own word."""
    listed.upstream.list_fault = Fault(500)
    for index in INDEXES:
        assert listed.page(index, numbered(1)) == Page(200, 2, None), index
        assert listed.page(index, "nowhere").status == 404, index
    assert asked(listed, "nowhere") >= 1


def test_another_upstream_is_asked_at_once(mirrored: Mirrored) -> None:
    """A change of mirror_url: what the old one lacked, and what is cached of it, is not taken for the new one's."""
    assert mirrored.page("dev", "elsewhere").status == 404
    with Upstream(["cached", "elsewhere"], versions=3) as other:
        mirrored.patch("mirror", mirror_url=other.url)
        assert mirrored.page("dev", "elsewhere") == Page(200, 3, None)
        assert mirrored.page("dev", "cached") == Page(200, 3, None)
    mirrored.patch("mirror", mirror_url=mirrored.upstream.url)


def test_without_a_list_private_names_stay_here(listed: Mirrored) -> None:
    """A name of another index of this server is not sent upstream: 503 until the list is there."""
    listed.upstream.list_fault = Fault(500)
    listed.put("other")
    listed.upload("other", "secret-project")
    for index in INDEXES:
        assert listed.page(index, "secret-project").status == 503
    assert listed.page("other", "secret-project") == Page(200, 1, None)
    assert asked(listed, "secret-project") == 0
    listed.upstream.heal()
    wait_for(lambda: listed.page("dev", "secret-project").status == 404, "the list")
    assert asked(listed, "secret-project") == 0


def test_all_names_can_wait_for_the_list(container: Callable[..., Container]) -> None:
    """DEVPI_MIRROR_UNKNOWN=wait: no name goes upstream before the list is there."""
    with Upstream(size=20, versions=2) as upstream:
        upstream.list_fault = Fault(500)
        environ = {"DEVPI_MIRROR_UNKNOWN": "wait"}
        mirrored = Mirrored(
            lambda *names, **named: container(*names, env=environ, **named), upstream, project_list=True
        )
        for name in (numbered(1), "nowhere"):
            assert mirrored.page("dev", name).status == 503
            assert asked(mirrored, name) == 0
        upstream.heal()
        recovered(mirrored, numbered(1))
        assert mirrored.page("dev", "nowhere").status == 404
        assert asked(mirrored, "nowhere") == 0


def test_a_list_is_there_after_a_restart(listed: Mirrored) -> None:
    """It decides at once, also if upstream can't be reached."""
    listed.page("dev", "nowhere")
    wait_for(lambda: list_of(listed)["list"]["state"] == "fresh", "the list")
    assert listed.container.stop() == 0
    listed.upstream.refuse()
    listed.container.start().wait_ready()
    listed.devpi = listed.container.devpi
    assert listed.page("dev", "nowhere").status == 404
    assert listed.page("dev", numbered(3)).status == 503


def test_the_listing_is_that_of_upstream(listed: Mirrored) -> None:
    """It has all names of the list, in the mirror and in what inherits from it."""
    listed.upload("dev", "of-our-own")
    for index, own in (("mirror", set()), ("dev", {"of-our-own"})):
        answer = request(f"{listed.devpi}/{listed.name(index)}/+simple/", accept=JSON)
        names = [project["name"] for project in answer.json["projects"]]
        assert sorted(names) == sorted({*listed.upstream.names()} | own)


# --- the clients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["pip", "uv"])
def test_clients_get_over_an_outage(mirrored: Mirrored, tmp_path: Path, new: str, client: str) -> None:
    """pip and uv retry, and get the package in the end: the upstream refuses the first two requests."""
    index = f"{mirrored.devpi}/{mirrored.name('dev')}/+simple/"
    command = {
        "pip": [sys.executable, "-m", "pip", "--no-cache-dir", "--disable-pip-version-check"],
        "uv": [str(Path(sys.executable).with_name("uv")), "--no-cache", "--no-config"],
    }[client]
    arguments = {
        "pip": ["download", "--no-deps", "-d", str(tmp_path), "-i", index, new],
        "uv": ["pip", "install", "--no-deps", "--target", str(tmp_path), "--default-index", index, new],
    }[client]
    mirrored.upstream.refuse()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "UV_PYTHON": sys.executable,
        "PIP_CONFIG_FILE": os.devnull,  # it may contain a registry
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        running = subprocess.Popen([*command, *arguments], env=environ, stdout=output, stderr=output, cwd=tmp_path)
    try:
        page = f"/{mirrored.name('dev')}/+simple/{new}/"
        wait_for(lambda: mirrored.container.log.count(page) >= 2 or running.poll() is not None, "a second request")
        mirrored.upstream.heal()
        assert running.wait(PATIENCE) == 0, log.read_text()
    finally:
        running.kill()
        running.wait()
        mirrored.upstream.heal()


# --- a new root/pypi ------------------------------------------------------------------------------------------------


OFFLINE = ("--host", "127.0.0.1", "--port", "0", "--offline-mode")


def test_mirrors_without_a_list_are_named(container: Callable[..., Container]) -> None:
    """An imported mirror keeps its list; once it has none, the log, /status and the command line note that."""
    with Upstream(size=3) as upstream:
        c = container(flags=(*FLAGS[:4], "--request-timeout", "2"), env={"DEVPI_PASSWORD": "of-root"})
        config = {"type": "mirror", "volatile": True, "mirror_url": upstream.url, "title": "PyPI"}
        index = {"indexconfig": config, "projects": {}, "files": []}
        data = {"dumpversion": "2", "users": {"root": {"pwhash": None}}, "indexes": {"root/pypi": index}}
        (c.init_dir / "export").mkdir(parents=True)
        (c.init_dir / "export" / "dataindex.json").write_text(json.dumps(data))
        c.start().wait_ready()
        assert config_of(c, "root/pypi")["mirror_url"] == upstream.url
        mirrors = wait_for(lambda: c.status()["mirrors"], "the report of the mirrors")
        assert mirrors["without_list"] == {"total": 0, "indexes": []}
        assert mirrors["notes"] == []
        token = login_token(c.devpi, "of-root")
        change = "mirror_no_project_list=true"
        assert call_devpi(f"{c.devpi}/root/pypi", "PATCH", [change], token=token).status == 200
        wait_for(lambda: c.status()["mirrors"]["without_list"]["total"] == 1, "the changed report")
        assert "names of other indexes and typos" in c.status()["mirrors"]["notes"][0]
        assert re.search(r"INFO\S* +\[sidecar\.features\.mirror\.following\] root/pypi has no list", c.log)
        assert "mirror: root/pypi has no list" in c.sidecar("status").stdout
        assert call_devpi(f"{c.devpi}/root/pypi/+simple/{numbered(1)}/").status == 200
        assert "/simple/" not in upstream.asked


def test_offline_is_not_a_failure(container: Callable[..., Container]) -> None:
    """--offline-mode: uncached projects don't exist, as in plain devpi-server, and there are no notes on mirrors."""
    c = container(flags=OFFLINE, env={"DEVPI_PASSWORD": "of-root"}).start().wait_ready()
    token = login_token(c.devpi, "of-root")
    assert call_devpi(f"{c.devpi}/root/dev", "PUT", {"bases": ["root/pypi"]}, token=token).status == 200
    assert call_devpi(f"{c.devpi}/root/dev/+simple/some-name/").status == 404
    assert c.status()["mirrors"] is None
