"""SIGTERM and SIGINT, from the entrypoint's first line to its last: one handler, which never raises.

The entrypoint imports this before all else: a signal that arrives before its handler is lost by PID 1, and kills any
other process. So this module imports only what Python has loaded anyway; the module `signal` takes 5 ms, because it
wraps `_signal` in enums. And the handler raises nothing: an exception can come out at any instruction, in a finaliser
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
    """What a stop does, stage by stage of the container's life."""

    def __init__(self) -> None:
        """Handle both signals. At first a stop ends this process, which has done nothing yet."""
        self.react: Callable[[], object] = _end
        """Runs in the signal handler, so between any two instructions. Must not raise."""
        self._asked = False
        for number in _NUMBERS:
            _signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: object) -> None:
        self._asked = True
        self.react()

    def hold(self) -> None:
        """Only remember a stop: what runs now must not be cut. `end_with` makes up for it."""
        self.react = _nothing

    def end_with(self, child: Popen[bytes]) -> None:
        """From now on a stop ends the child and this process, neither of which has touched a disk yet."""

        def end() -> None:
            if child.returncode is None:
                try:
                    os.killpg(child.pid, _signal.SIGKILL)
                    os.waitpid(child.pid, 0)  # not `child.wait`: the handler may have interrupted one, with its lock
                except OSError:  # it has ended by itself
                    pass
            _end()

        self.react = end
        if self._asked:
            end()

    def ignore(self) -> None:
        """From now on a stop does nothing: this process is about to end anyway."""
        self.react = _nothing


def hear() -> None:
    """Unblock both signals. A parent may have blocked them (`env --block-signal`) to lose none before the handlers."""
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _NUMBERS)


def _end() -> None:
    os._exit(_STOPPED)


def _nothing() -> None:
    pass
