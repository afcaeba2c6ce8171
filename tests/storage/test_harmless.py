"""Names that are nobody's data, and names that only look similar."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sidecar.core.errors import Exit, ExitCode
from sidecar.storage.harmless import is_harmless
from sidecar.storage.inspection import Content, Storage, examine, looks_empty
from tests.support.harmless import HARMLESS

NOT_KNOWN = [
    *(
        "lost+found2",
        "eaDir",
        "recycle",
        "zfs",
        "snapshots",
        ".snapshots.old",
        ".nfs",
        ".nfsx",
        ".Trash-",
        "Trash-1000",
    ),
    *(
        "gitkeep",
        ".git",
        "aquota.user.new",
        "DS_Store",
        "._",
        "System",
        ".stfolders",
        "server",
        "+files",
        "data",
        "..x",
    ),
    *(".secret2", "devpi.yaml.bak", "backup.bz2", ".sqlite", ".nodeinfo", ".sidecar2", " lost+found", "lost+found\n"),
]


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless(name: str) -> None:
    """Each name is known."""
    assert is_harmless(name)


@pytest.mark.parametrize("name", NOT_KNOWN)
def test_not_known(name: str, tmp_path: Path) -> None:
    """Unknown names are not; a serverdir with one is refused, with the name in the reason."""
    assert not is_harmless(name)
    (tmp_path / name).mkdir()
    assert not looks_empty(tmp_path)
    with pytest.raises(Exit) as caught:
        examine(tmp_path, Storage("sqlite"))
    assert ExitCode.DAMAGED == caught.value.code
    assert name.strip() in caught.value.reason


def test_a_serverdir_of_harmless_names_is_empty(tmp_path: Path) -> None:
    """All of them together, and the files that an operator prepares."""
    for name in (*HARMLESS, ".sidecar"):
        (tmp_path / name).mkdir()
    for name in (".secret", "devpi.yml", "devpi-server.yml"):
        (tmp_path / name).write_text("x")
    assert looks_empty(tmp_path)
    assert Content.EMPTY is examine(tmp_path, Storage("sqlite"))


def test_a_unix_socket_is_nobodys_data(tmp_path: Path) -> None:
    """devpi-server's own sockets may exist before the state; a regular file of that name is somebody's data."""
    path = tmp_path / "devpi.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))
    assert looks_empty(tmp_path)
    assert Content.EMPTY is examine(tmp_path, Storage("sqlite"))
    path.unlink()
    path.touch()
    assert not looks_empty(tmp_path)


def test_the_way_out_of_a_serverdir_of_others(tmp_path: Path) -> None:
    """The error names the entries and suggests a new folder, which counts as empty."""
    for number in range(7):
        (tmp_path / f"photo{number}.jpg").touch()
    with pytest.raises(Exit) as caught:
        examine(tmp_path, Storage("sqlite"))
    assert "photo0.jpg, photo1.jpg, photo2.jpg, photo3.jpg, photo4.jpg and 2 more" in caught.value.reason
    assert f"DEVPI_SERVERDIR={tmp_path}/state " in caught.value.hint
    assert looks_empty(tmp_path / "state")


def state(folder: Path) -> None:
    """The least that makes a folder a state."""
    folder.mkdir(parents=True)
    (folder / ".serverversion").write_text("4")
    (folder / ".nodeinfo").write_text("{}")


@pytest.mark.parametrize("below", ["server", ".devpi/server", "a/b/c"])
def test_a_state_further_down_is_named(tmp_path: Path, below: str) -> None:
    """In the folders of other images; also next to other files."""
    state(tmp_path / below)
    (tmp_path / "logs").mkdir()
    with pytest.raises(Exit) as caught:
        examine(tmp_path, Storage("sqlite"))
    assert f"its folder {below} does" in caught.value.reason
    assert f"DEVPI_SERVERDIR={tmp_path / below} " in caught.value.hint


@pytest.mark.parametrize("there", [".sidecar/marker.json", ".sqlite", "+files/x"])
def test_a_damaged_state_is_not_left_for_one_below(tmp_path: Path, there: str) -> None:
    """An old copy next to the remains of a state is not suggested: the serverdir is damaged."""
    state(tmp_path / "old-backup")
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("{}")
    with pytest.raises(Exit) as caught:
        examine(tmp_path, Storage("sqlite"))
    assert "old-backup" not in caught.value.hint
    assert "restore" in caught.value.hint


def test_where_no_state_is_looked_for(tmp_path: Path) -> None:
    """The search is limited in depth and size, and skips links and snapshots."""
    outside = tmp_path / "outside"
    state(outside)
    serverdir = tmp_path / "serverdir"
    state(serverdir / "a/b/c/d")
    state(serverdir / ".snapshots/1/server")
    (serverdir / "link").symlink_to(outside)
    with pytest.raises(Exit, match="neither empty nor"):
        examine(serverdir, Storage("sqlite"))
    many = tmp_path / "many"
    for number in range(1200):
        (many / f"{number}").mkdir(parents=True)
    with pytest.raises(Exit, match="neither empty nor"):
        examine(many, Storage("sqlite"))
