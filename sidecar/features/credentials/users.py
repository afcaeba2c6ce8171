"""devpi-server's users: sets root's password, and follows the state of all passwords."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from sidecar.core import files
from sidecar.core.board import Board
from sidecar.core.disk_hints import hint_to_write
from sidecar.core.lifecycle import Lifecycle, Phase
from sidecar.core.terminal import printable
from sidecar.core.threads import to_the_end
from sidecar.devpi.process import Child, SetFailed
from sidecar.devpi.protocol import RootPasswordSeen, UnusableSeen
from sidecar.features.credentials.login_secret import place_copy
from sidecar.features.credentials.password_status import UnusablePasswords
from sidecar.features.credentials.root_has_one import judge_root_password
from sidecar.storage.runtime_dir import RuntimeDir
from sidecar.storage.serverdir import Serverdir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setter:
    """Sets root's password in the running devpi-server, for `Claims`."""

    child: Child
    serverdir: Serverdir
    runtime: RuntimeDir

    async def set_root_password(self, password: str, login_secret: bytes | None) -> None:
        """See `rotation.PasswordSetter`."""
        if login_secret is not None:
            try:
                await asyncio.to_thread(place_copy, login_secret, self.runtime.path)
            except OSError as error:  # devpi has changed nothing yet
                reason = f"can't write the new login secret to the runtime directory: {error.strerror}"
                raise SetFailed(reason, maybe_done=False, hint=hint_to_write(error, "the runtime directory")) from error
        root_hash = await self.child.set_root_password(password, secretfile_changed=login_secret is not None)
        if root_hash is not None:
            await self.keep_root_hash(root_hash)

    async def is_root_password(self, password: str) -> bool | None:
        """See `rotation.PasswordSetter`."""
        return await self.child.is_root_password(password)

    async def keep_root_hash(self, root_hash: str) -> None:
        """Record that this hash is not of the empty password, so that the next start need not check it."""
        with contextlib.suppress(OSError):  # without it that start takes 0.25 s longer
            await to_the_end(files.write_file, self.serverdir.root_hash, root_hash.encode())


class Users:
    """Follows the users of the running devpi-server. Lives on the event loop."""

    def __init__(self, lifecycle: Lifecycle, board: Board, *, allow_empty_root: bool) -> None:
        """`allow_empty_root`: root's password may be empty."""
        self.unusable: UnusablePasswords | None = None
        """The users that need a new password; None: not known yet, or this is a replica."""
        self._lifecycle = lifecycle
        self._board = board
        self._allow_empty_root = allow_empty_root
        self._begun = False
        self._seen: str | None = None
        self._rotate: str | None = None

    def begin(self, root_password: str, rotate: str | None) -> None:
        """Judge root's password from now on: `root_password` is its state at the launch.

        `rotate`: how to set another one; None: not possible.
        """
        self._begun, self._rotate = True, rotate
        self._judge(self._seen or root_password)

    def end(self) -> None:
        """Stop judging: devpi-server is about to exit."""
        self._begun = False

    def launching(self) -> None:
        """Forget the last report: it is of an earlier devpi-server."""
        self._seen = None

    def hear(self, seen: RootPasswordSeen | UnusableSeen) -> None:
        """Take a report of the child."""
        if isinstance(seen, RootPasswordSeen):
            self._seen = seen.state
            if self._begun:
                self._judge(seen.state)
            return
        before, self.unusable = self.unusable, UnusablePasswords(seen.total, tuple(seen.users))
        if self.unusable == before:
            return  # a restarted devpi-server reports the same
        self._board.changed()
        if seen.total:
            names = ", ".join(printable(name, 100) for name in seen.users)
            more = "" if seen.total == len(seen.users) else f" and {seen.total - len(seen.users)} more"
            log.warning(
                "users who can't log in, because devpi-server can't check their password hashes: %d (%s%s); "
                "set new passwords, as root: `devpi passwd NAME`",
                seen.total,
                names,
                more,
            )
        elif before is not None and before.total:
            log.info("devpi-server can check the passwords of all users again")

    def hint(self) -> str | None:
        """Return how to set a user's password; None: not possible now, or not needed."""
        serves = self._lifecycle.snapshot.phase in (Phase.LAUNCHING, Phase.READY)
        return "as root: `devpi passwd NAME`" if serves and self.unusable and self.unusable.total else None

    def _judge(self, root_password: str) -> None:
        self._board.push("root-password", judge_root_password(root_password, self._allow_empty_root, self._rotate))
