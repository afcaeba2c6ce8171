"""The traceback of a crashing interpreter, kept in memory until another process logs it as one line.

faulthandler writes from inside the signal's handler, and can't format. So it writes into an anonymous file, which
outlives the process in those that hold it: the sidecar, and the worker that forked it.
"""

from __future__ import annotations

import faulthandler
import logging
import os

log = logging.getLogger("sidecar.crash")

_LIMIT = 64 * 1024


def report_to(fd: int) -> None:
    """Write the stack of the thread hit by SIGSEGV, SIGABRT, SIGBUS, SIGFPE or SIGILL into `fd`."""
    faulthandler.enable(fd, all_threads=False)


def log_report(fd: int, who: str) -> None:
    """Log and clear what a crash of `who` has left in `fd`, if anything."""
    if report := os.pread(fd, _LIMIT, 0).decode(errors="replace").strip():
        os.truncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        log.critical("%s crashed: %s", who, report.partition("\n")[0], extra={"stack": report})
