"""Lives of a container, and what clients were told during one."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support import exported
from tests.support.container import Container, call_devpi, login_token, upload_form, wait_for

PROJECTS, FILES = 3, 2
"""Number of projects in the imported archive, and files in each."""

STORIES: dict[str, tuple[str, ...]] = {
    "first": ("start", "claim", "upload", "stop"),
    "import": ("start", "claim", "upload", "stop"),
    "no-import": ("start", "claim", "stop"),
    "refused": ("refuse", "repair", "start", "claim", "upload", "stop"),
    "expires": ("start", "expire", "rotate", "upload", "stop"),
    "adopted": ("start", "upload", "rotate", "upload", "stop"),
    "later": ("start", "claim", "upload", "rotate", "upload", "stop", "start", "upload", "rotate", "stop"),
}
"""The acts of each life. `first` begins with nothing, `import` with an archive, `no-import` with the record of an
import that was killed before its installation, `refused` with a damaged archive, `expires` with a time to live, `later`
with an unclaimed state, and `adopted` with a state that was not made here, whose password is known."""
IMPORTS = ("import", "refused")
"""Lives that end with all contents of the archive."""
TTL = "1s"
"""How long `expires` keeps an unclaimed password."""


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class Told:
    """What clients were told, which must hold from then on; and which requests are without an answer."""

    password: str | None = None
    """root's password, as last told."""
    asked: str | None = None
    """`claim`, `rotate` or `upload`: begun, but not answered."""
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Acknowledged uploads to `root/dev`: content by project."""
    unsure: dict[str, bytes] = field(default_factory=dict, repr=False)
    """Uploads without an answer: present or absent, but never anything else."""
    token: str | None = None
    """A login of root's."""
    expired: bool = False
    """The log reported that the unclaimed password was discarded."""
    stopped: bool = False
    """It was stopped cleanly, and not started since."""


# --- to live ----------------------------------------------------------------------------------------------------------


def live(container: Container, story: tuple[str, ...], told: Told) -> None:
    """Live one life, act by act. Raises whatever a client gets when the container dies."""
    for act in story:
        ACTS[act](container, told)


def _start(container: Container, told: Told) -> None:
    told.stopped = False
    container.start().wait_ready()


def _claim(container: Container, told: Told) -> None:
    told.asked = "claim"
    told.password = container.claim()
    told.asked = None


def _refuse(container: Container, told: Told) -> None:
    told.stopped = False
    status = container.start().wait_phase("failed")
    assert status["import"]["state"] == "failed", status


def _repair(container: Container, told: Told) -> None:
    _stop(container, told)
    repair(container)


def repair(container: Container) -> None:
    """Replace the damaged archive, if any, by a sound one."""
    if (sound := container.home / FIXED).exists():
        sound.replace(container.init_dir / "export.tar")


FIXED = "fixed.tar"
"""Return the sound archive for a container with a damaged one."""


def _expire(container: Container, told: Told) -> None:
    def thrown_away() -> bool:
        assert container.running, "it has exited"
        state = container.status()["root_password"]["state"]
        return state == "expired" and "the unclaimed root password expired;" in container.log

    wait_for(thrown_away, "the password's expiry in the log")
    told.expired = True


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
    assert code == 0, f"stopped with code {code}"
    told.stopped = True


ACTS: dict[str, Callable[[Container, Told], None]] = {
    "start": _start,
    "claim": _claim,
    "refuse": _refuse,
    "repair": _repair,
    "expire": _expire,
    "upload": _upload,
    "rotate": _rotate,
    "stop": _stop,
}

DEATHS = (OSError, http.client.HTTPException, AssertionError, ValueError, KeyError)
"""What a client of a dying container may get: anything but a false success, which is checked afterwards."""


def imported_files() -> dict[str, bytes]:
    """Return the archive's contents by file name."""
    return dict(exported.wheel(f"mass-{n:04}", f"1.{minor}") for n in range(PROJECTS) for minor in range(FILES))
