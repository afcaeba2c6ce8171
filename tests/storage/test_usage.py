"""The size of the serverdir, counted in the background: correct, bounded, and without disturbance."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from sidecar.storage import usage
from sidecar.storage.usage import count


def fill(folder: Path, files: int) -> None:
    """A tree like devpi's `+files`: many folders, some files with several names, a link out of it."""
    for number in range(files):
        place = folder / f"{number % 7:02}" / f"{number % 31:03}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.whl").write_bytes(b"x" * (number * 37 % 20_000))
    os.link(folder / "00" / "000" / "0.whl", folder / "second-name")
    os.link(folder / "01" / "001" / "1.whl", folder / "another-name")
    (folder / "elsewhere").symlink_to("/usr")


def used(folder: Path) -> int:
    """Bytes on disk below a folder, as by `du`: each inode once."""
    found = {stat.st_ino: stat.st_blocks * 512 for stat in (path.lstat() for path in folder.rglob("*"))}
    return sum(found.values())


async def test_it_counts_as_du_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes on disk; files with two names count once, links are not followed; in several batches."""
    monkeypatch.setattr(usage, "_REST", 0.0)
    fill(tmp_path, 1000)
    await asyncio.to_thread(os.sync)  # a file's blocks are known once it is synced
    found = await count(tmp_path)
    assert used(tmp_path) == found.bytes > 1_000_000
    assert len([*tmp_path.rglob("*")]) == found.files  # noqa: ASYNC240


async def test_it_rests_most_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses grow with the duration: at most 5 % of the time is spent."""
    fill(tmp_path, 600)
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", rest)
    began = time.monotonic()
    await count(tmp_path)
    worked = time.monotonic() - began
    assert len(rests) >= 2
    assert 0 < sum(rests) <= 19 * worked
    assert sum(rests) > 19 * worked / 10


async def test_what_vanishes_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """devpi-server may remove files meanwhile."""
    fill(tmp_path, 600)
    whole = await count(tmp_path)

    async def devpi_removes(_seconds: float) -> None:
        for path in [*tmp_path.rglob("*.whl")][::2]:  # noqa: ASYNC240
            path.unlink()

    monkeypatch.setattr(asyncio, "sleep", devpi_removes)
    assert 0 < (await count(tmp_path)).files < whole.files


async def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """The task survives it."""
    with pytest.raises(FileNotFoundError):
        await count(tmp_path / "gone")
