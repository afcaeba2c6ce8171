"""Lives of a container, what the world was told during one, and what must hold after it was killed."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import steps
from tests.chaos.steps import Kill
from tests.integration import exported
from tests.integration.container import (
    Container,
    alive,
    call_devpi,
    children,
    cleared_away,
    login_token,
    request,
    upload_form,
    wait_for,
)

PROJECTS, FILES = 3, 2
"""What the imported archive holds: projects, and files of each."""
PROMPT = 10.0
"""Seconds within which a container that was killed is gone with all its processes."""

STORIES: dict[str, tuple[str, ...]] = {
    "first": ("start", "claim", "upload", "stop"),
    "import": ("start", "claim", "upload", "stop"),
    "adopted": ("start", "upload", "rotate", "upload", "stop"),
    "later": ("start", "claim", "upload", "rotate", "upload", "stop", "start", "upload", "rotate", "stop"),
}
"""What happens in each life. `first` begins with nothing, `import` with an archive, `later` with an unclaimed
state, and `adopted` with one that was not made here, whose password is known."""


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class Told:
    """What the world was told, which must hold from then on; and what it asked without having an answer yet."""

    password: str | None = None
    """root's password, as last told."""
    asked: str | None = None
    """`claim`, `rotate` or `upload`: begun, and not answered."""
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Acknowledged uploads to `root/dev`: content by project."""
    unsure: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Uploads without an answer: there or not, but never something else."""
    token: str | None = None
    """A login of root's."""
    stopped: bool = False
    """It was stopped cleanly, and not started since."""


# --- to live ----------------------------------------------------------------------------------------------------------


def live(container: Container, story: tuple[str, ...], told: Told) -> None:
    """One life, act by act. Raises whatever a client meets when the container dies under it."""
    for act in story:
        ACTS[act](container, told)


def _start(container: Container, told: Told) -> None:
    told.stopped = False
    container.start().wait_ready()


def _claim(container: Container, told: Told) -> None:
    told.asked = "claim"
    told.password = container.claim()
    told.asked = None


def _rotate(container: Container, told: Told) -> None:
    told.asked = "rotate"
    answer = container.post("/bootstrap/rotate")
    assert answer.status == 200, answer
    told.password, told.asked, told.token = answer.json["password"], None, None


def _upload(container: Container, told: Told) -> None:
    devpi = container.devpi
    if told.token is None:
        assert told.password is not None
        told.token = login_token(devpi, told.password)
    index = f"{devpi}/root/dev"
    if not told.files:
        answer = call_devpi(index, "PUT", {"bases": [], "volatile": True}, token=told.token)
        assert answer.status in (200, 409), answer
    name = f"p{len(told.files)}"
    content = hashlib.sha256(name.encode()).digest() * (100 * 4 ** len(told.files))
    told.asked, told.unsure[name] = "upload", content
    body, kind = upload_form(name, content)
    answer = call_devpi(f"{index}/", "POST", body, token=told.token, kind=kind)
    assert answer.status == 200, answer
    told.files[name], told.asked = told.unsure.pop(name), None


def _stop(container: Container, told: Told) -> None:
    code = container.stop()
    assert code == 0, f"stopped with {code}"
    told.stopped = True


ACTS: dict[str, Callable[[Container, Told], None]] = {
    "start": _start,
    "claim": _claim,
    "upload": _upload,
    "rotate": _rotate,
    "stop": _stop,
}

DEATHS = (OSError, http.client.HTTPException, AssertionError, ValueError, KeyError)
"""What a client of a dying container may meet: anything but the truth's opposite, which is looked for afterwards."""


@dataclass
class Outcome:
    """One life that was killed, and what came of it."""

    life: str
    step: str
    """Where: a step's name, or `random instant`; of several kills the last one's."""
    victim: str
    what: str
    """What the next start found."""
    planned: int
    """Kills that were planned."""
    kills: int = 0
    """Kills that came about: sent to a process that lived."""
    violation: str | None = None


# --- to kill ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instant:
    """SIGKILL a number of seconds into a life, whatever is done then; `victim` as a `Kill` has it."""

    seconds: float
    victim: str

    def __str__(self) -> str:
        return f"{self.seconds:.3f}@{self.victim}"

    @classmethod
    def parse(cls, text: str) -> Instant:
        """Back from its text."""
        seconds, _, victim = text.partition("@")
        return cls(float(seconds), victim)


@dataclass(frozen=True)
class Plan:
    """Which life is killed where; the second kill is for the start after the first one."""

    life: str
    kills: tuple[Kill | Instant, ...]

    def __str__(self) -> str:
        return ";".join([self.life, *map(str, self.kills)])

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Back from its text."""
        life, *kills = text.split(";")
        return cls(life, tuple(Kill.parse(kill) if "|" in kill else Instant.parse(kill) for kill in kills))


class Workshop:
    """What all lives begin from: the library, the archive, an unclaimed state; and the steps of each life."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.library = steps.build(home)
        self._archive = exported.pack(exported.write(home / "export", PROJECTS, FILES), home / "export.tar")
        self._state = self._make_state()
        self.fsck = Fsck()
        self._numbers = iter(range(1_000_000))
        self._lock = threading.Lock()

    def _make_state(self) -> Path:
        with cleared_away(Container(self._home / "state")) as container:
            container.start().wait_ready()
            assert container.stop() == 0
            return container.serverdir

    def begin(self, life: str) -> tuple[Container, Told]:
        """A new container at the begin of a life, and what the world knows already."""
        told = Told()
        with self._lock:
            number = next(self._numbers)
        container = Container(self._home / f"life-{number}")
        if life == "import":
            self.give_archive(container)
        if life in ("later", "adopted"):
            shutil.copytree(self._state, container.serverdir)
        if life == "adopted":
            told.password = json.loads((self._state / ".sidecar" / "root-password.json").read_text())["password"]
            shutil.rmtree(container.serverdir / ".sidecar")
        return container, told

    def give_archive(self, container: Container) -> None:
        """Let it import, where its serverdir is empty."""
        container.init_dir.mkdir()
        shutil.copy(self._archive, container.init_dir)

    def record(self, life: str) -> tuple[Container, Path, Told]:
        """Live a whole life and record it: the container, which has ended, the trace, and what was told."""
        container, told = self.begin(life)
        trace = container.home / "trace"
        steps.watch(container, self.library, trace=trace)
        with cleared_away(container):
            live(container, STORIES[life], told)
        steps.let_alone(container)
        return container, trace, told

    def execute(self, plan: Plan) -> Outcome:
        """Live, be killed, start again, and look."""
        container, told = self.begin(plan.life)
        outcome = Outcome(plan.life, "", "", "", planned=len(plan.kills))
        with cleared_away(container):
            try:
                self._kill(container, plan, told, outcome)
                steps.let_alone(container)
                outcome.what = check(container, plan.life, told, self.fsck)
            except Exception as error:
                log = container.log[-3000:] if container.log_file.exists() else ""
                outcome.violation = f"{type(error).__name__}: {error}\n--- told: {told}\n--- its log:\n{log}"
                return outcome
        shutil.rmtree(container.home)
        return outcome

    def _kill(self, container: Container, plan: Plan, told: Told, outcome: Outcome) -> None:
        story = STORIES[plan.life]
        for kill in plan.kills:
            outcome.victim = kill.victim
            if isinstance(kill, Kill):
                outcome.step = f"{kill.process} {kill.name}"
                outcome.victim += " (torn)" if kill.how == "torn" else ""
                steps.watch(container, self.library, kill=kill)
                try:
                    live(container, story, told)
                except DEATHS as error:
                    if not steps.died_at(container).exists():
                        raise
                    end(container, error)
                reached = steps.died_at(container).exists()
            else:
                outcome.step = "random instant"
                steps.let_alone(container)
                hit: list[int] = []
                timer = threading.Timer(kill.seconds, kill_now, (container, kill.victim, hit))
                timer.start()
                try:
                    live(container, story, told)
                except DEATHS as error:
                    if not hit:
                        raise
                    timer.join()
                    end(container, error)
                finally:
                    timer.cancel()
                    timer.join()
                reached = bool(hit)
            if reached:
                outcome.kills += 1
            else:
                outcome.step, outcome.victim = f"{outcome.step} (not reached)", "nobody"
            if container.running:  # the kill hit a process on its way out, or came too late
                container.stop()
            story = ("start", "stop")


def kill_now(container: Container, victim: str, hit: list[int]) -> None:
    """SIGKILL to the `sidecar`, its `child` or `both`, as far as they live; `hit` gets their ids, before they die."""
    with contextlib.suppress(OSError, AssertionError, ValueError):
        pids = [] if victim == "sidecar" else children(container.pid)
        for pid in [*pids, *([] if victim == "child" else [container.pid])]:
            if alive(pid):
                hit.append(pid)
                os.kill(pid, signal.SIGKILL)


def end(container: Container, met: BaseException) -> None:
    """Wait until the container, some process of which was killed, has ended as it should: by itself."""
    if container.running and _phase(container) == "failed":  # on its way out, or the import's preparation was killed
        container.stop()
    try:
        container.wait_end(PROMPT)
    except Exception:
        raise Violation(f"it still runs {PROMPT:.0f} s after the kill; the client met {met!r}") from met


def _phase(container: Container) -> str | None:
    with contextlib.suppress(*DEATHS):
        return str(container.status()["phase"])
    return None


# --- to look ----------------------------------------------------------------------------------------------------------


def check(container: Container, life: str, told: Told, fsck: Fsck) -> str:
    """Start again and hold all invariants against what was told; what the start found. Raises Violation."""
    no_processes(container)
    before = found(container)
    logged = len(container.log) if container.log_file.exists() else 0
    container.start().wait_ready()
    status = container.status()
    tells(before, status, container.log[logged:], life)
    root_password(container, told, status, life)
    uploads(container, told)
    if life == "import":
        imported(container)
    told.token = None
    _upload(container, told)  # it takes writes; and SQLite clears a torn journal away when it writes the next one
    code = container.stop()
    expect(code == 0, f"it stopped with {code}")
    no_processes(container)
    nothing_left(container, told, life)
    fsck.check(container.serverdir)
    return before


def expect(condition: object, otherwise: str) -> None:
    """Raises Violation."""
    if not condition:
        raise Violation(otherwise)


def no_processes(container: Container) -> None:
    """Invariant 4: every process of the container is gone soon after its sidecar, whoever was killed."""
    try:
        wait_for(lambda: not processes(container), "the end of all processes", PROMPT)
    except AssertionError:
        raise Violation(f"stray processes: {processes(container)}") from None


def processes(container: Container) -> dict[int, str]:
    """All processes that run with this container's home, by their environment."""
    mark = f"HOME={container.home}\0".encode()
    alive = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    alive[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    return alive


def found(container: Container) -> str:
    """What lies there before the next start, which is nothing that devpi-server would serve half (invariant 2)."""
    own, state = container.serverdir / ".sidecar", container.serverdir / ".sidecar" / "staging" / "state"
    if (container.serverdir / ".nodeinfo").exists() and (own / "promotion.json").exists():
        rest = exported.names(state) if state.exists() else set()
        expect(not rest, f".nodeinfo is there, so devpi-server would start, while {rest} are not promoted yet")
    if (own / "promotion.json").exists():
        return "promotion to finish"
    if (own / "staging").exists() and (own / "marker.json").exists():
        return "staging to clear"
    if (own / "staging").exists():
        return "half-made state"
    if (own / "marker.json").exists():
        record = own / "root-password.json"
        state = json.loads(record.read_text())["state"] if record.exists() else "unknown"
        return f"whole state, password {state}"
    return "nothing yet"


def tells(before: str, status: dict[str, object], log: str, life: str) -> None:
    """Invariant 5: `/status` and the log tell what happened."""
    expect(status["phase"] == "ready", f"/status tells {status['phase']!r}")
    told: dict[str, dict[str, object]] = status  # type: ignore[assignment]
    if life == "import":
        total = PROJECTS * FILES
        want = {"state": "completed", "files": {"done": total, "total": total}, "error": None}
    else:
        want = {"state": "none", "error": None}
    got = {name: told["import"][name] for name in want}
    expect(got == want, f"/status tells of the import {got}, not {want}")
    words = {"promotion to finish": "finished the promotion", "half-made state": "threw away a half-made state"}
    if before in words:
        expect(words[before] in log, f"it found a {before}, and the log does not tell")


def root_password(container: Container, told: Told, status: dict[str, object], life: str) -> None:
    """Invariant 1."""
    state = status["root_password"]["state"]  # type: ignore[index]
    expect(container.login("root", "") == 401, "root logs in with an empty password")
    answer = container.post("/bootstrap/root-password")
    if state == "claimable":
        expect(answer.status == 200, f"a claimable password is not given: {answer}")
        given = answer.json["password"]
        lost = told.asked == "rotate"  # a rotation that nobody was told of, finished at the start
        expect(told.password is None or lost, "a password can be claimed, and one was told already")
        expect(container.login("root", given) == 200, "the claimed password is not root's")
        expect(given != told.password, "a told password is given again")
        again = container.post("/bootstrap/root-password").status
        expect(again == 410, f"claimed twice: {again}")
        told.password = given
    elif state == "claimed":
        expect(answer.status == 410, f"a claimed password is not refused: {answer}")
        if told.asked in ("claim", "rotate") and (
            told.password is None or container.login("root", told.password) != 200
        ):  # the answer was lost after the record: rotating is the way back
            answer = container.post("/bootstrap/rotate")
            expect(answer.status == 200, f"after a lost answer, rotating fails: {answer}")
            told.password = answer.json["password"]
            told.token = None
        expect(told.password is not None, "the password counts as claimed, and nobody asked for it")
        expect(container.login("root", told.password or "") == 200, "the password that was told is not root's")
    else:
        expect(state == "unknown" and life == "adopted", f"the state of root's password is {state!r}")
        expect(answer.status == 404, f"a password that is not known here is claimed: {answer}")
        expect(container.login("root", told.password or "") == 200, "the adopted password is not root's any more")


def uploads(container: Container, told: Told) -> None:
    """Invariant 3: every acknowledged upload is there, by digest; any other one is whole or absent."""
    index = f"{container.devpi}/root/dev"
    for name, content in (told.files | told.unsure).items():
        answer = call_devpi(f"{index}/{name}")
        links = answer.json["result"].get("1.0", {}).get("+links", []) if answer.status == 200 else []
        if not links:
            expect(
                name in told.unsure, f"the acknowledged upload {name} is gone: {answer.status} {answer.body[:200]!r}"
            )
            continue
        got = request(links[0]["href"])
        if not (got.status == 200 and got.body == content):
            raise Violation(f"{name} is not what was uploaded: {got.status}, {len(got.body)} of {len(content)} bytes")


def imported_files() -> dict[str, bytes]:
    """What the archive holds: content by the file's name."""
    return dict(exported.wheel(f"mass-{n:04}", f"1.{minor}") for n in range(PROJECTS) for minor in range(FILES))


def imported(container: Container) -> None:
    """Invariant 2: all users, projects and files by digest."""
    devpi = container.devpi
    users = set(call_devpi(f"{devpi}/").json["result"])
    expect(users == {"root", "mass"}, f"the users are {users}")
    projects = set(call_devpi(f"{devpi}/mass/dev").json["result"]["projects"])
    wanted = {f"mass-{number:04}" for number in range(PROJECTS)}
    expect(projects == wanted, f"the projects are {projects}")
    for project in sorted(wanted):
        for version in (f"1.{minor}" for minor in range(FILES)):
            basename, content = exported.wheel(project, version)
            (link,) = call_devpi(f"{devpi}/mass/dev/{project}/{version}").json["result"]["+links"]
            expect(link["href"].endswith(basename), f"{project} {version} has {link}")
            expect(request(link["href"]).body == content, f"{basename} is not what was imported")


_DEVPI = {".serverversion", ".nodeinfo", ".sqlite", ".event_serial"}
_OWN = {"lock", "marker.json", "root-password.json", "login-secret.json", "derivation", "root-hash", "import.json"}


def nothing_left(container: Container, told: Told, life: str) -> None:
    """Invariant 4: no staging area, secret, journal or unfinished file; no more on disk than the data needs."""
    expect(
        exported.names(container.runtime) <= {"lock"}, f"in the runtime directory {exported.names(container.runtime)}"
    )
    own = exported.names(container.serverdir / ".sidecar")
    expect(own <= _OWN, f"left in .sidecar: {own - _OWN}")
    names = exported.names(container.serverdir) - {".sidecar", "+files"}
    expect(names <= _DEVPI, f"left in the serverdir: {names - _DEVPI}")
    record = container.serverdir / ".sidecar" / "root-password.json"
    expect('"password"' not in (record.read_text() if record.exists() else ""), "the claimed password is still on disk")
    files = [path for path in (container.serverdir / "+files").rglob("*") if path.is_file()]
    contents = [*told.files.values(), *told.unsure.values()]
    if life == "import":
        contents += imported_files().values()
    strange = [path.name for path in files if path.name.endswith("-tmp") or path.read_bytes() not in contents]
    expect(not strange, f"left in +files: {strange}")
    expect(len(files) <= len(contents), f"{len(files)} files for {len(contents)} uploads")


class Fsck:
    """`devpi-fsck`, run in forks of a process that has imported devpi once: a tenth of a second, not a whole one."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.chaos.fsck"])
        self._pool = ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1)

    def check(self, serverdir: Path) -> None:
        """Raises Violation where it isn't clean."""
        from tests.chaos import fsck

        code, said = self._pool.submit(fsck.run, serverdir).result(60)
        expect(code == 0, f"devpi-fsck: {said}")

    def close(self) -> None:
        """End its processes."""
        self._pool.shutdown()


# --- plans ------------------------------------------------------------------------------------------------------------


def plans(seed: int, recorded: dict[str, list[Kill]], lengths: dict[str, float]) -> Iterator[Plan]:
    """Plans without end: three in four at steps, all kinds of step before any comes again.

    `recorded`: every step of each life, as a kill of the process that takes it; `lengths`: of each life, in seconds.
    """
    chance = random.Random(seed)
    at_steps = _every_kind(chance, recorded)
    for number in itertools.count():
        if number % 4 == 3:
            life = chance.choice(sorted(lengths))
            seconds = round(chance.uniform(0, lengths[life]), 3)
            plan = Plan(life, (Instant(seconds, chance.choice(("sidecar", "child", "both"))),))
        else:
            plan = next(at_steps)
        if chance.random() < 0.2:  # and the start that mends it, too
            second = Kill("sidecar", "*", chance.randint(1, 45), "both", chance.choice(("whole", "torn")))
            plan = Plan(plan.life, (*plan.kills, second))
        yield plan


def _every_kind(chance: random.Random, recorded: dict[str, list[Kill]]) -> Iterator[Plan]:
    kinds: dict[tuple[str, str, str], list[Kill]] = {}
    for life, all_kills in recorded.items():
        for kill in all_kills:
            kinds.setdefault((life, kill.process, kill.name), []).append(kill)
    for occurrences in kinds.values():
        chance.shuffle(occurrences)
    used = 0
    while True:
        order = sorted(kinds)
        chance.shuffle(order)
        for kind in order:
            kill = kinds[kind][used % len(kinds[kind])]
            how = "torn" if kill.name.startswith("write") and chance.random() < 0.5 else "whole"
            victim = chance.choice(("self", "sidecar", "child", "both"))
            yield Plan(kind[0], (Kill(kill.process, kill.name, kill.number, victim, how),))
        used += 1


def kills_of(trace: Path) -> list[Kill]:
    """Every step of a recorded life, as a kill at it; a process counts from its own begin."""
    counted: Counter[tuple[int, str]] = Counter()
    found: dict[Kill, None] = {}
    for _, step in steps.read(trace):
        counted[step.pid, step.name] += 1
        found[Kill(step.process, step.name, counted[step.pid, step.name], "self")] = None
    return list(found)
