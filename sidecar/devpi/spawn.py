"""Starts the child. devpi takes longest to import, so its process is started first.

This is apart from `process` because importing asyncio takes as long as everything before it.
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
    """The sidecar's end of the pair for messages, see `protocol`."""
    crash: int
    """A file in memory for the traceback of a crash, see `crash`."""
    phase: int
    """A file in memory from which it reads the phase that a `Journal` writes."""


def spawn(environ: Mapping[str, str], log: LogSettings | None = None, phase: int | None = None) -> Spawned:
    """Start `sidecar.worker` with the environment `environ` and the log settings `log`. Raises Exit.

    `phase`: the file of an earlier process, which this one reads too. Don't call it in a thread that ends before the
    process: its end would kill the process.
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
                start_new_session=True,  # a terminal's Ctrl-C must reach only the sidecar, which drains it
            )
        ours.pop_all()  # they stay open
        return Spawned(process, mine, *files)


def _refused(error: OSError) -> Exit:
    """Return why the child can't be started, with the hint."""
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
    return Exit(ExitCode.EXHAUSTED, reason, hints.get(error.errno or 0, "restart; report it if it recurs"))


def _with_our_package(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with a PYTHONPATH to this package if it is not installed but lies beside entrypoint.py."""
    root = str(Path(__file__).resolve().parents[2])
    env = dict(environ) | {"PYTHONUNBUFFERED": "1"}
    if root == sys.path[0]:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    return env
