"""Waitress, drained: no new connection, running requests finish, idle connections close."""

from __future__ import annotations

import functools
import os.path
import threading
import time
from collections.abc import Callable

from devpi_server.replica import PrimaryChangelogRequest
from pyramid.httpexceptions import HTTPAccepted
from waitress import wasyncore
from waitress.server import BaseWSGIServer, MultiSocketServer

from sidecar.worker.flags import http_address
from sidecar.worker.patches import table
from sidecar.worker.patches.waitress import has_unread

_LOOK_EVERY = 0.02
"""Seconds between two looks at the connections while draining."""

_NEXT_REQUEST = 0.25
"""Seconds that a connection has to send its first request, or a next one, before it counts as idle."""

_WAIT_AT_ONCE = 0.5
"""Seconds after which a replica's wait for news looks whether this server drains."""

_LOOP_PATIENCE = 1.0
"""Seconds after the grace within which waitress' loop must have answered; else it is dead, or stuck."""


class Drainer:
    """Knows all listeners of one waitress server. Everything that touches them runs in waitress' own loop."""

    def __init__(self, server: BaseWSGIServer | MultiSocketServer) -> None:
        sockets = server.map if isinstance(server, MultiSocketServer) else server._map
        self.listeners = [each for each in sockets.values() if isinstance(each, BaseWSGIServer)]
        self.begun = threading.Event()
        """It drains, or has drained."""
        _let_replicas_go(self.begun)

    @property
    def addresses(self) -> tuple[str, ...]:
        """`http://host:port` or `unix:path` of each listener, as bound."""
        return tuple(
            f"unix:{os.path.abspath(each.effective_port)}"  # noqa: PTH100 - waitress gives text
            if each.effective_host == "unix"
            else http_address(each.effective_host, int(each.effective_port))
            for each in self.listeners
        )

    def drain(self, grace: float, *, keep_listening: bool = False) -> int:
        """Close the listeners, and return when nothing is running any more, or after `grace` seconds.

        `keep_listening`: whoever waits in the kernel's queue is left to another process that has the sockets.
        Otherwise they are let in before: they were promised an answer.

        Returns how many connections were busy to the end; all that are open, where waitress' loop answers no more.
        """
        deadline = time.monotonic() + grace
        self.begun.set()
        try:
            self._in_the_loop(self._close_listeners if keep_listening else self._empty_and_close_listeners, deadline)
            while (busy := self._in_the_loop(self._close_idle, deadline)) and time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY)
        except OSError:  # TimeoutError is one
            return sum(len(each.active_channels) for each in self.listeners)
        return busy

    def _in_the_loop(self, action: Callable[[], int], deadline: float) -> int:
        """What `action` returns. Raises OSError where waitress' loop has ended, or is stuck."""
        done = threading.Event()
        result = [0]

        def run() -> None:
            result[0] = action()
            done.set()

        trigger = self.listeners[0].trigger
        if trigger._closed:  # its descriptor may be somebody else's by now
            raise BrokenPipeError
        trigger.pull_trigger(run)
        if not done.wait(max(0.0, deadline - time.monotonic()) + _LOOP_PATIENCE):
            raise TimeoutError
        return result[0]

    def _empty_and_close_listeners(self) -> int:
        for listener in self.listeners:
            accepted = -1
            # waitress' select() dies of too many
            while accepted != len(listener.active_channels) and len(listener._map) < listener.adj.connection_limit:
                accepted = len(listener.active_channels)
                listener.handle_accept()
        # only now: a connection accepted after a close has that descriptor, and waitress, which may be about to read
        # from the listener of that number, takes the connection that has nothing to read yet for a broken one
        return self._close_listeners()

    def _close_listeners(self) -> int:
        for listener in self.listeners:
            wasyncore.dispatcher.close(listener)  # not its own close(): that ends the trigger we came through
        return 0

    def _close_idle(self) -> int:
        """Close connections that wait for a request. Returns how many are busy."""
        busy = 0
        now = time.time()  # as waitress stamps its channels
        for listener in self.listeners:
            for channel in list(listener.active_channels.values()):
                recent = 0 <= now - channel.last_activity < _NEXT_REQUEST  # negative: the clock was set back
                running = channel.requests or channel.request is not None or channel.total_outbufs_len
                if recent or running or has_unread(channel):
                    busy += 1
                else:
                    channel.handle_close()
        return busy


def _let_replicas_go(drains: threading.Event) -> None:
    """Have devpi tell replicas that there is no news, from when `drains` is set: they wait 30 s for some.

    That is no transfer that a stop should wait for, and they ask again. Else they wait as long as devpi has them.
    """
    if not table.holds("changelog_waits"):
        return
    wait = PrimaryChangelogRequest._wait_for_serial
    whole = PrimaryChangelogRequest.MAX_REPLICA_BLOCK_TIME

    @functools.wraps(wait)
    def wait_for_serial(request: PrimaryChangelogRequest, serial: int) -> int:
        if "initial_fetch" in request.request.params:  # devpi waits for a second at most
            return int(wait(request, serial))
        request.MAX_REPLICA_BLOCK_TIME = min(whole, _WAIT_AT_ONCE)
        deadline = time.monotonic() + whole
        while True:
            try:
                return int(wait(request, serial))
            except HTTPAccepted:  # no news
                if drains.is_set() or time.monotonic() >= deadline:
                    raise

    PrimaryChangelogRequest._wait_for_serial = wait_for_serial  # type: ignore[method-assign]
