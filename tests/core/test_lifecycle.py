"""`sidecar.core.lifecycle`: the allowed phases, and the calls of listeners."""

from __future__ import annotations

import dataclasses
from datetime import UTC, timedelta

import pytest

from sidecar.core import lifecycle as lifecycle_module
from sidecar.core.lifecycle import KEPT, DevpiInfo, Failure, Lifecycle, Phase, Snapshot, now

S, I, M, L, R, T, F = (  # noqa: E741 - short names make the table readable
    Phase.STARTING,
    Phase.INITIALISING,
    Phase.IMPORTING,
    Phase.LAUNCHING,
    Phase.READY,
    Phase.STOPPING,
    Phase.FAILED,
)
ALLOWED = {
    S: {I, M, L, T, F},
    I: {L, T, F},
    M: {L, T, F},
    L: {R, T, F},
    R: {L, T, F},
    T: {F},
    F: {T, F},
}
WAY_TO = {S: [], I: [I], M: [M], L: [L], R: [L, R], T: [T], F: [F]}
"""A way to reach each phase."""


def lifecycle_in(phase: Phase) -> Lifecycle:
    lifecycle = Lifecycle()
    for step in WAY_TO[phase]:
        lifecycle.enter(step)
    return lifecycle


@pytest.mark.parametrize(("before", "after"), [(b, a) for b in Phase for a in Phase if a in ALLOWED[b]])
def test_steps_that_a_life_has(before: Phase, after: Phase) -> None:
    """Each allowed step is taken."""
    lifecycle = lifecycle_in(before)
    lifecycle.enter(after)
    assert lifecycle.snapshot.phase is after


@pytest.mark.parametrize(("before", "after"), [(b, a) for b in Phase for a in Phase if a not in ALLOWED[b]])
def test_steps_that_no_life_has(before: Phase, after: Phase) -> None:
    """Each other step is refused, naming both phases, and changes nothing."""
    lifecycle = lifecycle_in(before)
    snapshot = lifecycle.snapshot
    with pytest.raises(ValueError, match=f"from {before} to {after}"):
        lifecycle.enter(after)
    assert lifecycle.snapshot is snapshot


def test_the_history_has_every_phase_with_its_start() -> None:
    """Phases are in order, with monotonic times; the last one is the present phase's."""
    before = now()
    lifecycle = Lifecycle()
    for phase in (I, L, R, L, R, T):
        lifecycle.enter(phase)
    snapshot = lifecycle.snapshot
    times = [at for _, at in snapshot.history]
    assert [S, I, L, R, L, R, T] == [phase for phase, _ in snapshot.history]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= now()
    assert snapshot.history[-1] == (T, snapshot.since)


def test_time_in_a_phase_is_that_of_a_clock_that_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durations add up and only grow although the wall clock is set back by an hour in each phase, as NTP may do."""
    seconds, wall = 0.0, now()
    monkeypatch.setattr(lifecycle_module, "now", lambda: wall)
    lifecycle = Lifecycle(clock=lambda: seconds)
    for phase, stay in ((I, 2.0), (L, 3.0), (R, 4.0), (L, 5.0)):
        lifecycle.enter(phase)
        seconds += stay
        wall -= timedelta(hours=1)
    assert lifecycle.spent() == {S: 0, I: 2, M: 0, L: 8, R: 4, T: 0, F: 0}
    seconds += 1
    assert lifecycle.spent()[L] == 9
    assert lifecycle.snapshot.begun == (0, 0, 2, 5, 9)


def test_progress_is_no_step_and_ends_with_its_phase() -> None:
    """Other fields change; phase, since and history stay."""
    lifecycle = lifecycle_in(M)
    before = lifecycle.snapshot
    lifecycle.advance("3 of 7 files")
    lifecycle.learn(DevpiInfo("6.20.3"))
    assert "3 of 7 files" == lifecycle.snapshot.progress
    assert before == dataclasses.replace(lifecycle.snapshot, progress=None, devpi=None)
    lifecycle.enter(L)
    assert lifecycle.snapshot.progress is None
    assert DevpiInfo("6.20.3") == lifecycle.snapshot.devpi


def test_a_thousand_restarts_are_not_all_remembered() -> None:
    """The last phases are kept; durations still add up, and the first readiness is still known."""
    at = 0.0
    lifecycle = Lifecycle(clock=lambda: at)
    lifecycle.enter(L)
    for _ in range(1000):
        at += 1
        lifecycle.enter(R)
        at += 10
        lifecycle.enter(L)
    snapshot = lifecycle.snapshot
    assert KEPT == len(snapshot.history) == len(snapshot.begun)
    assert (L, at) == (snapshot.history[-1][0], snapshot.begun[-1])
    assert (1000, 10_000) == (lifecycle.spent()[L], lifecycle.spent()[R])
    assert (0, 1) == (lifecycle.began, lifecycle.first_ready)


def test_the_first_failure_is_not_forgotten() -> None:
    """The failure stays while the container stops; a later failure replaces it."""
    lifecycle = Lifecycle()
    lifecycle.enter(F, Failure("no disk", "buy one"))
    lifecycle.enter(T)
    assert lifecycle.snapshot.failure == Failure("no disk", "buy one")
    lifecycle.enter(F, Failure("worse", "fix it"))
    assert lifecycle.snapshot.failure == Failure("worse", "fix it")


def test_a_snapshot_stays_as_it_was() -> None:
    """A snapshot is not changed later, and is frozen."""
    lifecycle = Lifecycle()
    held = lifecycle.snapshot
    lifecycle.enter(L)
    assert held.phase is S
    assert len(held.history) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        held.phase = R  # type: ignore[misc]


def test_listeners_hear_every_change() -> None:
    """All listeners are called in order, with the snapshots before and after."""
    lifecycle = Lifecycle()
    first: list[tuple[Phase, Phase]] = []
    second: list[Snapshot] = []
    lifecycle.subscribe(lambda before, after: first.append((before.phase, after.phase)))
    lifecycle.subscribe(lambda _, after: second.append(after))
    lifecycle.enter(L)
    lifecycle.advance("half of it")
    lifecycle.advance("half of it")
    lifecycle.enter(R)
    assert first == [(S, L), (L, L), (L, R)]
    assert second[-1] is lifecycle.snapshot
    assert len(second) == 3


def test_a_refused_step_is_not_told() -> None:
    """Listeners are called only for changes."""
    lifecycle = Lifecycle()
    heard: list[Snapshot] = []
    lifecycle.subscribe(lambda _, after: heard.append(after))
    with pytest.raises(ValueError, match="can't go"):
        lifecycle.enter(R)
    assert heard == []


def test_now_is_utc_and_whole_milliseconds() -> None:
    """JSON shows the value that is compared."""
    at = now()
    assert at.tzinfo is UTC
    assert at.microsecond % 1000 == 0
