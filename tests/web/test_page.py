"""`/` for browsers: complete without a script, and safe with hostile input."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from sidecar.core.check import NOT_RUNNING, NOT_YET, Check, CheckStatus
from sidecar.core.lifecycle import DevpiInfo, Failure, Lifecycle, Notice, Phase, now
from sidecar.core.surroundings import Surroundings
from sidecar.devpi.client import DevpiClient
from sidecar.devpi.server_status import Replica, ServerStatus
from sidecar.features.bootstrap.import_status import Archive, Count, ImportFailure, ImportState, ImportStatus, LeftOut
from sidecar.features.credentials.password_status import (
    PasswordChange,
    RootPassword,
    RootPasswordStatus,
    UnusablePasswords,
)
from sidecar.features.health.checks.disk import Space
from sidecar.features.health.monitor import Serving
from sidecar.features.mirror.following import Mirrors, Named
from sidecar.features.numbers.amounts import Contents, Numbers, Served
from sidecar.storage.usage import Used
from sidecar.web.context import CONTEXT
from sidecar.web.page import assets, guide, report, stream
from sidecar.web.page.checklist import checklist
from sidecar.web.page.headline import Verdict
from sidecar.web.page.rendering import section
from sidecar.web.page.tally import tally
from tests.support.fake_devpi import UUID, eventually
from tests.support.upstreams import seen_failing, seen_up, upstreams_of
from tests.web.conftest import PASSWORD, TOKEN, Site

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
BUDGET = 60_000
"""Bytes of the page and everything that it loads."""
SERVER = DevpiInfo("6.20.3", "standalone", ("http://0.0.0.0:3141",))


class Outline(HTMLParser):
    """Collects elements and text of a page; checks that every element is closed."""

    VOID = frozenset({"meta", "link", "input", "br", "path", "rect", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert [] == self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert tag == self._open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


async def page(site: Site, **headers: str) -> Outline:
    answer = await site.get("/", **HTML, **headers)
    assert 200 == answer.status
    return Outline(answer.body.decode())


async def test_who_gets_what(site: Site) -> None:
    """Browsers get the page; curl, and clients without `Accept`, the list of paths."""
    for accept, kind in (
        (HTML["Accept"], "text/html"),
        ("TEXT/HTML;q=0.9", "text/html"),
        ("*/*", "text/plain"),
        ("application/json", "text/plain"),
    ):
        answer = await site.get("/", Accept=accept)
        assert kind == answer.headers["Content-Type"].partition(";")[0]
        assert "Accept" == answer.headers["Vary"]
    assert b"/bootstrap/root-password" in (await site.get("/")).body
    head = await site.ask("HEAD", "/", headers=HTML)
    assert (200, b"") == (head.status, head.body)


def test_the_start_does_not_import_it() -> None:
    """Jinja2 and the sections are imported with the first page."""
    code = "import sys, sidecar.container.main; print({'jinja2', 'sidecar.web.page.report'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "set()\n" == done.stdout


async def test_a_page_that_could_not_be_loaded_is_loaded_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason may be short-lived, such as a lack of descriptors."""

    def fail() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(stream, "_load", fail)
        assert 500 == (await site.get("/", **HTML)).status
    assert 200 == (await site.get("/", **HTML)).status


async def test_it_loads_nothing_from_elsewhere(site: Site) -> None:
    """Every address on the page is the sidecar's own, the policy allows no other, and the total is small."""
    answer = await site.get("/", **HTML)
    policy = dict(each.strip().partition(" ")[::2] for each in answer.headers["Content-Security-Policy"].split(";"))
    assert "'none'" == policy["default-src"]
    assert {"'self'"} == {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")}
    assert {"'none'"} == {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")}
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "no-referrer" == answer.headers["Referrer-Policy"]
    outline = Outline(answer.body.decode())
    assert not {name for _, name, _ in outline.attributes if name.startswith("on") or name == "style"}
    loaded = [value for tag, name, value in outline.attributes if tag in ("link", "script") and name in ("href", "src")]
    total = len(answer.body)
    assert 3 == len(loaded)
    for address in loaded:
        assert address is not None
        asset = await site.get(f"/{address}")
        assert 200 == asset.status
        total += len(asset.body)
        assert not re.search(rb"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", asset.body)
    assert total <= BUDGET


async def test_whole_without_a_script(site: Site) -> None:
    """The page has the headline, the phases with durations, each check with verdict and value, and the versions."""
    site.lifecycle.learn(SERVER)
    await site.become_ready()
    await eventually(lambda: {CheckStatus.PASS} == {check.status for check in site.board.checks()})
    text = (await page(site)).text
    assert "Ready devpi-server serves. All checks pass." in text
    assert re.search(r"starting [\d.]+ s launching [\d.]+ s ready since \d\d:\d\d:\d\d", text)
    for check in site.board.checks():
        assert re.search(rf"{check.name} .*?✓ pass", text)
    assert re.search(r"http devpi-server answers, and how fast ✓ pass since \d\d:\d\d:\d\d [\d.]+ ms", text)
    assert "devpi-server 6.20.3 , standalone" in text
    assert "devpi-sidecar 1.2.3" in text


async def test_a_running_import(site: Site) -> None:
    """It shows the bar, the counts, the rate and the time left; no number is negative or above the total."""
    site.lifecycle.enter(Phase.IMPORTING)
    loading = ImportStatus(
        ImportState.LOADING,
        (Archive("backup.bz2", 12_345_678, "ab" * 32),),
        files=Count(512, 2000),
        projects=Count(128, 500),
        users=Count(1, 3),
        bytes=Count(3_000_000, 12_000_000),
        current="alice/dev/hello",
        rate=180.5,
        eta_seconds=8.24,
    )
    site.tell(imported=loading)
    outline = await page(site)
    for words in ("Importing", "Step 2 of 3: loading 25 %", "180 files/s about 8.2 s left", "alice/dev/hello",
                  "Files 512 of 2,000", "3.0 MB of 12.0 MB", "backup.bz2 , 12.3 MB"):  # fmt: skip
        assert words in outline.text
    assert {("progress", "max", "2000"), ("progress", "value", "512")} <= set(outline.attributes)
    site.tell(imported=replace(loading, files=Count(2100, 2000)))
    assert ("progress", "value", "2000") in (await page(site)).attributes
    site.tell(imported=ImportStatus(ImportState.PENDING))
    assert "progress" in (await page(site)).tags


async def test_a_failed_import(site: Site) -> None:
    """It shows where, why, and what to do; no path on disk."""
    site.lifecycle.enter(Phase.IMPORTING)
    error = ImportFailure("can't read '/srv/secret place/x'", "look at it", "backup.bz2", "alice/dev/x-1.tar.gz")
    site.tell(imported=ImportStatus(ImportState.FAILED, error=error))
    site.lifecycle.enter(Phase.FAILED, Failure("the import failed", "see its archive"))
    text = (await page(site)).text
    for words in ("The import failed File backup.bz2 Member alice/dev/x-1.tar.gz Why can't read <path>",
                  "What to do look at it Then restart", "Or start empty"):  # fmt: skip
        assert 1 == text.count(words)
    assert 1 == text.count("can't read")
    assert "secret" not in text
    assert "see its archive" not in text
    assert "data-state" not in str((await page(site)).attributes)


async def test_a_failure_of_later_is_not_the_imports(site: Site) -> None:
    """The record of an earlier failed import does not explain a later failure."""
    site.tell(imported=ImportStatus(ImportState.FAILED, error=ImportFailure("no archive", "fix it")))
    await site.become_ready()
    site.lifecycle.enter(Phase.FAILED, Failure("devpi-server was ended by SIGKILL", "raise the memory limit"))
    assert "Failed devpi-server was ended by SIGKILL What to do: raise the memory limit" in (await page(site)).text


async def test_not_ready_says_why(site: Site) -> None:
    """devpi-server was killed: the headline contains the check and its reason."""
    await site.become_ready()
    site.health.process_ended("devpi-server was ended by SIGKILL", "raise the memory limit")
    text = (await page(site)).text
    assert "Not ready process: devpi-server was ended by SIGKILL What to do: raise the memory limit ready since" in text
    assert 7 == text.count("devpi-server is not running")  # six checks, and the headline
    assert "http devpi-server answers, and how fast devpi-server is not running" in text


async def test_what_is_read_out(site: Site) -> None:
    """Only the verdict is a status: a screen reader reads it out whenever it changes."""
    await site.become_ready()
    await eventually(lambda: {CheckStatus.PASS} == {check.status for check in site.board.checks()})
    site.health.process_ended("devpi-server exited 8 s ago")
    answer = await site.get("/", **HTML)
    assert b'<div id="verdict" data-section role="status" class="hidden">Not ready: process</div>' in answer.body
    assert b'<div id="headline" data-section>' in answer.body


async def test_where_else_to_look(site: Site) -> None:
    """The footer's links work."""
    outline = await page(site)
    links = [value for tag, name, value in outline.attributes if (tag, name) == ("a", "href")]
    assert {"status", "health", "readyz?verbose", "metrics", "docs", "openapi.json"} == set(links)
    for link in links:
        assert (await site.get(f"/{link}", Accept="*/*")).status in (200, 503)


async def test_what_keeps_it_from_being_ready_is_no_launching(site: Site) -> None:
    """devpi-server runs, but an empty password does not go away by itself: reason and hint are shown."""
    site.lifecycle.enter(Phase.LAUNCHING)
    assert "Launching devpi-server is starting." in (await page(site)).text
    site.root_password("empty", allowed=False)
    text = (await page(site)).text
    assert "Not ready root-password: root's password is empty What to do: run sidecar rotate" in text
    assert "devpi-server is starting" not in text


async def test_a_devpi_that_does_not_listen_yet_is_launching(site: Site) -> None:
    """Waiting is enough: the headline shows launching, the checks show the progress."""
    client = DevpiClient(await site.devpi.start(), 1)
    await site.devpi.stop()
    (site.folder / ".sidecar").mkdir()
    site.lifecycle.enter(Phase.LAUNCHING)
    site.root_password("set", allowed=False)
    site.health.probe(Serving(os.getpid(), client, site.folder, UUID, "replica", lambda: None))
    await eventually(lambda: "has not listened" in str(site.board.checks()))
    text = (await page(site)).text
    await client.close()
    assert "Launching devpi-server is starting." in text
    assert "launching: devpi-server has not listened for" in text
    assert "… pending" in text
    assert "✕" not in text


@pytest.mark.parametrize("state", list(RootPassword))
async def test_root_password(site: Site, state: RootPassword) -> None:
    """The page shows its state and when; never the password, the token, or the claim's address."""
    site.generate_password()
    claimed_from = "10.0.3.7"
    status = RootPasswordStatus(state, now() + timedelta(hours=1), now(), claimed_from, PasswordChange.HERE)
    if state is RootPassword.UNKNOWN:
        site.tell(root_password=replace(status, change=PasswordChange.NOT_NOW))
        assert "data-state" not in str((await page(site)).attributes)  # unknown: nothing is shown
    site.tell(root_password=status)
    site.lifecycle.enter(Phase.LAUNCHING)
    answer = await site.get("/", **HTML)
    assert f'data-state="{state}"'.encode() in answer.body
    assert not [secret for secret in (PASSWORD, TOKEN, claimed_from) if secret.encode() in answer.body]


async def test_what_an_import_has_left_out(site: Site) -> None:
    """The page shows the count, and the first names with the reason; nothing if nothing was left out."""
    site.tell(imported=ImportStatus(ImportState.COMPLETED))
    assert "left out" not in (await page(site)).text
    left_out = tuple(LeftOut("backup.bz2", f"../x{number}", "leads out") for number in range(10))
    site.tell(imported=ImportStatus(ImportState.COMPLETED, left_out_total=12, left_out=left_out))
    text = (await page(site)).text
    assert "12 left out, not safe to load" in text
    assert "../x9" in text
    assert "leads out" in text
    assert "and 2 more" in text


async def test_users_who_need_a_new_password(site: Site) -> None:
    """The page shows the count, the first names, and what to do; nothing if there are none."""
    site.lifecycle.enter(Phase.LAUNCHING)
    site.tell(unusable_passwords=UnusablePasswords(0))
    assert "log in" not in (await page(site)).text
    site.tell(unusable_passwords=UnusablePasswords(1, ("alice",)))
    assert "1 user needs a new password" in (await page(site)).text
    site.tell(unusable_passwords=UnusablePasswords(25, tuple(f"user{n}" for n in range(20))))
    text = (await page(site)).text
    assert "25 users need a new password" in text
    assert "user19 and 5 more" in text
    assert "devpi passwd NAME" in text


async def test_notices(site: Site) -> None:
    """The page shows the first notices, with what to do; no section without notices."""
    assert "Notices" not in (await page(site)).text
    site.lifecycle.notice(
        *(Notice("variable", f"the variable DEVPI_X{n} is not known", "rename it") for n in range(23))
    )
    text = (await page(site)).text
    assert "Notices the variable DEVPI_X0 is not known What to do: rename it" in " ".join(text.split())
    assert "DEVPI_X19 " in text
    assert "DEVPI_X20" not in text
    assert "and 3 more" in text


async def test_mirrors(site: Site) -> None:
    """The page shows each upstream with its last error and what to do; nothing without mirrors."""
    site.tell(mirrors=Mirrors())
    assert "Upstreams" not in (await page(site)).text
    seen = upstreams_of(seen_up("root/pypi"), seen_failing("x/y"))
    site.tell(mirrors=Mirrors(3, seen, Named(25, tuple(f"a/m{n}" for n in range(20)))))
    outline = await page(site)
    text = " ".join(outline.text.split())
    assert "root/pypi https://index.example ✓ up" in text
    assert "650,123 projects in its list" in text
    assert "1,323 of 1,388 from the cache" in text
    assert "x/y https://index.example.com:8443 ✕ down never no list not used yet" in text
    assert "the certificate is not signed by a trusted CA What to do: set DEVPI_MIRROR_CA" in text
    assert "It is not asked before 10:41:22 UTC." in text
    assert "and 1 more" in text
    assert "a/m19 and 5 more have no list" in text
    assert "`" not in outline.text


@pytest.mark.filterwarnings("ignore:pkg_resources is deprecated:DeprecationWarning")  # pip warns of itself
@pytest.mark.parametrize(
    ("host", "outside", "addresses", "url", "trust"),
    [
        ("devpi.example:3142", None, ("http://0.0.0.0:3141",), "http://devpi.example:3141", "devpi.example"),
        ("localhost:3142", None, ("http://0.0.0.0:3141",), "http://localhost:3141", None),
        ("127.0.0.3", None, ("http://0.0.0.0:3141",), "http://127.0.0.3:3141", None),
        ("127.0.0.1.example", None, ("http://0.0.0.0:3141",), "http://127.0.0.1.example:3141", "127.0.0.1.example"),
        ("[::1]:3142", None, ("http://[::]:8000",), "http://[::1]:8000", None),
        ("[2001:db8::7]:3142", None, ("http://[::]:8000",), "http://[2001:db8::7]:8000", "2001:db8::7"),
        ("10.1.2.3", None, ("unix:/run/x", "http://127.0.0.1:3141"), "http://10.1.2.3:3141", "10.1.2.3"),
        ("h", "https://devpi.example.com/pypi/", ("http://0.0.0.0:3141",), "https://devpi.example.com/pypi", None),
        ("h", "http://u:p@devpi.example:8/pypi/", ("unix:/x",), "http://u:p@devpi.example:8/pypi", "devpi.example"),
        ("h;id", None, ("http://0.0.0.0:3141",), "http://HOST:3141", "HOST"),
        ("$(id)", None, ("http://0.0.0.0:3141",), "http://HOST:3141", "HOST"),
        ('"><script>x</script>', None, ("http://0.0.0.0:3141",), "http://HOST:3141", "HOST"),
        ("h", "https://x/;id", ("http://0.0.0.0:3141",), "http://h:3141", "h"),
        ("h", f"https://{'x' * 10_000}", ("http://0.0.0.0:3141",), "http://h:3141", "h"),
        ("x" * 254, None, ("http://0.0.0.0:3141",), "http://HOST:3141", "HOST"),
    ],
)
async def test_how_to_use_it(
    site: Site, host: str, outside: str | None, addresses: tuple[str, ...], url: str, trust: str | None
) -> None:
    """The commands use the outside URL, or this page's host with devpi's port. `--trusted-host` is there only if pip
    requires it. A forged URL or host does not get into a command.
    """
    trusted = "" if trust is None else f" \\ --trusted-host {trust}"
    session = pytest.importorskip("pip._internal.network.session").PipSession  # the image has no pip
    link = pytest.importorskip("pip._internal.models.link").Link(f"{url}/root/dev/+simple/")
    assert session(trusted_hosts=[trust] if trust else []).is_secure_origin(link)
    assert bool(trust) is not session().is_secure_origin(link)
    site.lifecycle.enter(Phase.LAUNCHING)
    site.lifecycle.learn(replace(SERVER, addresses=addresses, outside_url=outside))
    outline = await page(site, Host=host)
    assert (
        f"Log in Copy devpi use {url} devpi login root Create an index, once Copy devpi index --create dev"
        in outline.text
    )
    assert f"pip install PACKAGE \\ --index-url {url}/root/dev/+simple/{trusted} " in outline.text
    assert 1 == outline.tags.count("script")


def test_behind_a_unix_socket_alone() -> None:
    """Without a TCP address nothing is guessed; without a serving devpi-server there is no section."""
    behind = replace(SERVER, addresses=("unix:/run/devpi.sock",))
    snapshot = replace(Lifecycle().snapshot, phase=Phase.READY, devpi=behind)
    shown = section("use", **guide.use(snapshot, "h"))
    assert "--outside-url" in shown
    assert "pip" not in shown
    assert "/run" not in shown
    assert {} == guide.use(replace(snapshot, devpi=None), "h")
    assert {} == guide.use(replace(snapshot, phase=Phase.FAILED), "h")


def told(**changes: object) -> ServerStatus:
    return replace(ServerStatus(version="6.20.3", role="MASTER", serial=2004, polling_replicas=0), **changes)  # type: ignore[arg-type]


async def test_replicas(site: Site) -> None:
    """A primary shows each replica with its lag and last request, a replica its own lag. Otherwise no section."""
    view = report.View(site.lifecycle.snapshot, site.board.checks(), site.board.history(), told(), "1")
    assert "" == report.sections(view)["replicas"]
    replicas = (
        Replica("10.0.3.7", 2000, 1e9, None),
        Replica(None, None, None, None),
        Replica("<b>", 10**30, -1e300, None),
    )
    view = replace(view, at=datetime.fromtimestamp(1e9 + 12.3, UTC))
    shown = Outline(report.sections(replace(view, said=told(replicas=replicas, polling_replicas=150)))["replicas"])
    assert "10.0.3.7 ! behind 4 serials 2001-09-09 01:46:40 UTC 12 s ago" in shown.text
    assert "unknown ! unknown unknown unknown" in shown.text
    assert "<b> ! unknown 0 serials unknown" in shown.text
    assert "and 147 more" in shown.text
    shown = Outline(report.sections(replace(view, said=told(role="REPLICA", primary_serial=2010)))["replicas"])
    assert "Behind its primary 6 serials" in shown.text


@pytest.mark.parametrize(
    ("serial", "seconds", "badge"),
    [
        (2004, 59, "✓ all changes 0 serials"),
        (2003, 0, "! behind 1 serial "),
        (2004, 61, "! silent 0 serials"),
        (2003, 299, "! silent 1 serial "),
        (2004, 301, "✕ silent 0 serials"),
        (2004, -301, "✕ silent 0 serials"),
        (2005, 1, "✓ all changes 0 serials"),
        (None, 1, "! unknown unknown"),
    ],
)
async def test_a_replica_in_trouble_looks_so(site: Site, serial: int | None, seconds: float, badge: str) -> None:
    """A replica that is behind, or silent for a minute, warns; one silent for five minutes fails."""
    view = report.View(site.lifecycle.snapshot, site.board.checks(), site.board.history(), None, "1")
    replica = Replica("10.0.3.7", serial, view.at.timestamp() - seconds, None)
    view = replace(view, said=told(replicas=(replica,), polling_replicas=1))
    assert f"10.0.3.7 {badge}" in Outline(report.sections(view)["replicas"]).text


HOSTILE = [
    "<script>alert(1)</script>",
    "a\u202egnp.exe\u2066",
    "two\r\nlines\n\ndata: x",
    "n" * 10_000,
    "$host {0.__class__}",
    '" onload="alert(1)',
    "\ud800\x00\x1b[31m",
]


@pytest.mark.parametrize("name", HOSTILE, ids=["script", "bidi", "newlines", "10 kB", "format", "attribute", "broken"])
async def test_hostile_names(site: Site, name: str) -> None:
    """They are shown as text: they add no element, attribute, line, control or bidi character, and not 10 kB."""
    plain = await page(site)
    site.lifecycle.enter(Phase.IMPORTING)
    error = ImportFailure(name, name, name, name)
    site.lifecycle.learn(DevpiInfo(name, name, ("http://h:1",), ((name, name),), outside_url=f"https://{name}"))
    site.lifecycle.notice(Notice(name, name, name))
    site.tell(
        imported=ImportStatus(
            ImportState.FAILED,
            (Archive(name, 1, name),),
            (name,),
            1,
            (LeftOut(name, name, name),),
            current=name,
            error=error,
        ),
        unusable_passwords=UnusablePasswords(1, (name,)),
        mirrors=Mirrors(1, upstreams_of(seen_failing(name, name, name)), Named(1, (name,))),
    )
    site.lifecycle.enter(Phase.FAILED, Failure(name, name))
    outline = await page(site)
    assert plain.tags.count("script") == outline.tags.count("script")
    assert not {attribute for _, attribute, _ in outline.attributes if attribute.startswith("on")}
    for words in outline.words:
        assert not [c for c in words if c not in "\n" and not c.isprintable()]
    assert len(outline.text) < 20_000
    if name.isprintable() and len(name) < 50:
        assert " ".join(name.split()) in outline.text


async def test_every_section_has_its_place(site: Site) -> None:
    """No section is rendered without a place in the page."""
    view = shown(site)
    text = report.page(view, "h", epoch="e", edition="e")
    places = re.findall(r'<div id="([a-z]+)" data-section', text)
    assert sorted({*report.sections(view), *report.sections_for(view, "h")}) == sorted(places)


def test_the_script_keeps_no_secret() -> None:
    """Neither token nor password gets into the page's text, an address, or the browser's storage."""
    text = assets.read("page.js").decode()
    assert not re.search(r"localStorage|sessionStorage|document\.cookie|history\.|indexedDB|eval\(", text)
    assert 1 == len(re.findall(r"\.innerHTML\b", text))


# --- order and title --------------------------------------------------------------------------------------------------


def shown(site: Site, **changes: object) -> report.View:
    """Return the view of this site, with these changes."""
    return replace(report.view(site.web.runner.app[CONTEXT]), **changes)  # type: ignore[arg-type]


async def test_the_title_tells_tabs_apart(site: Site) -> None:
    """It begins with the instance's name and the state; any name is shown as text."""
    site.lifecycle.enter(Phase.LAUNCHING)
    view = shown(site, name="a<b>&c")
    text = report.page(view, "h", epoch="e", edition="e")
    assert "<title>a&lt;b&gt;&amp;c: Launching</title>" in text
    assert 0 == Outline(text).tags.count("b") - text.count("<b>")
    site.lifecycle.enter(Phase.FAILED, Failure("x", "y"))
    text = report.page(shown(site, name="a<b>&c"), "h", epoch="e", edition="e")
    assert "<title>a&lt;b&gt;&amp;c: Failed</title>" in text


@pytest.mark.parametrize(
    ("host", "outside", "addresses", "link"),
    [
        ("h:3142", "https://devpi.example/x/", ("http://0.0.0.0:3141",), "https://devpi.example/x/"),
        ("h:3142", None, ("http://0.0.0.0:3141",), "http://h:3141/"),
        ("h;id", None, ("http://0.0.0.0:3141",), None),
        ("h", None, ("unix:/run/x",), None),
        ("h", "javascript:alert(1)", ("unix:/run/x",), None),
    ],
)
async def test_the_link_to_devpi(
    site: Site, host: str, outside: str | None, addresses: tuple[str, ...], link: str | None
) -> None:
    """It leads to the outside URL, or to this page's host with devpi's port; no link if that would be invalid."""
    devpi = replace(SERVER, addresses=addresses, outside_url=outside)
    snapshot = replace(site.lifecycle.snapshot, phase=Phase.READY, devpi=devpi)
    found = Outline(section("who", **guide.who(snapshot, "packages", host)))
    assert "packages" in found.text
    assert ([] if link is None else [("a", "href", link)]) == [each for each in found.attributes if each[0] == "a"]
    assert guide.who(replace(snapshot, phase=Phase.FAILED), "packages", host)["url"] is None


async def test_the_claim_comes_first(site: Site) -> None:
    """Its form precedes notices, numbers and checks, and shows the command that prints the token."""
    site.generate_password()
    await site.become_ready()
    around = Surroundings("h", "docker", "3f2a1b9c8d7e")
    view = shown(site, surroundings=around)
    text = report.page(view, "h", epoch="e", edition="e")
    order = [
        text.index(f'id="{name}"') for name in ("headline", "claim", "form", "notices", "numbers", "checks", "use")
    ]
    assert sorted(order) == order
    assert "docker exec 3f2a1b9c8d7e sidecar token" in report.sections(view)["claim"]
    assert "" == report.sections(view)["password"]
    await site.credentials.claim("10.0.3.7")
    sections = report.sections(shown(site))
    assert "" == sections["claim"]
    assert "Claimed" in sections["password"]


@pytest.mark.parametrize(
    ("around", "restart", "empty"),
    [
        (Surroundings("h", "docker", "3f2a1b9c8d7e"), "docker restart 3f2a1b9c8d7e", "docker rm --force 3f2a1b9c8d7e"),
        (Surroundings("h", "podman", "3f2a1b9c8d7e"), "podman restart 3f2a1b9c8d7e", "podman rm --force 3f2a1b9c8d7e"),
        (
            Surroundings("devpi-0", "kubernetes", pod="devpi-0"),
            "kubectl delete pod devpi-0",
            "from the manifest; then restart",
        ),
        (Surroundings("h"), "Stop devpi (Ctrl-C) and start it again", "Move backup.bz2 out of the init directory"),
    ],
    ids=["docker", "podman", "kubernetes", "plain"],
)
def test_the_way_out_of_a_failed_import(around: Surroundings, restart: str, empty: str) -> None:
    """The page shows the command that restarts this container, and how to start empty."""
    failed = Verdict("bad", "", failed_import=ImportFailure("is truncated", "copy it again", "backup.bz2"))
    said = Outline(section("headline", verdict=failed, phase=Phase.FAILED, since=now(), around=around)).text.strip()
    assert said.startswith("File backup.bz2 Why is truncated What to do copy it again Then restart ")
    assert restart in said
    assert empty in said.partition("Or start empty")[2]
    assert "Member" not in said


async def test_checks_are_one_line_while_all_pass(site: Site) -> None:
    """They are open if one warns or fails; each shows its meaning."""
    await site.become_ready()
    await eventually(lambda: {CheckStatus.PASS} == {check.status for check in site.board.checks()})
    checks = site.board.checks()

    def listed(checks: tuple[Check, ...]) -> str:
        return section("checks", **checklist(checks, site.board.history()))

    text = listed(checks)
    assert '<details id="checks-all" class="fold"><summary' in text
    assert f"All {len(checks)} checks pass" in Outline(text).text
    for check in checks:
        assert check.meaning
        assert check.meaning in text
    for status in (CheckStatus.WARN, CheckStatus.FAIL):
        one = (*checks[:-1], replace(checks[-1], status=status, reason="slow"))
        text = listed(one)
        assert '<details id="checks-some" class="fold" open>' in text
        assert f"{len(checks) - 1} of {len(checks)} checks pass" in text
    one = (*checks[:-1], replace(checks[-1], status=CheckStatus.PENDING, reason=NOT_YET))
    assert '<details id="checks-most" class="fold"><' in listed(one)
    none = tuple(replace(check, status=CheckStatus.FAIL, reason=NOT_RUNNING) for check in checks)
    assert '<details id="checks-none" class="fold"><' in listed(none)


def test_numbers() -> None:
    """They are readable; an unknown number is not 0."""
    at = datetime(2026, 11, 30, 12, tzinfo=UTC)
    full = Numbers(
        Contents(12, 3, 1, 1234567, at),
        Served(20741, 3.44, 7, at - timedelta(minutes=5)),
        Used(734_003_200, 4100, 0.0),
        Space(14_680_064_000, 21_474_836_480),
    )
    text = Outline(section("numbers", **tally(full, at))).text
    for words in (
        "Packages 1,234,567 734 MB on disk",
        "Indexes 3 and 1 mirror",
        "Users 12",
        "Requests 20,741 since the start, now 3.4/s",
        "Uploads 7 last one 5 min 00 s ago",
        "Free 68 % 14.7 GB of 21.5 GB",
    ):
        assert words in text
    unknown = Numbers(Contents(None, None, None, None, at), Served(0, None, 0, None))
    text = Outline(section("numbers", **tally(unknown, at))).text
    for words in ("Packages not known", "Users not known", "Requests 0 since the start", "Free not known"):
        assert words in text
    assert {} == tally(Numbers(), at)


async def test_numbers_on_status(site: Site) -> None:
    """All are null while devpi-server doesn't run; then unknown ones are null."""
    nothing = {"contents": None, "requests": None, "volume": None, "serverdir": None}
    assert nothing == (await site.get("/status")).json["numbers"]
    site.tell(contents=Contents(4, 3, 2, 1, now()))
    await site.become_ready()
    await eventually(lambda: report.view(site.web.runner.app[CONTEXT]).numbers.space is not None)
    numbers = (await site.get("/status")).json["numbers"]
    assert (1, 4, 3, 2) == tuple(numbers["contents"][name] for name in ("projects", "users", "indexes", "mirrors"))
    assert 0 < numbers["volume"]["free_bytes"] <= numbers["volume"]["size_bytes"]
    assert "devpi" == (await site.get("/status")).json["name"]
