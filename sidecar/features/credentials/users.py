"""What the sidecar does about devpi-server's users: sets root's password, and follows what is seen of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.core import advice, files
from sidecar.core.disk_hints import hint_to_write
from sidecar.core.lifecycle import Lifecycle, Notice, UnusablePasswords
from sidecar.core.settings import CredentialSettings
from sidecar.core.terminal import printable
from sidecar.core.threads import to_the_end
from sidecar.devpi.process import Child, SetFailed
from sidecar.devpi.protocol import RootPasswordSeen, UnusableSeen
from sidecar.features.credentials.claims import Bootstrap
from sidecar.features.credentials.login_secret import place_copy
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.rotation import PasswordSetter, give_root_password
from sidecar.storage.runtime_dir import RuntimeDir
from sidecar.storage.serverdir import Serverdir

log = logging.getLogger(__name__)

_GIVEN = "the given root password (DEVPI_PASSWORD, DEVPI_PASSWORD_FILE, root-passwd)"
_AGAIN = 10.0
"""Seconds until a question that devpi-server could not answer is asked again."""


@dataclass(frozen=True)
class Setter:
    """Sets root's password in the running devpi-server, for `Bootstrap` and `Users`."""

    child: Child
    serverdir: Serverdir
    runtime: RuntimeDir

    async def set_root_password(self, password: str, login_secret: bytes | None) -> None:
        """See `bootstrap.PasswordSetter`."""
        if login_secret is not None:
            try:
                await asyncio.to_thread(place_copy, login_secret, self.runtime.path)
            except OSError as error:  # devpi has not heard of anything yet
                reason = f"the runtime directory refuses the new login secret: {error.strerror}"
                raise SetFailed(reason, maybe_done=False, hint=hint_to_write(error, "the runtime directory")) from error
        root_hash = await self.child.set_root_password(password, secretfile_changed=login_secret is not None)
        if root_hash is not None:
            await self.keep_root_hash(root_hash)

    async def is_root_password(self, password: str) -> bool | None:
        """See `bootstrap.PasswordSetter`."""
        return await self.child.is_root_password(password)

    async def keep_root_hash(self, root_hash: str) -> None:
        """Remember that this hash is not the empty password's, so that the next start need not find out."""
        with contextlib.suppress(OSError):  # it costs that start a quarter of a second, no more
            await to_the_end(files.write_file, self.serverdir.root_hash, root_hash.encode())


class Users:
    """Follows the users of the running devpi-server. Lives on the event loop."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        report: Callable[[str, bool, str | None], None],
        bootstrap: Bootstrap,
        settings: CredentialSettings,
    ) -> None:
        """`report` is told what root's password is, whether it may be empty, and how to set another one."""
        self._lifecycle = lifecycle
        self._report = report
        self._bootstrap = bootstrap
        self._allow_empty_root = settings.allow_empty_root
        self.provided_password = settings.root_password
        """The one that the operator gave, for a root whose own can't be checked."""
        self._begun = False
        self._seen: str | None = None

    def begin(self, root_password: str, role: str) -> None:
        """devpi-server runs, as `role`, and this was its root's password; what was seen since is newer.

        Call it after `Bootstrap.devpi_runs`: what is advised depends on that.
        """
        if role == "replica" and self.provided_password is not None:
            reason = f"{_GIVEN} has no effect on a replica: its users are the primary's"
            self._lifecycle.notice(Notice("root-password", reason, "remove it here"))
        self._begun = True
        self._judge(self._seen or root_password)

    def hear(self, seen: RootPasswordSeen | UnusableSeen) -> None:
        """What the child has seen."""
        if isinstance(seen, RootPasswordSeen):
            self._seen = seen.state
            if self._begun:
                self._judge(seen.state)
            return
        before = self._lifecycle.snapshot.unusable_passwords
        self._lifecycle.update(unusable_passwords=UnusablePasswords(seen.total, tuple(seen.users)))
        if seen.total:
            names = ", ".join(printable(name, 100) for name in seen.users)
            more = "" if seen.total == len(seen.users) else f" and {seen.total - len(seen.users)} more"
            log.warning(
                "users who can't log in, for devpi-server can't check their password hashes: %d (%s%s); "
                "set new passwords, as root: `devpi passwd NAME`",
                seen.total,
                names,
                more,
            )
        elif before is not None and before.total:
            log.info("every user has a password again that devpi-server can check")

    async def give_root_password(self, record: RootPasswordFile, setter: PasswordSetter) -> None:
        """A root password that devpi-server can't check counts as none. If this fails, the check fails, and says so."""
        given = self.provided_password
        what = "the given password is set" if given is not None else "a generated password is set, and can be claimed"
        try:
            await give_root_password(record, setter, given)
        except SetFailed as error:
            log.error("devpi-server can't check root's password hash, and did not take a new one: %s", error.reason)
        else:
            log.warning("devpi-server can't check root's password hash, so nobody could log in as root: %s", what)
        self._bootstrap.publish()

    async def report_unused_password(self) -> None:
        """Report a given root password that is not root's, for the data was there before. Waits until that is known."""
        if await self._provided_holds():
            return
        reason = f"{_GIVEN} is not used: the serverdir holds data, and its root has another password"
        rotate = advice.rotate(self._lifecycle.snapshot)
        lost = f" (lost: {rotate})" if rotate else ""
        hint = f"remove it; or, as root, set it with `devpi passwd root`{lost}, and restart"
        self._lifecycle.notice(Notice("root-password", reason, hint))

    async def _provided_holds(self) -> bool:
        while True:
            holds = await self._bootstrap.is_root_password(self.provided_password or "")
            if holds is not None:
                return holds
            await asyncio.sleep(_AGAIN)

    def _judge(self, root_password: str) -> None:
        rotate = advice.rotate(self._lifecycle.snapshot)
        self._report(root_password, self._allow_empty_root, rotate)
