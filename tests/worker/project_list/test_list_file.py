"""`sidecar.worker.project_list.list_file`: exact membership, order, and no list that is not complete."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.worker.project_list import list_file
from sidecar.worker.project_list.list_file import ListFile
from sidecar.worker.project_list.names import normalize
from sidecar.worker.project_list.sorting import Sorter
from tests.worker.project_list.documents import URL

NAME = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,8}[A-Za-z0-9])?", fullmatch=True)


def write(path: Path, names: Iterable[object], fetched_at: float = 1000.0) -> ListFile:
    """A list of `names`, in any order."""
    scratch = os.memfd_create("runs")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        sorter = Sorter(scratch)
        for name in names:
            sorter.add([name])
        list_file.write(file, {"url": URL, "etag": '"1"'}, fetched_at, sorter.sorted())
    finally:
        os.close(scratch)
        os.close(file)
    return ListFile.open(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(NAME, max_size=40), others=st.lists(NAME | st.text(max_size=10), max_size=20), run=st.integers(1, 50)
)
def test_membership_and_order_are_those_of_a_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], others: list[str], run: int
) -> None:
    monkeypatch.setattr("sidecar.worker.project_list.sorting.RUN", run)  # several runs, merged
    expected = {normalize(name) for name in names}
    written = write(tmp_path / "list", names)
    assert len(written) == len(expected)
    assert [normalize(name) for name in written] == sorted(expected)
    assert set(written) <= set(names)
    assert all(written.find(name) in names for name in expected)
    for other in others:
        normalized = normalize(other)
        assert (normalized in written) == (normalized in expected)
    written.close()


def test_a_name_is_found_as_upstream_writes_it(tmp_path: Path) -> None:
    written = write(tmp_path / "list", ["zope.interface", "Django", "A_b", "a.B", "x"])
    assert written.find("zope-interface") == "zope.interface"
    assert written.find("django") == "Django"
    assert written.find("a-b") == "A_b"
    assert "Django" not in written  # callers normalise
    assert "" not in written
    assert "\n" not in written
    assert "zzz" not in written
    assert (written.url, written.etag, written.fetched_at) == (URL, '"1"', 1000.0)


def test_no_part_of_a_file_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list"
    write(path, [f"name{number}" for number in range(50)]).close()
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError):  # noqa: PT011 - also mmap's, of an empty file
            ListFile.open(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="not complete"):
        ListFile.open(path)


def test_no_changed_byte_stays_unnoticed_but_the_times(tmp_path: Path) -> None:
    path = tmp_path / "list"
    write(path, ["a", "b", "cc"]).close()
    whole = path.read_bytes()
    time = range(len(list_file.MAGIC), len(list_file.MAGIC) + 8)
    for at in set(range(len(whole))) - set(time):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"complete|checksum"):
            ListFile.open(path)


def test_a_link_or_another_kind_of_file_is_no_list(tmp_path: Path) -> None:
    write(tmp_path / "list", ["a"]).close()
    (tmp_path / "link").symlink_to("list")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "absent", "."):
        with pytest.raises((OSError, ValueError)):
            ListFile.open(tmp_path / name)


def test_a_confirmation_changes_only_the_time_also_of_the_open_list(tmp_path: Path) -> None:
    path = tmp_path / "list"
    opened = write(path, ["a", "b"])
    list_file.confirm(path, 2000.5)
    assert opened.fetched_at == 2000.5
    assert list(ListFile.open(path)) == ["a", "b"]


def test_lookups_of_many_threads_go_on_while_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "list"
    names = [f"name{number}" for number in range(2000)]
    opened = write(path, names)
    wrong: list[str] = []

    def look_up() -> None:
        wrong.extend(name for name in names if opened.find(name) != name or f"{name}x" in opened)

    threads = [threading.Thread(target=look_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    write(tmp_path / "new", ["other"]).close()
    (tmp_path / "new").rename(path)
    for thread in threads:
        thread.join()
    assert not wrong
    assert list(ListFile.open(path)) == ["other"]
