"""Every trick of `tests.support.hostile` is refused for its reason, fast, in little memory, with no change outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.exports.dataindex import Checked
from sidecar.exports.index_json import parse
from sidecar.exports.sources import Budget, ImportRefused, Limits, Omissions, find
from sidecar.exports.unpack import unpack
from tests.support.hostile import corpus, judge

pytestmark = pytest.mark.slow

PEAK = 64 * 2**20
"""Bytes of memory, including Python's own."""
SECONDS = 2.0
"""Seconds of CPU: the clock is useless on a busy machine, and none of this waits."""
ROOT = Path(__file__).resolve().parents[2]


class Judge:
    """The judging process, a folder for each case, and a folder that must not be touched."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.init, self.volume, self.outside = home / "init", home / "volume", home / "outside"
        self.staging = self.volume / "staging"
        for folder in (self.init, self.staging, self.outside):
            folder.mkdir(parents=True)
        (self.outside / "victim").write_text("untouched")
        (self.volume / "neighbour").write_text("untouched")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hostile.judge"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def close(self) -> None:
        self._process.communicate()
        assert 0 == self._process.returncode

    def surroundings(self) -> dict[str, tuple[int, ...]]:
        """Everything except staging: inode, mode, links, size, and time of change."""
        found = {}
        for folder, folders, files in os.walk(self.home):
            if Path(folder) == self.staging:
                folders.clear()
                continue
            for name in [*folders, *files]:
                path = Path(folder, name)
                status = path.lstat()
                if path != self.staging:
                    found[str(path)] = (
                        status.st_ino, status.st_mode, status.st_nlink, status.st_size, status.st_mtime_ns,
                        status.st_ctime_ns,
                    )  # fmt: skip
        return found

    def judge(self, case: corpus.Case, *, strict: bool) -> tuple[dict[str, Any], list[str]]:
        """The verdict, and what it did that no archive may do."""
        archive = self.init / f"evil.{case.suffix}"
        archive.write_bytes(case.raw)
        before = self.surroundings()
        task = {"init": str(self.init), "staging": str(self.staging), "limits": case.limits, "strict": strict}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(task).encode() + b"\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        wrong = [] if before == self.surroundings() else ["something outside of staging was touched"]
        wrong += self._clear()
        archive.unlink()
        return said, wrong

    def _clear(self) -> Iterator[str]:
        """Empty staging again; report what in it is no private file or folder."""
        walked = list(os.walk(self.staging, topdown=False))
        names = Counter(Path(folder, name).lstat().st_ino for folder, _, files in walked for name in files)
        links = {number: names[number] for number in names}
        for folder, folders, files in walked:
            for name in files:
                path = Path(folder, name)
                status = path.lstat()
                if status.st_mode != 0o100600 or status.st_nlink != links[status.st_ino]:
                    yield f"{name} is no plain private file"
                links[status.st_ino] -= 1
                path.unlink()
            for name in folders:
                path = Path(folder, name)
                if path.lstat().st_mode != 0o40700:
                    yield f"{name} is no plain private folder"
                path.rmdir()


def faults(case: corpus.Case, said: dict[str, Any], *, strict: bool) -> Iterator[str]:
    """What is wrong with a judgement."""
    if case.left_out is not None and not strict:
        yield from _of_leaving_out(case, said)
    elif said["outcome"] == "refused":
        if case.reason is None or case.reason not in said["reason"]:
            yield f"the reason is {said['reason']!r}"
        if not said["hint"] or said["archive"] != f"evil.{case.suffix}":
            yield f"no hint, or the archive is {said['archive']!r}"
        if case.member is not None and said["member"] != case.member[:200]:
            yield f"the member is {said['member']!r}"
    elif said["outcome"] == "loaded":
        if case.reason is not None and not case.may_be_sound:
            yield "it was loaded"
        if said["data"] != {key: corpus.INDEX[key] for key in said["data"]} and case.suffix != "tar":
            yield "other data was loaded"
        if said["left_out"] and not case.may_be_sound:
            yield f"{said['left_out']} was left out"
    else:
        yield f"it {said['outcome']}: {said['reason']}"
    if said["cpu_seconds"] > SECONDS:
        yield f"it took {said['cpu_seconds']:.1f} s"
    if said["peak"] > PEAK:
        yield f"it took {said['peak'] >> 20} MiB"


def _of_leaving_out(case: corpus.Case, said: dict[str, Any]) -> Iterator[str]:
    assert case.left_out is not None
    if said["outcome"] != "loaded":
        yield f"it {said['outcome']}: {said['reason']}"
    elif said["data"] != {key: case.left_out[key] for key in said["data"]}:
        yield "other data was loaded"
    elif not said["left_out"] or not all(case.reason in reason for _, reason in said["left_out"]):
        yield f"{said['left_out']} was left out"


def test_the_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each trick, in each format, truncated and flipped: refused for its reason (or harmless), and within limits.

    Only unsafe content is left out, and named; with SIDECAR_IMPORT_STRICT it is refused.
    """
    it = Judge(tmp_path)
    wrong: list[str] = []
    count = peak = seconds = 0
    for case in corpus.cases(str(it.outside)):
        for strict in [False] if case.left_out is None else [False, True]:
            said, touched = it.judge(case, strict=strict)
            wrong += [f"{case.name}: {fault}" for fault in [*touched, *faults(case, said, strict=strict)]]
            count, peak, seconds = count + 1, max(peak, said["peak"]), max(seconds, said["cpu_seconds"])
    it.close()
    with capsys.disabled():
        print(f" {count} archives, at most {seconds:.1f} s and {peak >> 20} MiB each ", end="")
    assert not wrong, "\n".join(wrong)
    assert count > 600


# --- fuzz -------------------------------------------------------------------------------------------------------------


@given(data=st.data(), suffix=st.sampled_from(sorted(corpus.PACKERS)))
def test_any_bytes(data: st.DataObject, suffix: str) -> None:
    """Whatever is cut out of an archive, inserted or doubled, the result is a tree or a refusal."""
    raw = corpus.PACKERS[suffix](corpus.export() + corpus.ZEROS)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(start, min(len(raw), start + 2000)))
        raw = raw[:start] + data.draw(st.binary(max_size=600) | st.just(raw[start:end] * 2)) + raw[end:]
    with TemporaryDirectory() as home:
        init, into = Path(home, "init"), Path(home, "into")
        init.mkdir()
        (init / f"e.{suffix}").write_bytes(raw)
        with suppress(ImportRefused):
            omissions = Omissions(strict=data.draw(st.booleans()))
            assert unpack(find(init).sources[0], into, Limits(), Budget(10**7), judge.Quiet(), omissions).root == into


json_text = st.recursive(
    st.sampled_from(["1e999", "-0", "1e-999", "9" * 5000, "null", "NaN", '"\\ud800"', '"\\u0000"', '""', "{}", "[]"])
    | st.integers().map(str)
    | st.floats().map(repr)
    | st.text(max_size=5).map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{','.join(each)}]")
        | st.dictionaries(st.text(max_size=5), inner, max_size=3).map(
            lambda each: "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in each.items()) + "}"
        )
    ),
    max_leaves=6,
)


@given(data=st.data())
def test_any_json(data: st.DataObject) -> None:
    """Whatever JSON, or nearly JSON, is anywhere in a dataindex.json, the result is data or a refusal."""
    raw = json.dumps(corpus.INDEX)
    places = [at for at, sign in enumerate(raw) if sign in ":[,"]
    at = data.draw(st.sampled_from(places)) + 1
    end = at + data.draw(st.integers(0, 12))
    fixed = (raw[:at] + data.draw(json_text) + raw[end:]).encode()
    with suppress(ImportRefused):
        omissions = Omissions(strict=data.draw(st.booleans()))
        checked = Checked(parse(fixed, "e", "dataindex.json"), "e", "dataindex.json", False, omissions)
        assert all(not path.startswith(("/", "..")) for path in checked.relpaths)
        assert json.dumps(json.loads(json.dumps(checked.data).encode())) == json.dumps(checked.data)
