"""Guard devpi-web's search index: it is derived data, so a damaged index is moved aside and rebuilt.

Without this, a damaged index stops devpi-server at each start: devpi-web opens the index in a thread of devpi-server's
pool (`InitialQueueThread`), where any error ends the process. Errors of writing it are retried forever, with the same
index. Here a failure is only recorded, and the one thread that writes the index (`IndexerThread`) checks for damage.

A search during a commit may also find the index missing, and then devpi-web empties it. Here it looks again.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from devpi_server.mythread import Shutdown

from sidecar.core import disk_hints
from sidecar.core.lifecycle import Notice
from sidecar.worker.patches import table
from sidecar.worker.search_index_folder import LASTING, damage_of, described, patient, set_aside

if TYPE_CHECKING:
    from collections.abc import Callable

    from devpi_server.config import Config
    from devpi_web.whoosh_index import Index, IndexerThread, InitialQueueThread
    from pluggy import PluginManager

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("sidecar")

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 3600.0
"""Seconds until the index is examined again; doubled each time, because all of it is read."""


def guard(plugins: PluginManager, notice: Callable[[Notice], None]) -> None:
    """Guard the index that devpi-web is about to open; do nothing if devpi-web is not installed."""
    if plugins.get_plugin("devpi-web-whoosh") is None:
        return
    if table.holds("search_index"):
        Guard(notice).install()


class _Failure(NamedTuple):
    """What is kept of an error; the error itself would keep files and the index's lock open."""

    described: str
    error: OSError | None
    """A copy of it, if it is an OSError."""
    writing: bool
    """It came from writing the index, not from a search."""


class Guard:
    """Wraps devpi-web's access to its index. `notice` is for the operator."""

    def __init__(self, notice: Callable[[Notice], None]) -> None:
        self._notice = notice
        self._opening = threading.RLock()
        """Held while the index is opened, created or moved aside."""
        self._failure: _Failure | None = None
        """The last failure that has not been examined."""
        self._incomplete = False
        """Whether some projects have not been queued."""
        self._reported: set[str] = set()
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0

    def install(self) -> None:
        """Replace what devpi-web calls, for the rest of this process."""
        from devpi_web import main, whoosh_index

        index, indexer, initial = whoosh_index.Index, whoosh_index.IndexerThread, whoosh_index.InitialQueueThread
        make, open_index, queue, tick = main.get_indexer_from_config, index.ix, initial.thread_run, indexer.tick
        handler, query, update = indexer.handler, index.query_projects, index.update_projects

        def get_indexer_from_config(config: Config) -> Index:
            return self._make(make, config)

        def ix(index: Index, name: str) -> Index:
            with self._opening:
                return open_index(index, name)

        def thread_run(thread: InitialQueueThread) -> None:
            try:
                queue(thread)
            except Shutdown:
                raise
            except Exception as error:
                self._incomplete = True
                self._failed(error)

        def examining_tick(thread: IndexerThread) -> None:
            if self._failure is not None and time.monotonic() >= self._not_before:
                self._examine(thread, self._failure)
            tick(thread)

        main.get_indexer_from_config = get_indexer_from_config
        whoosh_index.exists_in = patient(whoosh_index.exists_in)
        initial.thread_run, indexer.tick = thread_run, examining_tick
        indexer.handler = self._noting(handler)
        index.ix = patient(ix)
        index.query_projects = self._noting(query, writing=False)
        index.update_projects = self._noting(update)

    def _noting(self, function: Callable[P, R], *, writing: bool = True) -> Callable[P, R]:
        """Wrap `function` to record errors from inside the index; they are still raised."""

        def noting(*arguments: P.args, **options: P.kwargs) -> R:
            try:
                return function(*arguments, **options)
            except Exception as error:
                if _of_whoosh(error):
                    self._failed(error, writing=writing)
                raise

        return noting

    def _failed(self, error: Exception, *, writing: bool = True) -> _Failure:
        if self._failure is None:
            log.warning("devpi-web can't use its search index: %s", described(error))
        copy = OSError(error.errno, error.strerror, error.filename) if isinstance(error, OSError) else None
        self._failure = failure = _Failure(described(error), copy, writing)
        return failure

    def _make(self, make: Callable[[Config], Index], config: Config) -> Index:
        """Return devpi-web's index, or devpi-web's empty one if the folder can't be created."""
        try:
            try:
                return make(config)
            except OSError as error:  # a file or a dangling link is in the folder's place
                folder = Path(str(error.filename))
                if error.errno not in LASTING or not (folder.is_symlink() or folder.exists()):
                    raise
                self._set_aside(folder, described(error))
                return make(config)
        except OSError as error:
            config.args.indexer_backend = "null"
            hint = "make it writable for this user, or fix --indexer-backend, and restart"
            self._report("search is off: the search index's folder can't be created", f": {described(error)}", hint)
            return make(config)

    def _examine(self, thread: IndexerThread, failure: _Failure) -> None:
        """Move a damaged index aside, and queue what is missing. The thread writes nothing meanwhile."""
        from devpi_web.main import get_indexer

        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        index = get_indexer(thread.xom)
        folder = Path(index.index_path)
        if (damage := damage_of(folder, failure.error)) is not None:
            try:
                self._set_aside(folder, damage)
            except OSError as error:
                why = f" ({damage}; {described(error)})"
                hint = f"make the folder {folder.name} writable for this user, or remove it; and restart"
                self._report("the search index can neither be used nor moved aside", why, hint)
                return
            self._incomplete = True
        elif failure.writing:
            self._report_writing(failure)
        try:
            if self._incomplete:
                _queue_all(thread, index)
        except Shutdown:
            raise
        except Exception as error:
            self._report_writing(self._failed(error))
        else:
            self._incomplete = False
            self._failure = None

    def _report_writing(self, failure: _Failure) -> None:
        hint = "if this persists, stop the container, run devpi-clear-search-index, and start again"
        if failure.error is not None:
            hint = f"{disk_hints.hint_to_write(failure.error, 'its volume')}; this is retried"
        self._report("the search index can't be written", f": {failure.described}", hint)

    def _set_aside(self, folder: Path, damage: str) -> None:
        with self._opening:
            kept = set_aside(folder)
        old = "" if kept is None else f"; {kept.relative_to(kept.parents[1])} holds the old index and may be removed"
        why = f" ({damage}) and is being rebuilt; search results are incomplete until then"
        self._report("the search index was damaged", why, f"if this happens again, check the volume{old}")

    def _report(self, what: str, why: str, hint: str) -> None:
        """Send a notice once in this process: a retry may fail with another file each time."""
        if what not in self._reported:
            self._reported.add(what)
            self._notice(Notice("search-index", f"{what}{why}", hint))


def _queue_all(thread: IndexerThread, index: Index) -> None:
    """Queue all projects that are not indexed, as devpi-web does at its start."""
    from devpi_web.whoosh_index import iter_projects

    with thread.xom.keyfs.read_transaction() as tx:
        searcher = index.get_project_ix().searcher()
        thread.shared_data.queue_projects(iter_projects(thread.xom), tx.at_serial, searcher)


def _of_whoosh(error: Exception) -> bool:
    """Whether the error was raised inside whoosh, not while devpi-web read the data to index."""
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).startswith("whoosh."):
            return True
        trace = trace.tb_next
    return False
