"""Starts the child. Apart from `process` because asyncio takes as long to import as all else before this.

devpi takes longest to import, so its process is started before anything else is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sidecar.core.errors import Exit, ExitCode
from sidecar.core.settings import LogSettings


class Spawned(NamedTuple):
    """A process of `sidecar.worker`, in a session of its own; it dies with this one."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    """Our end of the pair over which it is talked to, see `protocol`."""
    crash: int
    """A file in memory, into which a dying interpreter writes where it was, see `crash`."""
    phase: int
    """A file in memory, in which a `Journal` tells it the phase."""


def spawn(environ: Mapping[str, str], log: LogSettings | None = None, phase: int | None = None) -> Spawned:
    """Start `sidecar.worker` with the environment `environ`, its log as `log` says. Raises Exit.

    `phase`: the file of an earlier one, in which this one reads the phase too. Not to be called in a thread that
    ends before the process does: that would kill it.
    """
    try:
        return _spawn(environ, log or LogSettings(), phase)
    except OSError as error:
        raise _refused(error) from error


def _spawn(environ: Mapping[str, str], log: LogSettings, phase: int | None) -> Spawned:
    with contextlib.ExitStack() as ours:
        files = [os.memfd_create("crash")]
        ours.callback(os.close, files[0])
        if phase is None:
            phase = os.memfd_create("phase")
            ours.callback(os.close, phase)
        files.append(phase)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.enter_context(mine)
        with theirs:
            passed = [theirs.fileno(), *files]
            process = subprocess.Popen(
                # -P: no modules of the current folder
                [sys.executable, "-P", "-m", "sidecar.worker", *map(str, passed), log.style, log.level],
                env=_with_our_package(environ),
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is for the sidecar, which drains it
            )
        ours.pop_all()  # they stay open
        return Spawned(process, mine, *files)


def _refused(error: OSError) -> Exit:
    """Why the child can't be started, and the hint."""
    hints = {
        errno.EAGAIN: "raise the limit of processes and threads (--pids-limit, podPidsLimit, ulimit -u)",
        errno.ENOMEM: "raise the memory limit",
        errno.EMFILE: "raise the limit of open files (--ulimit nofile, ulimit -n) to 1024 or more",
        errno.ENFILE: "raise the machine's limit of open files (fs.file-max)",
        errno.E2BIG: "pass fewer or shorter environment variables",
        errno.ENOENT: f"use an image or an environment in which {sys.executable or 'Python'} can be run",
        errno.EACCES: f"use an image or an environment in which {sys.executable or 'Python'} can be run",
    }
    reason = f"the process for devpi-server can't be started: {error.strerror or error}"
    return Exit(ExitCode.EXHAUSTED, reason, hints.get(error.errno or 0, "restart the container; report it if it stays"))


def _with_our_package(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ`, in which the child finds this package also where it is not installed but lies beside entrypoint.py."""
    root = str(Path(__file__).resolve().parents[2])
    env = dict(environ) | {"PYTHONUNBUFFERED": "1"}
    if root == sys.path[0]:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    return env
