"""The feature `bootstrap`: makes the first state in an empty serverdir, or takes the existing one."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from dataclasses import replace

from sidecar.core import files
from sidecar.core.board import Board
from sidecar.core.feature import Json
from sidecar.core.lifecycle import Lifecycle, Phase
from sidecar.core.sample import Family
from sidecar.core.settings import ImportSettings
from sidecar.core.threads import to_the_end
from sidecar.devpi.protocol import Configured, Message, Progress
from sidecar.features.bootstrap import import_report, import_status, unused
from sidecar.features.bootstrap.import_status import ImportState, ImportStatus
from sidecar.features.bootstrap.initial_state import InitialState, check_first_state, check_storage
from sidecar.features.credentials.keeper import Credentials
from sidecar.features.credentials.login_secret import read_adoptable
from sidecar.features.hooks import Hooks, Plan
from sidecar.storage.inspection import Content

log = logging.getLogger(__name__)


class Bootstrap(Hooks):
    """The first state of a serverdir. Lives on the event loop."""

    name = "bootstrap"

    def __init__(
        self,
        lifecycle: Lifecycle,
        board: Board,
        settings: ImportSettings,
        credentials: Credentials,
    ) -> None:
        self.imported = ImportStatus()
        """The import of this serverdir, in this life or an earlier one."""
        self._lifecycle = lifecycle
        self._board = board
        self._settings = settings
        self._credentials = credentials
        self._initial: InitialState | None = None

    async def configured(self, configured: Configured) -> Configured:
        """Raise Exit if a first state is impossible."""
        await to_the_end(check_first_state, configured, self._settings)
        return configured

    async def prepare(self, plan: Plan) -> Plan:
        """Make the first state if there is none. Raises `ImportFailed`, or Exit if an initialisation failed."""
        if plan.content is Content.EMPTY:
            return replace(plan, root_hash=await self._make_first_state(plan))
        serverdir = plan.serverdir
        if plan.content is Content.FOREIGN:
            log.warning("the serverdir holds a devpi state that this sidecar did not create; it is used unchanged")
            await to_the_end(files.remove, serverdir.import_record)  # of an import that did not make this state
            await to_the_end(serverdir.adopt)
        if not self._settings.ignore_init_files:
            find = functools.partial(unused.notices, replica=plan.configured.replica)
            self._lifecycle.notice(*await to_the_end(find, self._settings.init_dir, serverdir.import_record))
        kept = await to_the_end(import_status.load, serverdir.import_record)
        if kept is not None and kept[0].state is ImportState.COMPLETED:  # a failed import made no state
            self._publish(kept[0])
        return plan

    def hear(self, message: Message) -> None:
        """Handle a report of the importer."""
        if isinstance(message, Progress) and self._initial is not None:
            self._initial.hear(message)

    def status(self) -> Json:
        """Return the import's part of `/status`."""
        return {"import": import_report.as_json(self.imported)}

    def samples(self) -> Iterable[Family]:
        """Return the import's metrics."""
        return import_report.families(self.imported)

    async def _make_first_state(self, plan: Plan) -> str | None:
        """Initialise or import. Return the digest of root's hash, if known."""
        serverdir = plan.serverdir
        check_storage(serverdir.storage)  # again, under the lock
        if plan.configured.secretfile is None:
            await to_the_end(read_adoptable, serverdir.path)  # raises before there is a state
        self._initial = InitialState(
            serverdir,
            plan.child,
            self._lifecycle,
            self._settings,
            self._credentials.provided_password,
            self._publish,
        )
        return (await self._initial.make()).root_hash

    def _publish(self, imported: ImportStatus) -> None:
        self.imported = imported
        files = imported.files
        if self._lifecycle.snapshot.phase is Phase.IMPORTING:
            so_far = f"{files.done} of {files.total} files" if files.total else imported.state.value
            self._lifecycle.advance(so_far)
        self._board.changed()
