"""Each fault of an upstream, for pages that are cached or not, private projects and unknown names; pip and uv."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from testbed.upstream import Fault, Upstream, numbered
from tests.support.container import Container, cleared_away, wait_for
from tests.support.mirror_faults import FAULTS, UpstreamFault
from tests.support.mirrored import Mirrored, Page

pytestmark = pytest.mark.slow

FLAGS = ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--request-timeout", "2")
VERSIONS = 2
INDEXES = ("mirror", "dev")
LISTS = (False, True)
"""Without a list of projects, and with one."""
LATER = (502, 503, 504)
RECOVERY = 30.0
"""Seconds, twice as long as documented."""
_numbers = itertools.count()


@pytest.fixture(scope="module", params=LISTS, ids=["no list", "list"])
def mirrored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    """A mirror that has cached `cached`; `private` is in `dev`, which inherits from it."""
    with (
        Upstream(["cached", "private"], size=2000, versions=VERSIONS) as upstream,
        cleared_away(Container(tmp_path_factory.mktemp("faults"), flags=FLAGS)) as made,
    ):
        mirrored = Mirrored(lambda _, **__: made, upstream, project_list=request.param)
        wait_for(lambda: mirrored.page("dev", "cached") == Page(200, VERSIONS, None), "the first page")
        assert mirrored.page("dev", "nowhere").status == 404
        mirrored.upload("dev", "private")
        if not request.param:  # otherwise the list would expire too
            mirrored.patch("mirror", mirror_cache_expiry=0)
        yield mirrored


@pytest.fixture
def new() -> str:
    """A project of the upstream that was not requested yet."""
    return numbered(next(_numbers))


@pytest.fixture
def failing(mirrored: Mirrored) -> Iterator[Callable[[UpstreamFault], None]]:
    """Let the upstream fail until the end of the test; afterwards the mirror has recovered."""

    def fail(fault: UpstreamFault) -> None:
        fault.begin(mirrored.upstream)
        if fault.https:
            mirrored.patch("mirror", mirror_url=mirrored.upstream.url.replace("http:", "https:"))

    yield fail
    mirrored.upstream.heal()
    mirrored.patch("mirror", mirror_url=mirrored.upstream.url)
    recovered(mirrored)
    wait_for(lambda: mirrored.page("dev", "cached") == Page(200, VERSIONS, None), "the cached page", RECOVERY)


def recovered(mirrored: Mirrored) -> float:
    """Wait until the mirror has pages again; return the seconds."""
    began = time.monotonic()
    name = numbered(next(_numbers))
    wait_for(lambda: mirrored.page("dev", name) == Page(200, VERSIONS, None), "a page after the fault", RECOVERY)
    return time.monotonic() - began


def failed(answer: Page, fault: UpstreamFault) -> bool:
    """Whether it is an answer that clients retry, as documented for the fault."""
    if answer.status not in fault.statuses or answer.files:
        return False
    return answer.retry_after is not None and 1 <= int(answer.retry_after) <= int(fault.retry_after or 5)


@pytest.mark.parametrize(
    ("mirrored", "fault"),
    [*((True, fault) for fault in FAULTS), *((False, fault) for fault in FAULTS[::4])],
    ids=lambda value: value.what if isinstance(value, UpstreamFault) else None,
    indirect=["mirrored"],
    scope="module",
)
def test_each_fault(
    mirrored: Mirrored, failing: Callable[[UpstreamFault], None], new: str, fault: UpstreamFault
) -> None:
    """As documented, in the mirror and in an index that inherits from it; all wrong answers are listed."""
    listed = mirrored.has_list and not fault.https  # otherwise the list is that of the upstream with http
    asked = mirrored.upstream.count("/simple/private/")
    failing(fault)
    wrong: list[str] = []

    def expect(right: bool, what: str, answer: Page) -> None:
        if not right:
            wrong.append(f"{what}: {answer}")

    for index in INDEXES:
        answer = mirrored.page(index, new)
        expect(failed(answer, fault), f"{index}, not cached", answer)
        answer = mirrored.page(index, "cached")
        expect(answer == Page(200, VERSIONS, None), f"{index}, cached", answer)
        answer = mirrored.page(index, "nowhere")
        expect(answer.status == 404 if listed else failed(answer, fault), f"{index}, unknown", answer)
    answer = mirrored.page("dev", "private")
    expect(answer == Page(200, 1, None), "private", answer)
    assert [] == wrong
    assert asked == mirrored.upstream.count("/simple/private/")


# --- the list itself ------------------------------------------------------------------------------------------------

LIST_FAULTS: dict[str, Fault] = {
    "never answers": Fault(hang=True),
    "answers after 60 s": Fault(seconds=60),
    "500": Fault(500),
    "503": Fault(503, "7"),
    "cut": Fault(cut=True),
    "garbage": Fault(garbage=True),
    "304 without a list": Fault(304),
    "404": Fault(404),
    "login page": Fault(body=b"<title>Log in</title>", kind="text/html"),
    "endless": Fault(endless=True),
}


@pytest.fixture
def listed(mirrored: Mirrored) -> Iterator[tuple[str, str]]:
    """A new mirror that keeps the list, and an index that inherits from it; the upstream has no fault afterwards."""
    number = next(_numbers)
    mirror, above = f"listed{number}", f"above{number}"  # devpi-server remembers lists by the index's name
    mirrored.put(mirror, type="mirror", mirror_url=mirrored.upstream.url, mirror_no_project_list=False)
    mirrored.put(above, bases=[f"root/{mirror}"])
    yield mirror, above
    mirrored.upstream.heal()
    for index in (above, mirror):
        mirrored.delete(index)


@pytest.mark.parametrize("mirrored", [True], indirect=True, scope="module")
@pytest.mark.parametrize("kind", LIST_FAULTS)
def test_a_list_that_was_never_there(mirrored: Mirrored, listed: tuple[str, str], new: str, kind: str) -> None:
    """While there is no list, upstream is asked for each name: pages, and 404 only for what upstream does not have."""
    mirrored.upstream.list_fault = LIST_FAULTS[kind]
    for index in listed:
        assert mirrored.page(index, new) == Page(200, VERSIONS, None), index
        assert mirrored.page(index, "nowhere").status == 404, index
    mirrored.upstream.page_fault = Fault(500)
    for index in listed:
        for name in (numbered(next(_numbers)), "nowhere-either"):
            answer = mirrored.page(index, name)
            assert answer.status in LATER, (index, name, answer)
            assert answer.retry_after is not None


@pytest.mark.parametrize("mirrored", [True], indirect=True, scope="module")
@pytest.mark.parametrize("kind", LIST_FAULTS)
def test_a_list_that_cannot_be_refreshed(mirrored: Mirrored, listed: tuple[str, str], kind: str) -> None:
    """The old list is kept, and it hides no project, whether it has it or not."""
    mirror, above = listed
    late = f"late-{next(_numbers)}"
    wait_for(lambda: mirrored.page(above, numbered(next(_numbers))).files == VERSIONS, "the first page")
    mirrored.upstream.list_fault = LIST_FAULTS[kind]
    mirrored.patch(mirror, mirror_cache_expiry=0)
    for _ in range(3):
        assert mirrored.page(above, numbered(next(_numbers))) == Page(200, VERSIONS, None)
    answer = mirrored.page(above, late)
    assert answer.status == 404 or (answer.status in LATER and answer.retry_after is not None), answer
    mirrored.upstream.add(late)
    answer = mirrored.page(above, late)
    assert answer == Page(200, VERSIONS, None) or answer.status in LATER, answer


# --- a stuck upstream -----------------------------------------------------------------------------------------------


def test_private_projects_do_not_wait_for_a_stuck_upstream(mirrored: Mirrored) -> None:
    """Sixty clients wait for an upstream that never answers: private pages do not queue behind them."""
    mirrored.upstream.swallow()
    names = [numbered(next(_numbers)) for _ in range(60)]
    waiting = [threading.Thread(target=mirrored.page, args=("dev", name), daemon=True) for name in names]
    try:
        for thread in waiting:
            thread.start()
        wait_for(lambda: mirrored.upstream.connections > 0, "the first of them")
        for _ in range(10):
            assert mirrored.page("dev", "private") == Page(200, 1, None)
            assert any(thread.is_alive() for thread in waiting) or mirrored.upstream.connections
    finally:
        for thread in waiting:
            thread.join(60)
        mirrored.upstream.heal()
    assert not any(thread.is_alive() for thread in waiting)
    recovered(mirrored)
