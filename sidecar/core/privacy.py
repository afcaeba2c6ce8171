"""Keeps this process's memory and environment, which hold secrets, from other processes and from core dumps."""

from __future__ import annotations

import ctypes

_PR_SET_DUMPABLE = 4


def undumpable() -> None:
    """From now on, no core is dumped of this process (nor of its forks), also where a program of the host takes cores.

    And `/proc/PID/environ` and `mem` are closed to others of the same user; to read them takes CAP_SYS_PTRACE.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
