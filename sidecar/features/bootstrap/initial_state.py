"""The first state of an empty serverdir: initialised or imported in staging, then installed.

A process forked by the child makes the state; this module decides what to make, and installs or discards it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidecar.core import files as durable
from sidecar.core import text
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.lifecycle import Failure, Lifecycle, Phase, now
from sidecar.core.logging import redact
from sidecar.core.settings import ImportSettings
from sidecar.core.terminal import printable
from sidecar.core.threads import to_the_end
from sidecar.devpi.process import Child
from sidecar.devpi.protocol import Configured, Import, Initialise, Prepared, PrepareFailed, Progress
from sidecar.exports import sources
from sidecar.features.bootstrap import import_status
from sidecar.features.bootstrap.import_status import ImportFailure, ImportState, ImportStatus
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.secrets import generate_password
from sidecar.storage.inspection import Storage, looks_empty
from sidecar.storage.serverdir import Serverdir

log = logging.getLogger(__name__)

_LOG_EVERY = 10.0
"""Seconds between two log lines about the progress of an import."""


class ImportFailed(Exception):
    """The import failed. `/status` shows the reason; nothing else is left of it."""


def check_first_state(configured: Configured, settings: ImportSettings) -> None:
    """Raise Exit if a first state is impossible, before anything is touched."""
    init_dir = settings.init_dir
    if not looks_empty(Path(configured.serverdir)):
        return
    check_storage(Storage(configured.storage))
    try:
        found = sources.find(init_dir) if configured.replica else sources.Found((), ())
    except sources.ImportRefused:
        return  # the import reports what is wrong with them
    if found.sources or (found.not_taken and not settings.ignore_init_files):
        raise Exit(
            ExitCode.SETTINGS,
            f"a replica gets its state from its primary, and {init_dir} (DEVPI_INIT_DIR) holds archives",
            "do not mount exports into a replica, or remove --primary-url and --role replica to import them",
        )


def check_storage(storage: Storage) -> None:
    """Raise Exit if the sidecar can't make a first state in this storage."""
    if storage.database is None:
        raise Exit(
            ExitCode.SETTINGS,
            f"can't create a first state in the storage {storage.name!r}, because it is outside the serverdir",
            "run devpi-init with --root-passwd, or devpi-import, then start again",
        )


class InitialState:
    """Makes the first state of one serverdir."""

    def __init__(
        self,
        serverdir: Serverdir,
        child: Child,
        lifecycle: Lifecycle,
        settings: ImportSettings,
        provided_password: str | None,
        publish: Callable[[ImportStatus], None],
    ) -> None:
        """`publish` gets the import's status when it changes."""
        self._serverdir = serverdir
        self._child = child
        self._lifecycle = lifecycle
        self._settings = settings
        self._provided = provided_password
        self._password = generate_password() if provided_password is None else provided_password
        self._publish = publish
        self._record = serverdir.import_record
        self._follower: Follower | None = None

    def hear(self, report: Progress) -> None:
        """Handle a report of the importer."""
        if self._follower is not None:
            self._follower.follow(report)

    async def make(self) -> Prepared:
        """Initialise or import, and install. Raises ImportFailed, or Exit if an initialisation failed."""
        try:
            found = await to_the_end(sources.find, self._settings.init_dir)
        except sources.ImportRefused as error:
            raise await self._failed(ImportStatus(started=now()), [], _import_failure(error)) from error
        if found.not_taken and not self._settings.ignore_init_files:
            for other in found.not_taken[1:]:
                log.error("%s", other)
            raise await self._failed(ImportStatus(started=now()), [], _import_failure(found.not_taken[0]))
        if names := found.passed_over:
            ignored = ", ".join(printable(name, 200) for name in names[:20])
            log.info("ignored in %s, because they are not exports: %s", self._settings.init_dir, ignored)
        if found.sources:
            return await self._import(found)
        return await self._initialise()

    async def _initialise(self) -> Prepared:
        self._lifecycle.enter(Phase.INITIALISING)
        await to_the_end(self._serverdir.stage)
        await self._child.send(Initialise(str(self._serverdir.staged_state), self._password))
        answer = await self._child.expect(Prepared, PrepareFailed)
        if isinstance(answer, PrepareFailed):
            await to_the_end(self._serverdir.discard)
            raise Exit(_code_of(answer), f"the initialisation failed: {answer.reason}", answer.hint)
        # the record of an import that failed, or was killed before its installation: it did not make this state
        await to_the_end(durable.remove, self._record)
        await to_the_end(self._install, answer, "initialised")
        return answer

    async def _import(self, found: sources.Found) -> Prepared:
        fingerprint = self._fingerprint(found)
        self._lifecycle.enter(Phase.IMPORTING)
        earlier = await to_the_end(import_status.load, self._record)
        if earlier and earlier[0].state is ImportState.FAILED and earlier[1] == fingerprint:
            log.warning("the import already failed with these archives and settings, so it is not retried")
            raise await self._failed(earlier[0], fingerprint, earlier[0].error)
        tracker = import_status.Tracker(ImportStatus(ImportState.PENDING, started=now()))
        self._publish(tracker.status)
        self._follower = Follower(tracker, self._publish)
        await to_the_end(self._serverdir.stage)
        await self._child.send(
            Import(
                init_dir=str(self._settings.init_dir),
                target=str(self._serverdir.staged_state),
                scratch=str(self._serverdir.scratch),
                password=self._password,
                password_provided=self._provided is not None,
                limits=_limits(self._settings),
                allow_unverified=self._settings.allow_unverified,
                strict=self._settings.strict,
            )
        )
        answer = await self._child.expect(Prepared, PrepareFailed)
        if isinstance(answer, PrepareFailed):
            failure = ImportFailure(answer.reason, answer.hint, answer.archive, answer.member)
            raise await self._failed(tracker.status, [] if answer.retryable else fingerprint, failure)
        self._publish(replace(tracker.status, state=ImportState.INSTALLING, current=None))
        status = tracker.end(ImportState.COMPLETED)
        await to_the_end(import_status.save, self._record, status, fingerprint)
        await to_the_end(self._install, answer, "imported")
        self._publish(status)
        log.info("imported %d files of %d projects", status.files.done, status.projects.done)
        if status.left_out_total:
            log.warning("the import left out unsafe members (%d): %s", *_left_out(status))
        return answer

    def _fingerprint(self, found: sources.Found) -> list[list[Any]]:
        """Return all that decides whether an import can succeed: with a failed one's, a retry would fail too."""
        switches = [self._provided is not None, self._settings.allow_unverified, self._settings.strict]
        given = [*switches, *_limits(self._settings).values()]
        devpi = self._lifecycle.snapshot.devpi
        return [given, [devpi and devpi.version], *([e.name, e.bytes, e.mtime_ns] for e in found.sources)]

    def _install(self, prepared: Prepared, origin: str) -> None:
        record = RootPasswordFile(self._serverdir.staged_record)
        if prepared.root_password == "from_import":  # noqa: S105 - not a password
            record.write_from_import()
        elif prepared.root_password == "password" and self._provided is None:  # noqa: S105
            record.write_generated(self._password)
        elif prepared.root_password == "password":  # noqa: S105
            record.write_provided()
        self._serverdir.install(origin)

    async def _failed(
        self, status: ImportStatus, fingerprint: list[list[Any]], failure: ImportFailure | None
    ) -> ImportFailed | Exit:
        """Discard the staged state and record the failure. Return the exception to raise."""
        failure = failure or ImportFailure("the import failed", "replace the archive, and start again")
        failure = replace(failure, reason=redact(failure.reason), hint=redact(failure.hint))  # they are public
        await to_the_end(self._serverdir.discard)
        status = replace(
            status, state=ImportState.FAILED, finished=status.finished or now(), eta_seconds=None, error=failure
        )
        await to_the_end(import_status.save, self._record, status, fingerprint)
        where = " of ".join(filter(None, [failure.member, failure.archive]))
        reason = f"the import failed{f' at {where}' if where else ''}: {failure.reason}"
        log.error("%s; %s", reason, failure.hint)
        self._publish(status)
        if self._settings.exit_on_failure:
            return Exit(ExitCode.IMPORT_FAILED, reason, failure.hint)
        self._lifecycle.enter(Phase.FAILED, Failure(reason, failure.hint))
        return ImportFailed()


class Follower:
    """Publishes the importer's reports, and logs some of them."""

    def __init__(self, tracker: import_status.Tracker, publish: Callable[[ImportStatus], None]) -> None:
        self._tracker = tracker
        self._publish = publish
        self._logged = time.monotonic()

    def follow(self, report: Progress) -> None:
        """Handle one report."""
        before = self._tracker.status.state
        status = self._tracker.advance(report)
        self._publish(status)
        if status.state is not before or time.monotonic() - self._logged >= _LOG_EVERY:
            self._logged = time.monotonic()
            log.info("import: %s", ", ".join([status.state, *_counts(status)]))


def _counts(status: ImportStatus) -> list[str]:
    """Return the counts that belong to the import's state."""
    extracted, files, projects = status.extracted, status.files, status.projects
    if status.state is ImportState.EXTRACTING and extracted.total:  # a folder is not extracted
        return [f"{text.size(extracted.done)} of {text.size(extracted.total)} of archives"]
    if files.total or projects.total:
        return [f"{files.done} of {files.total} files", f"{projects.done} of {projects.total} projects"]
    return []


def _left_out(status: ImportStatus) -> tuple[int, str]:
    """Return how many members were left out, and the first of them as text."""
    named = [f"{each.member} of {each.archive} ({each.reason})" for each in status.left_out]
    more = status.left_out_total - len(named)
    return status.left_out_total, "; ".join([*named, *([f"and {more} more"] if more else [])])


def _code_of(failed: PrepareFailed) -> ExitCode:
    if failed.exhausted:
        return ExitCode.EXHAUSTED
    return ExitCode.NOT_WRITABLE if failed.retryable else ExitCode.INTERNAL


def _import_failure(error: sources.ImportRefused) -> ImportFailure:
    return ImportFailure(error.reason, error.hint, error.archive, error.member)


def _limits(settings: ImportSettings) -> dict[str, int | None]:
    """Return the settings as the fields of `sources.Limits`."""
    return {
        "members": settings.max_members,
        "member_bytes": settings.max_member_bytes,
        "total_bytes": settings.max_total_bytes,
        "ratio": settings.max_ratio,
        "index_bytes": settings.max_index_bytes,
    }
