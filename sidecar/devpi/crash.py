"""The last words of an interpreter that crashes: where it was, kept in memory until somebody can log it as one line.

faulthandler writes from inside the signal's handler, and can't format; so it writes into a file without a name, which
outlives the process in those who hold it: the sidecar, and the worker that has forked.
"""

from __future__ import annotations

import faulthandler
import logging
import os

log = logging.getLogger("sidecar.crash")

_LIMIT = 64 * 1024


def report_to(fd: int) -> None:
    """Have SIGSEGV, SIGABRT, SIGBUS, SIGFPE and SIGILL write the stack of the thread that they hit into `fd`."""
    faulthandler.enable(fd, all_threads=False)


def log_report(fd: int, who: str) -> None:
    """Log what a crash has left in `fd`, if there is something, and clear it."""
    if report := os.pread(fd, _LIMIT, 0).decode(errors="replace").strip():
        os.truncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        log.critical("%s has crashed: %s", who, report.partition("\n")[0], extra={"stack": report})
