"""devpi-server serves exactly the exports in the init directory."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.exports.sources import MOST_SOURCES
from sidecar.worker.patches.staged_storage import PROJECTS_AT_ONCE
from testbed.plugins import installed_plugin
from tests.support import exported, obstacles, private_mounts
from tests.support.container import Container, request, wait_for
from tests.support.exported import MASS_PASSWORD, PASSWORDS, Described

Make = Callable[..., Container]
COUNTED = ("users", "indexes", "projects", "files", "bytes", "extracted")


@pytest.fixture(scope="session")
def mass(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of 300 projects with a file each: its import takes some seconds."""
    return exported.write(tmp_path_factory.mktemp("mass") / "export", projects=300)


def in_folder(export: Path, init_dir: Path) -> None:
    """The export in a folder of the archive, as `python3 -m tarfile --create … export` packs it."""
    exported.pack(export, init_dir / "backup.bz2", folder="var/backup/export")


def in_two(export: Path, init_dir: Path) -> None:
    """One export, its files over two archives."""
    init_dir.mkdir()
    exported.pack_split(export, init_dir / "part1.tar.gz", init_dir / "part2.tar.gz")


def as_directory(export: Path, init_dir: Path) -> None:
    """The directory that devpi-export made, unchanged."""
    shutil.copytree(export, init_dir / "export")


def archive(name: str) -> Callable[[Path, Path], None]:
    """One archive, compressed according to its name."""

    def pack(export: Path, init_dir: Path) -> None:
        exported.pack(export, init_dir / name)

    pack.__name__ = name
    return pack


FORMATS = [archive("e.tar.bz2"), in_folder, in_two, as_directory]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `obstacles`."""
    return obstacles.build(tmp_path_factory.mktemp("obstacles"))


def totals(export: Path) -> dict[str, int]:
    """Return the counts of an import of the export."""
    data = exported.load(export)
    files = [export / file["relpath"] for index in data["indexes"].values() for file in index.get("files", [])]
    return {
        "users": len(data["users"]),
        "indexes": len(data["indexes"]),
        "projects": sum(len(index.get("projects", {})) for index in data["indexes"].values()),
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
    }


def done_and_total(imported: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the counts of an import's status."""
    return {name: (imported[name]["done"], imported[name]["total"]) for name in COUNTED}


def assert_completed(container: Container, *exports: Path) -> None:
    """Assert that `/status` has a completed import of all that these exports hold, to the byte."""
    imported = container.status()["import"]
    assert imported["state"] == "completed"
    assert imported["error"] is None
    assert imported["started"] < imported["finished"]
    expected = {name: sum(totals(each)[name] for each in exports) for name in COUNTED[:-1]}
    counts = done_and_total(imported)
    del counts["extracted"]
    assert {name: (count, count) for name, count in expected.items()} == counts


def get(container: Container, path: str) -> Any:
    """Return JSON from devpi-server."""
    answer = request(container.devpi + path, accept="application/json")
    assert answer.status == 200, (path, answer)
    return answer.json["result"]


def file_of(container: Container, project: str, name: str) -> str:
    """Return the path of a project's file at devpi-server."""
    (link,) = [link["href"] for link in get(container, f"/{project}")["1.0"]["+links"] if link["href"].endswith(name)]
    return str(link).removeprefix(f"{container.devpi}/")


# --- what was exported is served ------------------------------------------------------------------------------------


def test_the_rich_export_is_rich(rich: Path) -> None:
    """It holds every kind of object that an export can hold; otherwise the comparisons below would compare little."""
    data = exported.load(rich)
    assert {"root", "alice", "bob"} == set(data["users"])
    assert {"root/pypi", "alice/base", "alice/dev", "bob/mirror", "bob/prod", "bob/empty"} == set(data["indexes"])
    kinds = [file["type"] for index in data["indexes"].values() for file in index.get("files", [])]
    assert {"releasefile", "doczip", "toxresult"} == set(kinds)
    versions = data["indexes"]["alice/dev"]["projects"]["hello-world"]
    assert {"1.0", "1.1", "2.0rc1"} == set(versions)
    assert exported.CLASSIFIERS == versions["1.0"]["classifiers"]
    assert "☃" in versions["1.0"]["description"]


@pytest.mark.parametrize(
    "put",
    [pytest.param(put, marks=[pytest.mark.slow] if at else [], id=put.__name__) for at, put in enumerate(FORMATS)],
)
def test_devpi_serves_what_was_exported(
    container: Make, rich: Path, tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    """An export of the result equals the init directory's, field by field, file by file; fsck passes."""
    new = container()
    put(rich, new.init_dir)
    before = exported.digests(new.init_dir)
    new.start().wait_ready()
    assert_completed(new, rich)
    assert "from_import" == new.status()["root_password"]["state"]
    assert 0 == new.stop()
    assert before == exported.digests(new.init_dir)
    again = Described.of(exported.export(new.serverdir, tmp_path / "again"))
    expected = Described.of(rich)
    assert expected.files == again.files
    assert expected.data == again.data
    assert_sound(new)


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK], ids=errno.errorcode.get)
def test_a_volume_without_hard_links(container: Make, rich: Path, library: Path, tmp_path: Path, number: int) -> None:
    """As Azure Files (CIFS), vfat and some FUSE: unpacked files are copied, and all of them are there."""
    new = container(env=obstacles.without_links(library, number))
    exported.pack(rich, new.init_dir / "backup.tar.gz")
    new.start().wait_ready()
    assert_completed(new, rich)
    assert 0 == new.stop()
    again = Described.of(exported.export(new.serverdir, tmp_path / "again"))
    expected = Described.of(rich)
    assert expected.files == again.files
    assert expected.data == again.data
    assert not (new.serverdir / ".sidecar" / "staging").exists()


def assert_sound(container: Container) -> None:
    """Assert that devpi-fsck passes on the serverdir."""
    fsck = subprocess.run(
        [exported.BIN / "devpi-fsck", "--serverdir", container.serverdir],
        env={"PATH": os.environ["PATH"], "HOME": str(container.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == fsck.returncode, fsck.stdout + fsck.stderr


@pytest.mark.slow
def test_everybody_finds_their_own_again(container: Make, rich: Path) -> None:
    """Logins, documentation, tox results and files are served over HTTP, also after a restart; so is the status."""
    new = container()
    exported.pack(rich, new.init_dir / "backup.bz2")
    new.start().wait_ready()
    assert dict.fromkeys(PASSWORDS, 200) == {user: new.login(user, password) for user, password in PASSWORDS.items()}
    assert 401 == new.login("root", "")
    assert 404 == new.post("/bootstrap/root-password").status  # nothing was generated: the export's password is valid
    for page, text in (("index.html", "<h1>Grüße</h1>"), ("deep/er/page.html", "<p>deep</p>")):
        names = _doc_members(new)
        assert text == names[page]
    versions = get(new, "/alice/dev/hello-world")
    links = {(link["rel"], link["href"].rpartition("/")[2]): link for link in versions["1.1"]["+links"]}
    (tox,) = [link for (rel, _), link in links.items() if rel == "toxresult"]
    assert exported.TOX_RESULT == request(tox["href"]).json
    name, content = exported.wheel("hello-world", "1.1")
    assert content == request(links["releasefile", name]["href"]).body
    before = new.status()["import"]
    assert 0 == new.stop()
    shutil.rmtree(new.init_dir)
    new.start().wait_ready()
    assert before == new.status()["import"]
    assert 200 == new.login("alice", PASSWORDS["alice"])


def _doc_members(container: Container) -> dict[str, str]:
    import io
    import zipfile

    versions = get(container, "/alice/dev/hello-world")
    (doc,) = [link["href"] for link in versions["1.0"]["+links"] if link["rel"] == "doczip"]
    with zipfile.ZipFile(io.BytesIO(request(doc).body)) as docs:
        return {name: docs.read(name).decode() for name in docs.namelist()}


def test_two_exports_become_one(container: Make, rich: Path, tmp_path: Path) -> None:
    """Exports without a common index are merged: an archive and a directory, each with its own users."""
    small = exported.write(tmp_path / "small", projects=3)
    new = container()
    exported.pack(rich, new.init_dir / "big.tar.gz")
    shutil.copytree(small, new.init_dir / "small")
    new.start().wait_ready()
    assert_completed(new, rich, small)
    assert ["big.tar.gz", "small"] == [each["name"] for each in new.status()["import"]["archives"]]
    assert 200 == new.login("mass", MASS_PASSWORD)
    assert 200 == new.login("bob", PASSWORDS["bob"])
    assert {*exported.load(rich)["users"], "mass"} == set(get(new, "/"))


@pytest.mark.slow
def test_an_export_in_a_thousand_archives(container: Make, tmp_path: Path) -> None:
    """The maximum number: each is on `/status` with its size and digest, and the export is complete."""
    export = exported.write(tmp_path / "export", projects=MOST_SOURCES - 1)
    new = container()
    assert MOST_SOURCES == exported.pack_apart(export, new.init_dir)
    new.start().wait_ready()
    assert_completed(new, export)
    told = {each["name"]: (each["bytes"], each["sha256"]) for each in new.status()["import"]["archives"]}
    digests = exported.digests(new.init_dir)
    assert {name: ((new.init_dir / name).stat().st_size, digest) for name, digest in digests.items()} == told
    assert len(new.get("/status").body) < 400_000


def test_root_pypi_is_not_invented(container: Make, tmp_path: Path) -> None:
    """An export without root and its mirror gets a root whose password can be claimed, and no root/pypi."""
    new = container(flags=("--host", "127.0.0.1", "--port", "0", "--offline-mode"))
    exported.pack(exported.write(tmp_path / "export"), new.init_dir / "backup.bz2")
    new.start().wait_ready()
    assert {"indexes"}.isdisjoint(get(new, "/")["root"]) or not get(new, "/")["root"]["indexes"]
    password = new.claim()
    assert 200 == new.login("root", password)
    assert 410 == new.post("/bootstrap/root-password").status


AUTH_PLUGIN = """
from pluggy import HookimplMarker

@HookimplMarker("devpiserver")
def devpiserver_auth_request(request, userdict, username, password):
    if username == "absent" and password == "known elsewhere":
        return {"status": "ok"}
"""


@pytest.mark.slow
def test_who_has_no_password_gets_none(container: Make, tmp_path: Path) -> None:
    """As by `--autocreate-users`: no password works, also not the empty one; an auth plugin still may."""
    export = exported.write(tmp_path / "export")
    data = exported.load(export)
    data["users"] |= {
        "absent": {"username": "absent"},
        "null": {"username": "null", "pwhash": None},
        "blank": {"username": "blank", "pwhash": "", "pwsalt": "salt"},
    }
    exported.save(export, data)
    new = container(env=installed_plugin(tmp_path / "plugin", "elsewhere", AUTH_PLUGIN))
    exported.pack(export, new.init_dir / "backup.bz2")
    new.start().wait_ready()
    tried = {(user, password): 401 for user in ("absent", "null", "blank") for password in ("", "salt", "another")}
    assert tried == {(user, password): new.login(user, password) for user, password in tried}
    assert 200 == new.login("absent", "known elsewhere")
    assert 200 == new.login("mass", MASS_PASSWORD)
    assert 0 == new.stop()
    assert_sound(new)
    again = exported.export(new.serverdir, tmp_path / "again")
    assert "pwhash" in exported.load(again)["users"]["absent"]
    newer = container("newer")
    exported.pack(again, newer.init_dir / "backup.bz2")
    newer.start().wait_ready()
    assert [401, 401, 401] == [newer.login(user, "") for user in ("absent", "null", "blank")]


# --- what is imported, and what is not ------------------------------------------------------------------------------


def test_the_init_directory_may_be_read_only(container: Make, tmp_path: Path) -> None:
    """As a `:ro` mount: nothing is written there."""
    new = container()
    exported.pack(exported.write(tmp_path / "export"), new.init_dir / "backup.bz2")
    new.command = private_mounts.command(
        f"mount --bind {new.init_dir} {new.init_dir}", f"mount -o remount,bind,ro {new.init_dir}"
    )
    new.start().wait_ready()
    with pytest.raises(OSError, match="Read-only"):
        (private_mounts.inside(new.pid, new.init_dir) / "probe").touch()
    assert "completed" == new.status()["import"]["state"]


def test_other_files_are_named_and_ignored(container: Make, tmp_path: Path) -> None:
    """No archives: listed in the log and on `/status`, also the empty folder that Docker makes of a missing mount."""
    new = container()
    export = exported.write(tmp_path / "export")
    exported.pack(export, new.init_dir / "good.tar")
    (new.init_dir / "README.txt").write_text("not an export")
    (new.init_dir / "backup.bz2").mkdir()
    (new.init_dir / ".hidden.tar").write_text("nor this")
    new.start().wait_ready()
    assert_completed(new, export)
    assert ["README.txt", "backup.bz2"] == new.status()["import"]["ignored"]
    assert "README.txt" in new.log
    assert "backup.bz2" in new.log


@pytest.mark.parametrize("has", ["absent", "empty", "only an empty backup.bz2/"])
def test_nothing_to_import_is_an_initialisation(container: Make, has: str) -> None:
    """An absent or empty init directory is valid."""
    new = container()
    if has != "absent":
        new.init_dir.mkdir()
    if has.startswith("only"):
        (new.init_dir / "backup.bz2").mkdir()
    new.start().wait_ready()
    status = new.status()
    assert ("none", "claimable") == (status["import"]["state"], status["root_password"]["state"])
    assert "importing" not in [each["phase"] for each in status["phases"]]


def test_a_serverdir_with_data_imports_nothing(container: Make, tmp_path: Path) -> None:
    """The content of the init directory does not touch an existing state, even if it is no archive at all."""
    new = container(env={"DEVPI_PASSWORD": "the first one"})
    new.start().wait_ready()
    assert 0 == new.stop()
    exported.pack(exported.write(tmp_path / "export"), new.init_dir / "backup.bz2")
    (new.init_dir / "garbage.tar").write_text("garbage")
    new.start().wait_ready()
    assert ["root"] == list(get(new, "/"))
    assert 200 == new.login("root", "the first one")
    assert "none" == new.status()["import"]["state"]


# --- while it runs --------------------------------------------------------------------------------------------------


def test_progress_is_on_show(container: Make, mass: Path) -> None:
    """While it runs: growing counts, a rate, the remaining time; alive and started, but not ready, with the reason."""
    new = container()
    exported.pack(mass, new.init_dir / "backup.tar.gz")
    new.start().wait_listening()
    seen: list[dict[str, Any]] = []
    probes: list[tuple[int, int, int]] = []
    reasons: set[str] = set()
    verdicts: set[str] = set()
    said = ""
    preparation = 0
    while (status := new.status())["phase"] in ("starting", "importing"):
        seen.append(status["import"])
        if status["phase"] == "importing" and not preparation:
            preparation = wait_for(lambda: _pids(new.devpi_pid)[1:], "the preparation")[0]
            os.kill(preparation, signal.SIGSTOP)
        if preparation and len(probes) < 10:
            ready = new.get("/readyz", accept="application/json")
            probes.append((new.get("/livez").status, new.get("/startupz").status, ready.status))
            reasons |= {check["reason"] for check in ready.json["checks"]}
            verdicts |= {check["status"] for check in new.get("/health").json["checks"]}
            said = said or (new.sidecar("status").stdout if len(probes) == 5 else "")
        if preparation:  # paused while it is inspected, because it could finish meanwhile on a busy machine
            _go_on_a_little(preparation)
        else:
            time.sleep(0.02)
    new.wait_ready()
    assert_completed(new, mass)
    seen.append(new.status()["import"])

    assert {(200, 200, 503)} == set(probes)
    assert any(reason.startswith("importing") for reason in reasons), reasons
    assert {"pending"} == verdicts
    assert not re.search("fail|warn|rotate|claim", said), said
    order = ["none", "pending", "extracting", "loading", "installing", "completed"]
    states = [order.index(each["state"]) for each in seen]
    assert sorted(states) == states
    for name in COUNTED:
        counts = [each[name]["done"] for each in seen]
        assert sorted(counts) == counts
        assert all(each[name]["done"] <= each[name]["total"] for each in seen)
    midway = [each for each in seen if 0 < each["files"]["done"] < 300]
    assert len({each["files"]["done"] for each in midway}) >= 2
    assert all(each["rate"] > 0 and each["eta_seconds"] is not None for each in midway)
    assert any(each["eta_seconds"] > 0 for each in midway)
    assert {300} == {each["files"]["total"] for each in midway}
    assert any(each["projects"]["done"] not in (0, 300) and each["current"].startswith("mass/dev/") for each in midway)


SLOW_EVENTS = """
import os, time
from pluggy import HookimplMarker

@HookimplMarker("devpiserver")
def devpiserver_on_changed_versiondata(stage, project, version, metadata):
    while os.path.exists(os.environ["HOLD"]):
        time.sleep(0.01)
"""


def events_behind(container: Container) -> int | None:
    """Return the events' backlog on `/status`; None: the monitor has not probed devpi-server yet."""
    backlog = container.status()["devpi"]["backlog"]
    return None if backlog is None else backlog["events"]


@pytest.mark.slow
def test_ready_before_the_events_are_handled(container: Make, tmp_path: Path) -> None:
    """They are deferred: their backlog is on `/status`, and falls to 0 while devpi-server serves."""
    hold = tmp_path / "hold"
    hold.touch()
    new = container(env=installed_plugin(tmp_path / "plugin", "slow_events", SLOW_EVENTS) | {"HOLD": str(hold)})
    export = exported.write(tmp_path / "export", projects=120)
    exported.pack(export, new.init_dir / "backup.tar.gz")
    new.start().wait_ready()
    assert_completed(new, export)
    backlog = wait_for(lambda: events_behind(new), "a backlog")
    assert backlog >= 120 / PROJECTS_AT_ONCE
    name, content = exported.wheel("mass-0119", "1.0")
    assert content == request(f"{new.devpi}/{file_of(new, 'mass/dev/mass-0119', name)}").body
    assert 200 == new.get("/readyz").status
    hold.unlink()
    seen: list[int | None] = []
    wait_for(lambda: seen.append(events_behind(new)) or seen[-1] == 0, "the events")
    known = [each for each in seen if each is not None]
    assert sorted(known, reverse=True) == known
    assert new.status()["devpi"]["backlog"]["search_index"] is None  # there is no devpi-web


# --- killed while it runs -------------------------------------------------------------------------------------------


def _pids(pid: int) -> list[int]:
    """Return the process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _pids(int(child)))]


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _go_on_a_little(pid: int) -> None:
    """Let a stopped process continue for an instant, unless it has exited."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)
        os.kill(pid, signal.SIGSTOP)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["all", "the preparation"])
def test_killed_while_syncing(container: Make, library: Path, tmp_path: Path, killed: str) -> None:
    """SIGKILL inside the syncfs that writes a loaded import to disk: the serverdir is unchanged, and imports again."""
    export = exported.write(tmp_path / "export", projects=3)
    reached = tmp_path / "reached"
    new = container(env=obstacles.stuck_in_syncfs(library, reached))
    exported.pack(export, new.init_dir / "backup.tar.gz")
    new.start().wait_phase("importing")
    wait_for(reached.exists, "the sync")
    (preparation,) = _pids(new.devpi_pid)[1:]
    assert 3 == new.status()["import"]["files"]["done"]
    assert {".sidecar"} == exported.names(new.serverdir)
    if killed == "all":
        pids = _pids(new.pid)
        new.kill()
        wait_for(lambda: all(map(_is_gone, pids)), "the exit of all processes")
        assert (new.serverdir / ".sidecar" / "staging" / "state" / ".nodeinfo").exists()
    else:
        os.kill(preparation, signal.SIGKILL)
        assert "killed" in new.wait_phase("failed")["import"]["error"]["reason"]
        assert not (new.serverdir / ".sidecar" / "staging").exists()
        assert 0 == new.stop()
    assert {".sidecar"} == exported.names(new.serverdir)
    assert {"marker.json", "promotion.json"}.isdisjoint(exported.names(new.serverdir / ".sidecar"))

    new.start().wait_ready()
    assert ("removed an incomplete state" in new.log) is (killed == "all")
    assert_completed(new, export)
    assert 2 == new.log.count("import: loading")
    assert 3 == len(get(new, "/mass/dev")["projects"])


@pytest.mark.slow
@pytest.mark.parametrize("files", [0, 1, 150], ids=lambda files: f"after {files} files")
def test_killed_while_importing(container: Make, mass: Path, files: int) -> None:
    """SIGKILL: no process survives, nothing partial can be served, and the next start imports from scratch."""
    new = container()
    exported.pack(mass, new.init_dir / "backup.tar.gz")
    new.start().wait_phase("importing")
    wait_for(lambda: new.status()["import"]["files"]["done"] >= files, f"{files} files")
    pids = _pids(new.pid)
    assert len(pids) >= 2, pids
    new.kill()
    wait_for(lambda: all(map(_is_gone, pids)), "the exit of all processes")
    assert {".sidecar"} == exported.names(new.serverdir)

    new.start().wait_ready()
    assert "removed an incomplete state" in new.log
    assert_completed(new, mass)
    assert 300 == len(get(new, "/mass/dev")["projects"])
    assert 200 == new.login("mass", MASS_PASSWORD)
    assert not (new.serverdir / ".sidecar" / "staging").exists()


@pytest.mark.slow
def test_killed_while_installing(container: Make, tmp_path: Path) -> None:
    """SIGKILL while the state is moved into place: the next start finishes that, without another import."""
    export = exported.write(tmp_path / "export", projects=2)
    for attempt in range(10):
        new = container(f"attempt {attempt}")
        exported.pack(export, new.init_dir / "backup.tar.gz")
        intent = new.serverdir / ".sidecar" / "promotion.json"
        new.start()
        deadline = time.monotonic() + 30
        while not intent.exists() and new.running and time.monotonic() < deadline:
            pass  # it lasts for milliseconds
        new.kill()
        if intent.exists():
            break
    else:
        pytest.fail("the installation was over each time before it could be killed")
    new.init_dir.rename(tmp_path / "taken away")  # it is not needed any more
    new.start().wait_ready()
    assert "finished the installation" in new.log
    assert_completed(new, export)
    assert 2 == len(get(new, "/mass/dev")["projects"])
    assert 200 == new.login("root", new.claim())
    assert not intent.exists()


@pytest.mark.slow
def test_killed_importer(container: Make, mass: Path) -> None:
    """An importer that the kernel kills for lack of memory is a failed import with that reason; the container lives."""
    new = container()
    exported.pack(mass, new.init_dir / "backup.tar.gz")
    new.start().wait_phase("importing")
    wait_for(lambda: new.status()["import"]["files"]["done"] > 0, "files")
    (importer,) = _pids(new.devpi_pid)[1:]
    os.kill(importer, signal.SIGKILL)
    error = new.wait_phase("failed")["import"]["error"]
    assert "killed" in error["reason"]
    assert "memory" in error["reason"]
    assert "memory limit" in error["hint"]
    assert 503 == new.get("/readyz").status
    assert 200 == new.get("/livez").status
    assert {".sidecar"} == exported.names(new.serverdir)
    assert not (new.serverdir / ".sidecar" / "staging").exists()
    assert 0 == new.stop()

    new.start().wait_ready()  # the hint is to start again with more memory: the archives are not at fault
    assert_completed(new, mass)


@pytest.mark.slow
def test_stopped_while_importing(container: Make, mass: Path) -> None:
    """SIGTERM ends an import at once, with code 0 and nothing left; the next start imports from scratch."""
    new = container()
    exported.pack(mass, new.init_dir / "backup.tar.gz")
    new.start().wait_phase("importing")
    wait_for(lambda: new.status()["import"]["files"]["done"] > 0, "files")
    began = time.monotonic()
    assert 0 == new.stop()
    assert time.monotonic() - began < 5
    assert {".sidecar"} == exported.names(new.serverdir)
    assert not (new.serverdir / ".sidecar" / "staging").exists()
    new.start().wait_ready()
    assert_completed(new, mass)
