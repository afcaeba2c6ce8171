"""Protects this process's memory and environment, which hold secrets, from other processes and core dumps."""

from __future__ import annotations

import ctypes

_PR_SET_DUMPABLE = 4


def undumpable() -> None:
    """Disable core dumps of this process and its forks, even if a program of the host collects them.

    Other processes of the same user can then read `/proc/PID/environ` and `mem` only with CAP_SYS_PTRACE.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
