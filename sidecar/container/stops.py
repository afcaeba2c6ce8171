"""SIGTERM and SIGINT, from the entrypoint's first line to its last: one handler, which never raises.

The entrypoint imports this first: PID 1 loses a signal that arrives before its handler exists, any other process is
killed by it. So this module imports only what Python has loaded already; the module `signal` takes 5 ms, because it
wraps `_signal` in enums. The handler must not raise: the exception could surface at any instruction, in a finaliser
that swallows it, or between a fork and the line that keeps the child's id.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # part of CPython, without stubs
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 4 ms
    from collections.abc import Callable
    from subprocess import Popen

_NUMBERS = (_signal.SIGINT, _signal.SIGTERM)
_STOPPED = 0
"""`ExitCode.STOPPED`, without importing enum."""


class Stops:
    """What a stop does at each stage of the container's life."""

    def __init__(self) -> None:
        """Handle both signals. At first a stop exits, because nothing was done yet."""
        self.react: Callable[[], object] = _end
        """Runs in the signal handler, that is between any two instructions. Must not raise."""
        self._asked = False
        for number in _NUMBERS:
            _signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: object) -> None:
        self._asked = True
        self.react()

    def hold(self) -> None:
        """Only remember a stop, because what runs now must not be interrupted; `end_with` carries it out."""
        self.react = _nothing

    def end_with(self, child: Popen[bytes]) -> None:
        """From now on a stop kills the child and exits: neither has touched a disk yet."""

        def end() -> None:
            if child.returncode is None:
                try:
                    os.killpg(child.pid, _signal.SIGKILL)
                    os.waitpid(child.pid, 0)  # not `child.wait`: the handler may have interrupted one that has its lock
                except OSError:  # it has exited
                    pass
            _end()

        self.react = end
        if self._asked:
            end()

    def ignore(self) -> None:
        """From now on a stop does nothing, because this process is about to exit."""
        self.react = _nothing


def hear() -> None:
    """Unblock both signals: a parent may block them (`env --block-signal`) so that none is lost before the handlers."""
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _NUMBERS)


def _end() -> None:
    os._exit(_STOPPED)


def _nothing() -> None:
    pass
