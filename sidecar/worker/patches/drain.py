"""Drain waitress: accept no new connection, finish running requests, close idle connections."""

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
"""Seconds between two checks of the connections while draining."""

_NEXT_REQUEST = 0.25
"""Seconds without a request after which a connection counts as idle."""

_WAIT_AT_ONCE = 0.5
"""Seconds between two checks whether this server drains, while a replica waits for changes."""

_LOOP_PATIENCE = 1.0
"""Seconds after the grace after which a waitress loop that hasn't answered counts as dead or stuck."""


class Drainer:
    """All listeners of one waitress server. Code that touches them runs in waitress' loop."""

    def __init__(self, server: BaseWSGIServer | MultiSocketServer) -> None:
        sockets = server.map if isinstance(server, MultiSocketServer) else server._map
        self.listeners = [each for each in sockets.values() if isinstance(each, BaseWSGIServer)]
        self.begun = threading.Event()
        """Set when the drain begins."""
        _let_replicas_go(self.begun)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return `http://host:port` or `unix:path` of each listener, as bound."""
        return tuple(
            f"unix:{os.path.abspath(each.effective_port)}"  # noqa: PTH100 - a str in waitress
            if each.effective_host == "unix"
            else http_address(each.effective_host, int(each.effective_port))
            for each in self.listeners
        )

    def drain(self, grace: float, *, keep_listening: bool = False) -> int:
        """Close the listeners and wait until no request is running, for `grace` seconds at most.

        Accepts the connections in the kernel's queue first, because their clients expect an answer. `keep_listening`
        leaves them to another process that has the sockets.

        Returns how many connections are still busy; if waitress' loop no longer answers, how many are open.
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
        """Run `action` in waitress' loop. Raises OSError if the loop has ended or is stuck."""
        done = threading.Event()
        result = [0]

        def run() -> None:
            result[0] = action()
            done.set()

        trigger = self.listeners[0].trigger
        if trigger._closed:  # the descriptor may be reused already
            raise BrokenPipeError
        trigger.pull_trigger(run)
        if not done.wait(max(0.0, deadline - time.monotonic()) + _LOOP_PATIENCE):
            raise TimeoutError
        return result[0]

    def _empty_and_close_listeners(self) -> int:
        for listener in self.listeners:
            accepted = -1
            # more connections would end waitress' select()
            while accepted != len(listener.active_channels) and len(listener._map) < listener.adj.connection_limit:
                accepted = len(listener.active_channels)
                listener.handle_accept()
        # All at the end: a connection that is accepted after a close may get the listener's descriptor. If waitress is
        # about to read from that number, it finds no data on the connection and takes it for a broken one.
        return self._close_listeners()

    def _close_listeners(self) -> int:
        for listener in self.listeners:
            wasyncore.dispatcher.close(listener)  # its own close() would close the trigger, too
        return 0

    def _close_idle(self) -> int:
        """Close connections without a request. Returns how many are busy."""
        busy = 0
        now = time.time()  # the clock of `last_activity`
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
    """Have devpi answer replicas that there is no change once `drains` is set, so that a stop needn't wait for them.

    A replica waits up to 30 s for changes, and repeats the request. Without a drain it waits as long as before.
    """
    if not table.holds("changelog_waits"):
        return
    wait = PrimaryChangelogRequest._wait_for_serial
    whole = PrimaryChangelogRequest.MAX_REPLICA_BLOCK_TIME

    @functools.wraps(wait)
    def wait_for_serial(request: PrimaryChangelogRequest, serial: int) -> int:
        if "initial_fetch" in request.request.params:  # devpi waits 1 s at most
            return int(wait(request, serial))
        request.MAX_REPLICA_BLOCK_TIME = min(whole, _WAIT_AT_ONCE)
        deadline = time.monotonic() + whole
        while True:
            try:
                return int(wait(request, serial))
            except HTTPAccepted:  # no changes
                if drains.is_set() or time.monotonic() >= deadline:
                    raise

    PrimaryChangelogRequest._wait_for_serial = wait_for_serial  # type: ignore[method-assign]
