"""devpi-web's search index is derived data: a damaged one is moved aside and rebuilt, and never stops devpi-server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support import engine
from tests.support.container import login_token, make_index, request, upload, wait_for
from tests.support.engine import NO_MIRROR, Box, docker

pytestmark = pytest.mark.image

PASSWORD = "rootpw-of-the-test"
INDICES = "/var/lib/devpi/.indices"


@dataclass
class Site:
    """A devpi-server with devpi-web on a volume that holds an index of one project."""

    volume: str
    image: str
    flags: tuple[str, ...] = NO_MIRROR
    options: tuple[str, ...] = ()
    box: Box | None = None
    devpi: str = ""
    """devpi-server's URL; asking the engine needs a process."""

    def start(self) -> Box:
        """Start a new container on the volume, and wait until it is ready."""
        options = (*self.options, "--volume", f"{self.volume}:/var/lib/devpi", "--env", f"DEVPI_PASSWORD={PASSWORD}")
        options += ("--env", "SIDECAR_MONITOR_INTERVAL=0.5")
        self.box = Box("web", *options, image=self.image, flags=self.flags)
        self.box.start().wait_ready()
        self.devpi = self.box.devpi
        return self.box

    def stop(self) -> None:
        """Stop the container, and remove it."""
        box, self.box = self.box, None
        if box is not None:
            try:
                assert 0 == box.stop()
            finally:
                box.remove()

    def shell(self, code: str, user: str = "1000:1000") -> str:
        """Run Python on the volume, beside the container."""
        start = "import os, pathlib, shutil\n" + f"indices = pathlib.Path({INDICES!r})\n"
        mounts = (*self.options, "--volume", f"{self.volume}:/var/lib/devpi")
        command = ("run", "--rm", "--user", user, *mounts, "--entrypoint", "python3", self.image, "-c", start + code)
        return docker(*command).stdout.strip()

    def finds(self, word: str) -> bool:
        """Whether a search finds the project of this name."""
        page = request(f"{self.devpi}/+search?query={word}", accept="text/html")
        return page.status == 200 and f"/root/dev/{word}".encode() in page.body

    def wait_found(self, word: str, what: str) -> None:
        """Wait until a search finds it; searches use CPU that the indexer needs."""
        try:
            wait_for(lambda: self.finds(word), what, every=0.5)
        except AssertionError:
            assert self.box is not None
            print(*(line for line in self.box.log.splitlines() if "/+search" not in line), sep="\n")
            raise

    def add(self, word: str) -> None:
        """Upload a project of this name."""
        upload(f"{self.devpi}/root/dev", login_token(self.devpi, PASSWORD), word, word.encode() * 50)

    def notices(self) -> list[dict[str, Any]]:
        """Return the notices about the search index."""
        assert self.box is not None
        return [n for n in self.box.get("/status").json["notices"] if n["about"] == "search-index"]


def made(image: str, volume: str, **more: Any) -> Site:
    """A running site whose index holds `alpha`."""
    site = Site(volume, image, **more)
    make_index(site.start().devpi, login_token(site.box.devpi, PASSWORD))  # type: ignore[union-attr]
    site.add("alpha")
    site.wait_found("alpha", "the first index")
    return site


@pytest.fixture(scope="module")
def shared(web_image: str) -> Iterator[Site]:
    """One stopped site; each test finds its index complete and leaves it complete."""
    with engine.volume() as volume:
        site = made(web_image, volume)
        site.stop()
        yield site


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """The shared one, stopped after each test."""
    yield shared
    shared.stop()


TRUNCATED = "for p in indices.glob('*.seg'): os.truncate(p, p.stat().st_size // 2)"

ZEROED_POSTINGS = """
from whoosh.filedb.compound import CompoundStorage
from whoosh.filedb.filestore import FileStorage
for path in indices.glob('*.seg'):
    parts = CompoundStorage(FileStorage(str(indices)).open_file(path.name))._dir
    with path.open('r+b') as file:
        for part in (part for name, part in parts.items() if name.endswith('.pst')):
            file.seek(part['offset'])
            file.write(bytes(part['length']))
"""
"""Found by a search: until then the index opens."""

DAMAGES = {
    "truncated segment": TRUNCATED,
    "empty table of contents": "for p in indices.glob('*.toc'): os.truncate(p, 0)",
    "zeroed postings": ZEROED_POSTINGS,
    "a file in the folder's place": "shutil.rmtree(indices); indices.write_text('')",
    "a lock that can't be taken": "p = indices / 'project_WRITELOCK'; p.unlink(); p.mkdir()",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_index_is_set_aside_and_rebuilt(site: Site, damage: str) -> None:
    """devpi-server is ready at once and stays; the log, `/status` and the command explain the incomplete results."""
    site.shell(damage)
    box = site.start()
    if "LOCK" in damage:
        site.add("beta")  # nothing fails until it is written
    wait_for(lambda: site.finds("alpha") in (True, False) and site.notices(), "the notice", every=0.5)
    (notice,) = site.notices()
    assert "is being rebuilt" in notice["reason"]
    assert ".indices.damaged holds the old index" in notice["hint"]
    site.wait_found("alpha", "the search to find again")
    assert notice["reason"] in box.log
    assert notice["reason"] in box.exec("sidecar", "status").stdout
    site.add("gamma")
    site.wait_found("gamma", "the new index to grow")
    assert box.state["Running"]
    site.stop()

    site.start()
    assert site.finds("alpha")
    assert [] == site.notices()


def test_an_index_that_cannot_be_read(site: Site) -> None:
    """As after a restore by root: it is moved aside, too, because the folder around it is the server's."""
    site.shell("os.chown(indices, 0, 0); indices.chmod(0o700)", user="0:0")
    try:
        site.start()
        wait_for(site.notices, "the notice", every=0.5)
        assert "Permission denied" in site.notices()[0]["reason"]
        site.wait_found("alpha", "the search to find again")
    finally:
        site.stop()
        site.shell("shutil.rmtree(indices.with_name('.indices.damaged'), ignore_errors=True)", user="0:0")


def test_a_healthy_index_is_left_alone(site: Site) -> None:
    """Neither a start nor a kill during its writing causes a rebuild."""
    look = "print(indices.stat().st_ino, indices.with_name('.indices.damaged').exists())"
    site.shell("shutil.rmtree(indices.with_name('.indices.damaged'), ignore_errors=True)")
    before = site.shell(look)
    box = site.start()
    site.add("delta")
    docker("kill", box.name)
    box.remove()
    site.start()
    site.wait_found("delta", "the upload to be found")
    assert [] == site.notices()
    site.stop()
    assert before == site.shell(look)


def test_a_kill_while_it_is_set_aside(site: Site) -> None:
    """Between both renames there is no folder; then devpi-web creates it and fills it."""
    site.shell(f"{TRUNCATED}\nshutil.rmtree(indices.with_name('.indices.damaged'), ignore_errors=True)")
    site.shell("indices.rename(indices.with_name('.indices.damaged'))")
    site.start()
    site.wait_found("alpha", "the search to find again")


def test_devpi_clear_search_index(site: Site) -> None:
    """It takes the serverdir's lock like devpi's other tools, and the next start builds the index."""
    box = site.start()
    assert 75 == box.exec("devpi-clear-search-index", check=False).returncode
    site.stop()
    done = docker("run", "--rm", "--volume", f"{site.volume}:/var/lib/devpi", site.image, "devpi-clear-search-index")
    assert "Index deleted" in done.stdout + done.stderr
    assert "False" == site.shell("print(indices.exists())")
    site.start()
    site.wait_found("alpha", "the search to find again")
    assert [] == site.notices()


@pytest.fixture
def apart(web_image: str) -> Iterator[Callable[..., Site]]:
    """Creates sites with the index on a mount of its own."""
    made_here: list[Site] = []

    def make(volume: str, *options: str) -> Site:
        flags = (*NO_MIRROR, "--indexer-backend", "whoosh:path=/mnt/devpi")
        site = Site(volume, web_image, flags=flags, options=options)
        made_here.append(site)
        return site

    yield make
    for site in made_here:
        site.stop()


def test_an_index_on_a_mount_of_its_own(volume: str, apart: Callable[..., Site]) -> None:
    """A mount can't be renamed: its contents are moved into a folder there."""
    with engine.volume() as index:
        site = apart(volume, "--volume", f"{index}:/mnt/devpi")
        make_index(site.start().devpi, login_token(site.box.devpi, PASSWORD))  # type: ignore[union-attr]
        site.add("alpha")
        site.wait_found("alpha", "the first index")
        site.stop()
        for _ in range(2):
            site.shell(f"indices = pathlib.Path('/mnt/devpi')\n{TRUNCATED}")
            site.start()
            wait_for(site.notices, "the notice", every=0.5)
            site.wait_found("alpha", "the search to find again")
            site.stop()
        assert ".damaged" in site.shell("print(os.listdir('/mnt/devpi'))")


def test_no_space_for_the_index(volume: str, apart: Callable[..., Site]) -> None:
    """devpi-server serves without it, and reports what is missing."""
    site = apart(volume, "--tmpfs", "/mnt/devpi:size=4k,uid=1000,mode=0700")
    box = site.start()
    make_index(box.devpi, login_token(box.devpi, PASSWORD))
    site.add("alpha")
    site.stop()
    box = site.start()
    wait_for(site.notices, "the notice", every=0.5)
    assert "No space left on device" in site.notices()[0]["reason"]
    assert 200 == request(f"{box.devpi}/root/dev/+simple/alpha/").status
    assert 200 == box.get("/readyz").status
