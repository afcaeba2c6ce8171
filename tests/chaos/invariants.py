"""What must hold after the start that follows a kill, a fault or a power cut."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.chaos.life import ACTS, FILES, IMPORTS, PROJECTS, Told, Violation, imported_files, repair
from tests.support import exported
from tests.support.container import Container, call_devpi, request, wait_for

PROMPT = 10.0
"""Seconds within which all processes of a killed container exit."""


def check(container: Container, life: str, told: Told, fsck: Fsck) -> str:
    """Start again, check all invariants against what clients were told; return what was found. Raises Violation."""
    no_processes(container)
    repair(container)
    container.env.pop("SIDECAR_CLAIM_TTL", None)  # expired by now, even if no client was told
    before = found(container)
    logged = len(container.log) if container.log_file.exists() else 0
    container.start().wait_ready()
    status = container.status()
    tells(before, status, container.log[logged:], life)
    root_password(container, told, status, life)
    uploads(container, told)
    if life in IMPORTS:
        imported(container)
    told.token = None
    ACTS["upload"](container, told)  # writes work; and SQLite removes a torn journal with the next write
    code = container.stop()
    expect(code == 0, f"it stopped with code {code}")
    no_processes(container)
    nothing_left(container, told, life)
    fsck.check(container.serverdir)
    return before


def expect(condition: object, otherwise: str) -> None:
    """Raise Violation unless the condition holds."""
    if not condition:
        raise Violation(otherwise)


def no_processes(container: Container) -> None:
    """Invariant 4: all processes of the container exit soon after its sidecar, whichever was killed."""
    try:
        wait_for(lambda: not processes(container), "the exit of all processes", PROMPT)
    except AssertionError:
        raise Violation(f"stray processes: {processes(container)}") from None


def processes(container: Container) -> dict[int, str]:
    """Return all processes with this container's home in their environment."""
    mark = f"HOME={container.home}\0".encode()
    alive = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    alive[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    return alive


def found(container: Container) -> str:
    """Return what is there before the next start; devpi-server must never serve it partially (invariant 2)."""
    own, state = container.serverdir / ".sidecar", container.serverdir / ".sidecar" / "staging" / "state"
    if (container.serverdir / ".nodeinfo").exists() and (own / "promotion.json").exists():
        rest = exported.names(state) if state.exists() else set()
        expect(not rest, f"devpi-server would start, because .nodeinfo is there, but {rest} are not in place yet")
    if (own / "promotion.json").exists():
        return "installation to finish"
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
    """Invariant 5: `/status` and the log report what happened."""
    expect(status["phase"] == "ready", f"/status reports the phase {status['phase']!r}")
    told: dict[str, dict[str, object]] = status  # type: ignore[assignment]
    if life in IMPORTS:
        total = PROJECTS * FILES
        want = {"state": "completed", "files": {"done": total, "total": total}, "error": None}
    else:
        want = {"state": "none", "error": None}
    got = {name: told["import"][name] for name in want}
    expect(got == want, f"/status reports of the import {got}, not {want}")
    words = {"installation to finish": "finished the installation", "half-made state": "removed an incomplete state"}
    if before in words:
        expect(words[before] in log, f"it found a {before}, but the log does not report it")


def root_password(container: Container, told: Told, status: dict[str, object], life: str) -> None:
    """Invariant 1."""
    state = status["root_password"]["state"]  # type: ignore[index]
    expect(container.login("root", "") == 401, "root logs in with an empty password")
    answer = container.post("/bootstrap/root-password")
    if state == "claimable":
        expect(answer.status == 200, f"a claimable password is refused: {answer}")
        given = answer.json["password"]
        lost = told.asked == "rotate"  # a rotation without an answer, completed at the start
        expect(told.password is None or lost, "a password can be claimed, but one was told already")
        expect(not told.expired or lost, "an expired password can be claimed")
        expect(container.login("root", given) == 200, "the claimed password is not root's")
        expect(given != told.password, "a told password is returned again")
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
        expect(told.password is not None, "the password counts as claimed, but was never requested")
        expect(container.login("root", told.password or "") == 200, "the password that was told is not root's")
    elif state == "expired":
        expect(life == "expires" and told.password is None, "a password has expired, but should not")
        expect(answer.status == 410, f"an expired password is not refused: {answer}")
        answer = container.post("/bootstrap/rotate")
        expect(answer.status == 200, f"after a password has expired, rotating fails: {answer}")
        told.password, told.token = answer.json["password"], None
        expect(container.login("root", answer.json["password"]) == 200, "the password that was told is not root's")
    else:
        expect(state == "unknown" and life == "adopted", f"the state of root's password is {state!r}")
        expect(answer.status == 404, f"an unknown password is claimed: {answer}")
        expect(container.login("root", told.password or "") == 200, "the adopted password is no longer root's")


def uploads(container: Container, told: Told) -> None:
    """Invariant 3: every acknowledged upload is there, by digest; any other is complete or absent."""
    index = f"{container.devpi}/root/dev"
    for name, content in (told.files | told.unsure).items():
        answer = call_devpi(f"{index}/{name}")
        links = answer.json["result"].get("1.0", {}).get("+links", []) if answer.status == 200 else []
        if not links:
            expect(
                name in told.unsure, f"the acknowledged upload {name} is lost: {answer.status} {answer.body[:200]!r}"
            )
            continue
        got = request(links[0]["href"])
        if not (got.status == 200 and got.body == content):
            raise Violation(f"{name} is not what was uploaded: {got.status}, {len(got.body)} of {len(content)} bytes")


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
    """Invariant 4: no staging area, secret, journal or unfinished file, and no more disk space than the data needs."""
    expect(
        exported.names(container.runtime) <= {"lock"},
        f"left in the runtime directory: {exported.names(container.runtime)}",
    )
    own = exported.names(container.serverdir / ".sidecar")
    expect(own <= _OWN, f"left in .sidecar: {own - _OWN}")
    names = exported.names(container.serverdir) - {".sidecar", "+files"}
    expect(names <= _DEVPI, f"left in the serverdir: {names - _DEVPI}")
    record = container.serverdir / ".sidecar" / "root-password.json"
    expect('"password"' not in (record.read_text() if record.exists() else ""), "the claimed password is still on disk")
    files = [path for path in (container.serverdir / "+files").rglob("*") if path.is_file()]
    contents = [*told.files.values(), *told.unsure.values()]
    if life in IMPORTS:
        contents += imported_files().values()
    strange = [path.name for path in files if path.name.endswith("-tmp") or path.read_bytes() not in contents]
    expect(not strange, f"left in +files: {strange}")
    expect(len(files) <= len(contents), f"{len(files)} files for {len(contents)} uploads")


class Fsck:
    """`devpi-fsck` in forks of a process that has imported devpi once: 0.1 s each, not 1 s."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.chaos.fsck"])
        self._pool = ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1)

    def check(self, serverdir: Path) -> None:
        """Raise Violation unless it is clean."""
        from tests.chaos import fsck

        code, said = self._pool.submit(fsck.run, serverdir).result(60)
        expect(code == 0, f"devpi-fsck: {said}")

    def close(self) -> None:
        """Stop its processes."""
        self._pool.shutdown()
