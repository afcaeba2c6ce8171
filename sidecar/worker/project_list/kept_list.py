"""One mirror's list of its upstream's projects: on disk, refreshed in the background, never lost by a failure."""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from sidecar.core import files
from sidecar.worker.project_list import list_file
from sidecar.worker.project_list.conversion import HINT, Cause, Conversion, Failure
from sidecar.worker.project_list.list_file import ListFile
from sidecar.worker.project_list.response import Response
from sidecar.worker.project_list.transfer import transfer

FIRST_RETRY = 5.0
LAST_RETRY = 300.0
"""Seconds from a failure to the next try: doubled from the first to the last, with 20 % jitter. The first: also from a
success, at least."""
SHRUNK_RETRY = 60.0
"""Seconds after which a list with less than half of the names is fetched again."""
_END_SECONDS = 5.0


class ProjectList:
    """The list of one mirror. Lookups don't block, and can be made by any thread."""

    def __init__(  # noqa: PLR0913 - keywords
        self,
        folder: Path,
        index: str,
        fetch: Callable[[str | None], AbstractContextManager[Response]],
        *,
        url: str,
        expiry: float,
        max_bytes: int,
        seconds: float,
        log: Callable[[str], object],
        explain: Callable[[Exception], Cause] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the list of `url` that is in `folder`, if there is one.

        `fetch` requests the list, with an ETag for If-None-Match. A list is fresh for `expiry` seconds; a fetch may
        take `seconds` in all, and have `max_bytes`, decompressed. `explain` returns the cause of what `fetch` and its
        response raise, `clock` Unix time.
        """
        self._folder = folder
        self._path = folder / f"{quote(index, safe='')}.list"
        self._fetch = fetch
        self._index = index
        self._url = url
        self.expiry = expiry
        """Seconds for which a list is fresh; may change."""
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._log = log
        self._explain = explain
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._conversion: Conversion | None = None
        self._error: Cause | None = None
        self._failures = 0
        self._next_try = 0.0
        self._shrunk: tuple[int, float] | None = None
        self._remove_unfinished()
        self._list = self._open()

    def contains(self, normalized: str) -> bool | None:
        """Return whether the list has the project with this normalised name; None: there is no list."""
        current = self._list
        return None if current is None else normalized in current

    def find(self, normalized: str) -> str | None:
        """Return the upstream's own form of a name; None: the list lacks it, or there is no list."""
        current = self._list
        return None if current is None else current.find(normalized)

    def names(self) -> Iterator[str]:
        """Return all names as upstream writes them, by normalised name; none if there is no list."""
        current = self._list
        return iter(()) if current is None else iter(current)

    @property
    def is_fresh(self) -> bool:
        """Whether there is a list that upstream confirmed within the expiry."""
        return self.state == "fresh"

    @property
    def state(self) -> Literal["missing", "fresh", "stale"]:
        """Whether there is a list, and whether it is fresh. One from the future is stale."""
        at = self.fetched_at
        if at is None:
            return "missing"
        return "fresh" if 0 <= self._clock() - at < self.expiry else "stale"

    @property
    def fetched_at(self) -> float | None:
        """When upstream last confirmed the list (Unix time)."""
        current = self._list
        return None if current is None else current.fetched_at

    @property
    def count(self) -> int | None:
        """The number of names."""
        current = self._list
        return None if current is None else len(current)

    @property
    def error(self) -> Cause | None:
        """Why the last refresh failed; None after a success."""
        return self._error

    def refresh_if_due(self) -> bool:
        """Start a refresh in the background if one is due; return whether one is running. Does not block."""
        with self._lock:
            if not self._idle.is_set():
                return True
            if self._closed or self._monotonic() < self._next_try or self.is_fresh:
                return False
            thread = threading.Thread(target=self._refresh, name=f"list of {self._index}", daemon=True)
            self._idle.clear()
            try:
                thread.start()
            except RuntimeError:  # no more threads
                self._idle.set()
                return False
            self._thread = thread
            return True

    def wait(self, seconds: float) -> bool:
        """Wait until no refresh is running, at most `seconds`; return whether there is a list."""
        self._idle.wait(seconds)
        return self._list is not None

    def stop(self) -> None:
        """Begin to end a running refresh; none is started afterwards. The list stays on disk. Does not block."""
        with self._lock:
            self._closed = True
            if self._conversion is not None:
                self._conversion.kill()

    def close(self) -> None:
        """As `stop`, and wait for the end, at most 5 seconds."""
        self.stop()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join(_END_SECONDS)

    def remove(self) -> None:
        """Close, and remove the list from disk: the mirror was deleted. Raises OSError."""
        self.close()
        self._list = None
        files.remove(self._path)

    def _refresh(self) -> None:
        try:
            self._replace()
        except Exception as error:
            self._failed(error)
        else:
            if self._error is not None:
                self._log(f"{self._index}: the list of projects is refreshed again")
            self._error = None
            self._failures = 0
            self._next_try = self._monotonic() + FIRST_RETRY
        finally:
            self._idle.set()

    def _failed(self, error: Exception) -> None:
        if self._closed:
            return
        cause = self._cause(error)
        if self._error is None or (self._error.kind, self._error.reason) != (cause.kind, cause.reason):
            kept = "there is none" if self._list is None else "the old one is kept"
            self._log(f"{self._index}: the list of projects was not refreshed, {kept}: {cause.reason}; {cause.hint}")
        delay = min(FIRST_RETRY * 2 ** min(self._failures, 10), LAST_RETRY)
        if isinstance(error, _Shrunk):
            delay = SHRUNK_RETRY
        self._error = cause
        self._failures += 1
        self._next_try = self._monotonic() + delay * random.uniform(1.0, 1.2)  # noqa: S311 - jitter

    def _cause(self, error: Exception) -> Cause:
        if isinstance(error, Failure):
            return error
        if isinstance(error, OSError) and error.filename is not None:
            where = f"the list of projects can't be stored: {error.strerror}"
            return Failure("unreadable", where, "check space and permissions of the serverdir's .sidecar/mirrors")
        if self._explain is not None:
            return self._explain(error)
        return Failure("cut", f"the list of projects can't be fetched: {type(error).__name__}", "check the upstream")

    def _replace(self) -> None:
        current = self._list
        fetched_at = self._clock()
        with self._fetch(None if current is None else current.etag) as response:
            status = response.status_code
            if status == 304 and current is not None:
                self._confirm(fetched_at)
                return
            if status != 200:
                cause: Cause | None = getattr(response, "cause", None)
                if cause is not None:
                    raise Failure(cause.kind, cause.reason, cause.hint)
                kind = {401: "denied", 403: "denied", 407: "denied", 429: "limited"}.get(status, "status")
                raise Failure(kind, f"the upstream answered the request for its list with {status}", HINT)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            unfinished = self._path.with_name(f"{files.LEFTOVER}{self._path.name}-{secrets.token_hex(8)}")
            try:
                about = {"url": self._url, "fetched_at": fetched_at}
                transfer(response, unfinished, about, self._max_bytes, self._seconds, self._running)
                self._commit(unfinished, current)
            finally:
                unfinished.unlink(missing_ok=True)
                unfinished.with_name(f"{unfinished.name}-runs").unlink(missing_ok=True)

    def _running(self, conversion: Conversion | None) -> None:
        """Note what `close` has to kill. Raises Failure after a close."""
        with self._lock:
            if conversion is not None and self._closed:
                raise _stopping()
            self._conversion = conversion

    def _commit(self, unfinished: Path, current: ListFile | None) -> None:
        new = ListFile.open(unfinished)
        if current is not None and len(new) * 2 < len(current) and not self._is_confirmed(len(new)):
            self._shrunk = len(new), self._monotonic()
            raise _Shrunk(
                "unreadable",
                f"the new list of projects has {len(new)} names, the old one {len(current)}",
                "none needed if that is right: it is used if the next one is the same",
            )
        self._shrunk = None
        descriptor = os.open(unfinished, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with self._lock:
            if self._closed:
                raise _stopping()
            unfinished.rename(self._path)
            self._list = new
        files.fsync_dir(self._folder)

    def _is_confirmed(self, count: int) -> bool:
        """Whether the list was as short at an earlier refresh."""
        if self._shrunk is None:
            return False
        before, at = self._shrunk
        return abs(before - count) * 10 <= before and self._monotonic() - at >= SHRUNK_RETRY

    def _confirm(self, fetched_at: float) -> None:
        self._shrunk = None
        if not self._path.exists():  # the next request is without its ETag
            self._list = None
        list_file.confirm(self._path, fetched_at)

    def _open(self) -> ListFile | None:
        try:
            found = ListFile.open(self._path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._log(f"{self._index}: the list of projects on disk can't be used, it is fetched again: {error}")
            return None
        return found if found.url == self._url else None

    def _remove_unfinished(self) -> None:
        """Remove what a killed refresh of this mirror left."""
        ours = re.compile(re.escape(f"{files.LEFTOVER}{self._path.name}-") + "[0-9a-f]{16}(-runs)?")
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._folder):
                if ours.fullmatch(entry.name):
                    (self._folder / entry.name).unlink(missing_ok=True)


class _Shrunk(Failure):
    """The new list has less than half of the names."""


def _stopping() -> Failure:
    return Failure("cut", "devpi-server is stopping", "none needed")
