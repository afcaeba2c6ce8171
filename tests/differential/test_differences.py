"""Whatever devpi-server accepts over its API, and plain devpi-import loads safely, our import loads, too."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.differential.stories import (
    ODD,
    UNBEARABLE,
    Step,
    change,
    docs,
    index,
    nested,
    registered,
    release,
    stories,
    user,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
Play = Callable[..., dict[str, Any]]
SAFE = [part for part in ODD if not set(part) & set("\t\x1b\\~[ ")]
"""The oddities that devpi accepts in the name of a user or an index."""


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """Return a function that plays a story on a devpi-server, and returns the results of both imports of its export."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.differential.worker", tmp_path_factory.mktemp("differential")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    to, of = process.stdin, process.stdout

    def tell(steps: list[Step], *, strict: bool = False) -> dict[str, Any]:
        to.write(json.dumps({"steps": steps, "strict": strict}).encode() + b"\n")
        to.flush()
        answer: dict[str, Any] = json.loads(of.readline())
        return answer

    yield tell
    process.communicate()
    assert 0 == process.returncode


def left_out(answer: dict[str, Any]) -> set[str]:
    """Return the names of what our import has left out; all of it must be named."""
    said = answer["ours"]["left_out"]
    names = {each["member"] for each in said["first"]}
    assert said["total"] == len(said["first"])
    return names


def comparable(holds: dict[str, Any], without: set[str]) -> str:
    """Return a state without what was left out, and without root's password, which plain devpi-import leaves empty."""
    data, files = copy.deepcopy(holds["data"]), dict(holds["files"])
    for name, each in data["users"].items():
        if name == "root" or f"the password hash of user {name!r}" in without:
            each.pop("pwhash", None)
            each.pop("pwsalt", None)
    for each in data["indexes"].values():
        kept = [file for file in each.get("files", []) if file["relpath"] not in without]
        if "files" in each:
            each["files"] = sorted(kept, key=lambda file: json.dumps(file, sort_keys=True))
    files = {relpath: content for relpath, content in files.items() if relpath not in without}
    return json.dumps([data, files], sort_keys=True)


def check(answer: dict[str, Any]) -> None:
    """Check that both imports end alike, and that their states are equal."""
    if answer["export"]["outcome"] != "done" or answer["bare"]["outcome"] != "done":
        return  # devpi's own export or import fails, so there is nothing to compare
    assert "done" == answer["ours"]["outcome"], (answer["ours"], answer["log"])
    names = left_out(answer)
    assert all(name.startswith(("../", "the password hash of user ")) for name in names), names
    assert comparable(answer["bare"]["holds"], names) == comparable(answer["ours"]["holds"], names)


ALICE = [user("alice"), index("alice", "dev")]
DEV = "alice/dev"
KNOWN: dict[str, list[Step]] = {
    "characters in versions": [
        *ALICE,
        *(release(DEV, "pkg", f"1{odd}0", f"pkg-1{odd}0.zip") for odd in ODD),
        *(docs(DEV, "pkg", f"1{odd}0") for odd in ODD),
    ],
    "characters in file names": [*ALICE, *(release(DEV, "pkg", "1", f"pkg-1{odd}.zip") for odd in ODD)],
    "versions that are folders": [
        *ALICE,
        *(release(DEV, "pkg", version, f"pkg-{version}.zip") for version in ("..", ".", "...")),
        *(docs(DEV, "pkg", version) for version in ("..", ".", "...")),
    ],
    "characters in users and indexes": [
        step
        for name in (*(f"a{odd}" for odd in SAFE), ".")
        for step in (
            user(name),
            index(name, "dev"),
            index(name, name),
            release(f"{name}/{name}", "pkg", "1", "pkg-1.zip"),
        )
    ],
    "an index above": [user("alice"), index("alice", ".."), release("alice/..", "pkg", "1", "pkg-1.zip")],
    "names beyond ASCII that devpi's regular expression takes": [
        *ALICE,
        *(release(DEV, name, "1", f"{name}-1.zip") for name in ("\u017f", "pkg\u017f", "\u212aelvin")),
    ],
    "a NUL": [*ALICE, registered(DEV, "pkg", "1\x000", summary="\0")],
    "one path for two projects' documentation": [*ALICE, docs(DEV, "a", "b-1"), docs(DEV, "a-b", "1")],
    "one path for two projects' files": [
        *ALICE,
        release(DEV, "a", "1", "a-b-1.zip"),
        release(DEV, "a-b", "1", "a-b-1.zip"),
    ],
    "values of users": [
        *(user(f"user{n}", title=value) for n, value in enumerate((5, {"a": 1}, ["x"], True, math.inf, 10**100))),
        user("carol", custom_data=math.nan, email=[1], description="\0\x1b"),
    ],
    "values of indexes": [
        user("alice"),
        index("alice", "dev", title={"a": [1]}, custom_data=math.nan, projects={"x": 1}),
    ],
    "values in values": [
        user("carol", custom_data=nested(300)),
        index("carol", "dev", custom_data=nested(300)),
    ],
}
"""Each of these was refused once, as a whole."""


@pytest.mark.parametrize("name", KNOWN)
def test_what_devpi_takes_comes_back(play: Play, name: str) -> None:
    """devpi accepts, exports and imports it: our import loads it, leaves nothing out, and changes nothing."""
    answer = play(KNOWN[name])
    assert {200, 201} >= set(answer["statuses"])
    assert "done" == answer["bare"]["outcome"]
    check(answer)
    assert set() == left_out(answer)


UNSAFE: dict[str, tuple[list[Step], set[str]]] = {
    "a user above": (
        [user(".."), index("..", "dev"), release("../dev", "pkg", "1", "pkg-1.zip")],
        {"../dev/pkg/1/pkg-1.zip"},
    ),
    "a user and an index above": (
        [user(".."), index("..", ".."), release("../..", "pkg", "1", "pkg-1.zip")],
        {"../../pkg/1/pkg-1.zip"},
    ),
    "a hash that takes 4 GiB": ([user("carol", pwhash=UNBEARABLE)], {"the password hash of user 'carol'"}),
    "a salt that is no text": (
        [user("carol"), change("carol", pwsalt={"x": 1})],
        {"the password hash of user 'carol'"},
    ),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_is_unsafe_is_left_out_alone(play: Play, name: str) -> None:
    """devpi accepts it and plain devpi-import loads it; our import leaves out only that, and names it."""
    steps, expected = UNSAFE[name]
    answer = play([*ALICE, release(DEV, "pkg", "1", "pkg-1.zip"), *steps])
    assert {200, 201} >= set(answer["statuses"])
    assert "done" == answer["bare"]["outcome"]
    check(answer)
    assert expected == left_out(answer)
    assert "alice/dev/pkg/1/pkg-1.zip" in answer["ours"]["holds"]["files"]
    refused = play([*ALICE, *steps], strict=True)["ours"]
    assert "refused" == refused["outcome"]
    assert next(iter(expected)) in refused["why"]
    assert "SIDECAR_IMPORT_STRICT" in refused["why"]


STORIES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@settings(STORIES, max_examples=25, derandomize=True, database=None)
@given(steps=stories())
def test_stories(play: Play, steps: list[Step]) -> None:
    """Many stories, the same in every run; different ones without `derandomize`."""
    check(play(steps))
