"""Resolves host names in threads, with a deadline, and leaves only addresses that may be connected to."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence

from sidecar.worker.upstream.addresses import AddressPolicy, parse_address
from sidecar.worker.upstream.causes import Cause, UpstreamFault, printable

_LIMIT = 32
"""Resolutions at a time: the system's resolver can take minutes, and can't be interrupted."""

_running = threading.BoundedSemaphore(_LIMIT)


def resolve(host: str) -> Sequence[str]:
    """Return the addresses of a host by the system's resolver. Blocks; raises OSError or UnicodeError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Lookup:
    """Returns the addresses to connect to. Each name is resolved for each connection."""

    def __init__(self, policy: AddressPolicy, resolver: Callable[[str], Sequence[str]] = resolve) -> None:
        self._policy = policy
        self._resolver = resolver

    def addresses(self, host: str, seconds: float | None) -> Sequence[str]:
        """Raises UpstreamFault (`name`, `forbidden`, `timeout`)."""
        answers: queue.SimpleQueue[Sequence[str] | BaseException] = queue.SimpleQueue()
        self._start(host, answers.put)
        try:
            answer = answers.get(timeout=seconds)
        except queue.Empty:
            raise _slow(host) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def async_addresses(self, host: str, seconds: float | None) -> Sequence[str]:
        """As `addresses`, on an event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[str] | BaseException] = loop.create_future()

        def set_answer(answer: Sequence[str] | BaseException) -> None:
            if not future.done():
                future.set_result(answer)

        def hand_over(answer: Sequence[str] | BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(set_answer, answer)

        self._start(host, hand_over)
        try:
            async with asyncio.timeout(seconds):
                answer = await future
        except TimeoutError:
            raise _slow(host) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _start(self, host: str, answer: Callable[[Sequence[str] | BaseException], object]) -> None:
        literal = parse_address(host)
        if literal is not None and self._policy.decides_alone(host):
            answer(self._answer(host))
            return
        if not _running.acquire(blocking=False):
            raise _slow(host)
        try:
            threading.Thread(target=self._run, args=(host, answer), name="upstream-lookup", daemon=True).start()
        except BaseException:
            _running.release()
            raise

    def _run(self, host: str, answer: Callable[[Sequence[str] | BaseException], object]) -> None:
        try:
            result = self._answer(host)
        finally:
            _running.release()
        answer(result)

    def _answer(self, host: str) -> Sequence[str] | BaseException:
        try:
            literal = parse_address(host)
            found = self._resolver(host) if literal is None else [str(literal)]
            return self._policy.permitted(host, found)
        except (UpstreamFault, OSError) as error:
            return error
        except (UnicodeError, ValueError):
            return socket.gaierror(socket.EAI_NONAME, "not a valid host name")


def shares(addresses: Sequence[str], seconds: float | None) -> list[tuple[str, float | None]]:
    """Return each address with the seconds for its attempt: half of what is left, the last one all of it."""
    if seconds is None:
        return [(address, None) for address in addresses]
    left = seconds
    result: list[tuple[str, float | None]] = []
    for number, address in enumerate(addresses, 1):
        share = left if number == len(addresses) else left / 2
        result.append((address, share))
        left -= share
    return result


def remaining(began: float, seconds: float | None) -> float | None:
    """Return what is left of `seconds` since `began` (monotonic), at least a little."""
    return None if seconds is None else max(0.05, seconds - (time.monotonic() - began))


def _slow(host: str) -> UpstreamFault:
    return UpstreamFault(
        Cause("timeout", f"{printable(host)}: the name was not resolved in time", "check this machine's DNS")
    )
