"""Exports that today's devpi-server seldom makes: files of a mirror, and what the first dumpversion leaves out."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.integration.conftest import tool
from tests.support import exported
from tests.support.container import Container, call_devpi, login_token, request
from tests.support.exported import PASSWORDS, Described

pytestmark = pytest.mark.slow

Make = Callable[..., Container]
UPSTREAM = dict(exported.wheel("from-upstream", version) for version in ("1.0", "1.1"))


class Upstream(BaseHTTPRequestHandler):
    """An index of one project, as a mirror reads it."""

    def do_GET(self) -> None:
        """The simple pages, and the files."""
        links = "".join(
            f'<a href="/files/{name}#sha256={hashlib.sha256(content).hexdigest()}" data-requires-python="&gt;=3.8">'
            f"{name}</a>"
            for name, content in UPSTREAM.items()
        )
        pages = {f"/files/{name}": content for name, content in UPSTREAM.items()}
        pages |= {
            "/simple/": b'<a href="/simple/from-upstream/">from-upstream</a>',
            "/simple/from-upstream/": links.encode(),
        }
        page = pages.get(self.path)
        self.send_response(404 if page is None else 200)
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
        self.send_header("Content-Length", str(len(page or b"")))
        self.end_headers()
        self.wfile.write(page or b"")

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def upstream() -> Iterator[str]:
    """The URL of an index on this machine, for the duration of the context."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def mirrored(container: Make, tmp_path: Path) -> Path:
    """An export with the files that a mirror had fetched."""
    origin = container("origin", flags=("--host", "127.0.0.1", "--port", "0", "--no-root-pypi"))
    origin.start().wait_ready()
    token = login_token(origin.devpi, origin.claim())
    with upstream() as url:
        made = call_devpi(f"{origin.devpi}/root/mirror", "PUT", {"type": "mirror", "mirror_url": url}, token=token)
        assert 200 == made.status
        page = f"{origin.devpi}/root/mirror/+simple/from-upstream/"
        hrefs = [each.partition('"')[0] for each in request(page).body.decode().split('href="')[1:]]
        fetched = {href.partition("#")[0].rpartition("/")[2]: request(urljoin(page, href)).body for href in hrefs}
    assert UPSTREAM == fetched
    assert 0 == origin.stop()
    return exported.export(origin.serverdir, tmp_path / "mirrored", "--include-mirrored-files")


def test_a_mirrors_files(container: Make, mirrored: Path, tmp_path: Path) -> None:
    """They are served without the upstream, and an export of the result equals the first one."""
    expected = Described.of(mirrored)
    assert len(UPSTREAM) == len(expected.data["indexes"]["root/mirror"]["files"])
    new = container()
    exported.pack(mirrored, new.init_dir / "backup.tar.gz")
    new.start().wait_ready()
    page = f"{new.devpi}/root/mirror/+simple/from-upstream/"
    hrefs = [each.partition('"')[0] for each in request(page).body.decode().split('href="')[1:]]
    assert {hashlib.sha256(content).hexdigest() for content in UPSTREAM.values()} == {
        hashlib.sha256(request(urljoin(page, href)).body).hexdigest() for href in hrefs
    }
    assert 0 == new.stop()
    again = Described.of(exported.export(new.serverdir, tmp_path / "again", "--include-mirrored-files"))
    assert expected.files == again.files
    assert expected.data == again.data


def test_the_first_dumpversion(container: Make, rich: Path, tmp_path: Path) -> None:
    """Of devpi-server 2: its files have no version but an MD5, and `+doczip` names the documentation.

    The result equals that of devpi-import, field by field; and the files are those of the export.
    """
    old = shutil.copytree(rich, tmp_path / "old")
    data = exported.load(old)
    data["dumpversion"] = "1"
    for file in (file for index in data["indexes"].values() for file in index.get("files", [])):
        path = old / file["relpath"]
        if file["type"] == "toxresult":  # the version is in the name; today's tox results lack it
            wheel = file["for_entrypath"].partition("#")[0].rpartition("/")[2]
            path = path.rename(path.with_name(f"{wheel}.toxresult0"))
            file["relpath"] = str(path.relative_to(old))
        del file["version"]
        del file["entrymapping"]["hashes"]
        file["entrymapping"]["md5"] = hashlib.md5(path.read_bytes()).hexdigest()
    data["indexes"]["alice/dev"]["projects"]["hello-world"]["1.0"]["+doczip"] = "hello-world-1.0.doc.zip"
    exported.save(old, data)
    new = container()
    exported.pack(old, new.init_dir / "backup.tar.gz")
    new.start().wait_ready()
    assert 200 == new.login("alice", PASSWORDS["alice"])
    assert 0 == new.stop()
    again = Described.of(exported.export(new.serverdir, tmp_path / "again"))

    tool("devpi-import", "--serverdir", str(tmp_path / "by-hand"), "--no-events", str(old))
    expected = Described.of(exported.export(tmp_path / "by-hand", tmp_path / "by-hand-again"))
    assert expected.files == again.files
    assert expected.data == again.data
    assert sorted(Described.of(rich).files.values()) == sorted(again.files.values())
