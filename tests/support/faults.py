"""Expected effects of each fault; the tests check the product against them, docs/operations.md lists them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.support.container import Container, wait_for


@dataclass(frozen=True)
class Fault:
    """One fault and its visible effects, in the words of `docs/operations.md`."""

    what: str
    within: float
    """Seconds until all effects are visible, on a machine that is not overloaded."""
    exit_code: int | None = None
    """None: the container stays alive."""
    log: str = ""
    """A fragment of the log."""
    livez: int = 200
    readyz: int = 503
    phase: str = "ready"
    check: str = ""
    reason: str = ""
    """The failing check, and a fragment of its reason."""
    logged: bool = True
    """Whether the log has the reason too."""
    longer_by: str = ""
    """A setting whose duration is added to `within`."""
    then: str = ""
    """Consequences, and what to do."""

    def seen(self, c: Container, began: float, more: float = 0) -> None:
        """Assert the effects of a fault that began at `began`; `more`: seconds of `longer_by`."""
        patience = self.within + more - (time.monotonic() - began)
        if self.exit_code is not None:
            code = c.wait_end(patience)
            assert self.exit_code == (code if code >= 0 else 128 - code), c.log
        else:
            wait_for(lambda: self._shown(c), self.what, patience)
            assert 200 == c.get("/startupz").status
            assert self.phase == c.status()["phase"]
            assert not self.logged or self.reason in c.log
        assert self.log in c.log

    def _shown(self, c: Container) -> bool:
        ready = c.get("/readyz", accept="application/json")
        if (self.livez, self.readyz) != (c.get("/livez").status, ready.status):
            return False
        return not self.check or any(
            check["name"] == self.check and self.reason in check["reason"] for check in ready.json["checks"]
        )


FULL_FIRST_START = Fault(
    "the disk is full at a first start",
    within=10,
    exit_code=73,
    log="the disk is full",
    then="nothing incomplete is left; with more space it starts",
)
FULL_IMPORT = Fault(
    "the disk fills while an import loads",
    within=20,
    phase="failed",
    check="process",
    reason="the disk is full",
    log="the import failed",
    then="nothing of it is left; with more space and a restart it is imported",
)
FULL_START = Fault(
    "the disk is full at a later start",
    within=10,
    exit_code=73,
    log="no space is left for the serverdir",
    then="nothing is changed; free space",
)
FULL_SERVING = Fault(
    "the disk fills while it serves",
    within=13,
    check="write",
    reason="can't write to the serverdir: no space left on device",
    then="downloads continue; an upload gets a 5xx, a claim 503, a rotation 409, and none of them changes anything; "
    "with space it is ready again within 5 s, without a restart",
)
FULL_RUNTIME = Fault(
    "the runtime directory is full at the start",
    within=10,
    exit_code=73,
    log="the runtime directory can't be written to",
    then="free space there; while it serves, only a rotation needs it, and answers 409",
)
READ_ONLY_START = Fault(
    "the volume is read-only at the start",
    within=10,
    exit_code=73,
    log="is on a read-only file system",
    then="mount it read-write",
)
READ_ONLY_SERVING = Fault(
    "the volume turns read-only while it serves (as ext4 does after an error)",
    within=13,
    check="write",
    reason="can't write to the serverdir: read-only file system",
    then="downloads continue; fix the disk, mount it again, restart",
)
IO_ERROR_SERVING = Fault(
    "the disk fails while it serves: EIO for all files, including SQLite's",
    within=10,
    check="http",
    reason="answered 500",
    then="acknowledged uploads exist once the disk works again; a stop still has code 0",
)
IO_ERROR_START = Fault(
    "the disk fails at the start",
    within=10,
    exit_code=73,
    log="Input/output error",
    then="fix the disk",
)
CLOCK = Fault(
    "the clock jumps, a day ahead or back",
    within=10,
    readyz=200,
    then="an unclaimed password expires neither early nor late; a jump ahead ends devpi's logins of the last 10 h",
)
DATABASE_DELETED = Fault(
    "`.sqlite` is deleted while it serves",
    within=10,
    check="http",
    reason="answered 500",
    then="nobody can become root; stop, restore a backup, start",
)
DATABASE_CORRUPTED = Fault(
    "`.sqlite` is overwritten or cut short while it serves",
    within=10,
    check="http",
    reason="answered 500",
    then="stop, restore a backup, start",
)
DATABASE_BAD_START = Fault(
    "a start after either of these",
    within=10,
    exit_code=65,
    log="its database .sqlite can't be read",
    then="refused, because devpi-server would start without users and let anybody become root",
)
LOCK_REMOVED = Fault(
    "`.sidecar` is deleted while it serves",
    within=10,
    check="lock",
    reason="the serverdir's lock file was removed",
    then="devpi-server continues, and no second server can start (except on NFS); after a restart it is ready; "
    "the record of root's password, the admin token and all logins are lost",
)
UNMOUNTED = Fault(
    "the volume is unmounted or mounted over while it serves",
    within=13,
    check="write",
    reason="can't write to the serverdir: no such file or directory",
    then="stop, mount the right one, start",
)
HANGS = Fault(
    "devpi-server hangs (SIGSTOP)",
    within=9,
    longer_by="SIDECAR_MONITOR_DEAD_AFTER",
    check="http",
    reason="dead: no answer",
    then="`/livez` stays 200, so nothing restarts it: restart it, or wait; when it continues, it is ready again within "
    "5 s; until then a claim answers 503, and a stop kills it after the grace",
)
ENDS_AT_ONCE = Fault(
    "devpi-server exits at its start",
    within=10,
    exit_code=1,
    log="devpi-server exited unexpectedly with code 1",
    then="see its log",
)
ENDS_LATER = Fault(
    "devpi-server exits while it serves, with a code n (here 7)",
    within=5,
    exit_code=7,
    log="devpi-server exited unexpectedly with code 7",
    then="see its log; after a restart it serves all acknowledged uploads",
)
ENDS_LATER_WITH_0 = Fault(
    "devpi-server exits while it serves, with code 0",
    within=5,
    exit_code=1,
    log="devpi-server exited unexpectedly with code 0",
    then="the same; code 1, so that it differs from a requested stop",
)
OUT_OF_MEMORY = Fault(
    "devpi-server is killed for lack of memory",
    within=5,
    exit_code=137,
    log="devpi-server was killed by SIGKILL, most likely for lack of memory",
    then="raise the memory limit",
)
PORT_TAKEN = Fault(
    "devpi-server's port is in use",
    within=10,
    exit_code=69,
    log="devpi-server can't listen on",
    then="found before a first state is made; free the port, or set `--port`",
)
MONITOR_HANGS = Fault(
    "the monitor hangs",
    within=14,
    livez=503,
    check="http",
    reason="stale: the monitor has not probed",
    logged=False,
    then="the liveness probe restarts the container",
)
MONITOR_ENDS = Fault(
    "the monitor or another permanent task exits",
    within=5,
    exit_code=70,
    log="the sidecar's task 'health' ended unexpectedly",
    then="a bug: restart, and report it with the log",
)
SIDECAR_KILLED = Fault(
    "the sidecar alone is killed",
    within=5,
    exit_code=137,
    then="the kernel kills devpi-server with it; the next start can lock the volume at once",
)

ALL = [value for value in list(globals().values()) if isinstance(value, Fault)]


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| fault | within | `/livez` | `/readyz` | `phase` | exit code | the log has | then |", "|---" * 8 + "|"]
    for fault in ALL:
        ended = fault.exit_code is not None
        ready = str(fault.readyz) + (f", `{fault.check}`: `{fault.reason}`" if fault.check else "")
        within = f"{fault.within:g} s" + (f" + `{fault.longer_by}`" if fault.longer_by else "")
        cells = [
            fault.what,
            within,
            "\N{EN DASH}" if ended else str(fault.livez),
            "\N{EN DASH}" if ended else ready,
            "\N{EN DASH}" if ended else f"`{fault.phase}`",
            str(fault.exit_code) if ended else "\N{EN DASH}",
            ", ".join(f"`{words}`" for words in (fault.log, fault.logged and fault.reason) if words) or "nothing",
            fault.then,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
