"""The feature `credentials`: root's password, the admin token and the login secret in a container's life."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sidecar.core import files
from sidecar.core.board import Board
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.feature import Json
from sidecar.core.lifecycle import Lifecycle, Notice, Phase, Snapshot
from sidecar.core.public import public, rfc3339
from sidecar.core.sample import Family, gauge, states
from sidecar.core.settings import CredentialSettings
from sidecar.core.threads import to_the_end
from sidecar.devpi.process import SetFailed
from sidecar.devpi.protocol import Configured, Message, RootPasswordSeen, Serve, UnusableSeen
from sidecar.features.credentials import password_advice
from sidecar.features.credentials.claims import Claims
from sidecar.features.credentials.login_secret import DerivedKey, copy_provided_secret, note_derived_key, place_secret
from sidecar.features.credentials.password_status import RootPassword, RootPasswordStatus, UnusablePasswords
from sidecar.features.credentials.refusals import NotYet, not_running
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.rotation import give_root_password
from sidecar.features.credentials.secrets import AdminToken, CredentialsError, secure_directory
from sidecar.features.credentials.users import Setter, Users
from sidecar.features.hooks import Hooks, Plan, Running
from sidecar.storage.runtime_dir import RuntimeDir
from sidecar.storage.serverdir import Serverdir

log = logging.getLogger(__name__)

_PROVIDED = "the provided root password (DEVPI_PASSWORD, DEVPI_PASSWORD_FILE, root-passwd)"
_TICK = 1.0
"""Seconds between two checks whether an unclaimed password has expired."""
_FIRST_REQUESTS = 5.0
"""Seconds after a start that are left to them: the check of a password takes 0.4 CPU-seconds."""
_AGAIN = 10.0
"""Seconds until a request that devpi-server could not answer is retried."""


class Credentials(Hooks):
    """Root's password, the admin token and the login secret. Lives on the event loop."""

    name = "credentials"

    def __init__(self, lifecycle: Lifecycle, board: Board, settings: CredentialSettings, runtime: RuntimeDir) -> None:
        self.provided_password = settings.root_password
        """Set by the operator, in a variable or in devpi's configuration file."""
        self._lifecycle = lifecycle
        self._board = board
        self._settings = settings
        self._runtime = runtime
        self._token: AdminToken | None = None
        self._record: RootPasswordFile | None = None
        self._claims: Claims | None = None
        self._secret_is_ours = True
        self._users = Users(lifecycle, board, allow_empty_root=settings.allow_empty_root)
        self._unused = asyncio.Event()
        """Set when it is time to check whether a provided password is root's."""
        self._may_be_unused = False
        board.declare("root-password", "root has a password", gates=True)
        lifecycle.subscribe(self._lived)

    # --- the seam -------------------------------------------------------------------------------------------

    async def configured(self, configured: Configured) -> Configured:
        """Read root's password from devpi's configuration file, and copy the operator's own login secret."""
        if configured.root_password is not None:
            self._take_password(configured.root_password)
        if configured.secretfile is None:
            return configured
        try:  # a wrong --secretfile fails before the serverdir is touched
            copy = await to_the_end(copy_provided_secret, Path(configured.secretfile), self._runtime.path)
        except CredentialsError as error:
            raise Exit(ExitCode.SETTINGS, error.reason, error.hint) from error
        return replace(configured, secretfile=str(copy))

    async def opened(self, serverdir: Serverdir) -> None:
        """Make the secrets private, and load or generate the admin token."""
        await to_the_end(secure_directory, serverdir.own)
        self._token = await to_the_end(AdminToken.load_or_generate, serverdir.admin_token, self._settings.admin_token)
        self._runtime.write_token(self._token.value)

    async def prepare(self, plan: Plan) -> Plan:
        """Load the digest of a root password hash that is known not to be of the empty password."""
        self._may_be_unused = not plan.is_new and self.provided_password is not None
        return plan if plan.is_new else replace(plan, root_hash=await to_the_end(_read_text, plan.serverdir.root_hash))

    async def launching(self, serve: Serve, plan: Plan) -> Serve:
        """Place the login secret where devpi-server reads it, and finish an interrupted rotation."""
        serverdir, configured = plan.serverdir, plan.configured
        self._users.launching()
        if self._claims is not None:
            await self._claims.settle()  # what `stopping` had no time for
        if (record := self._record) is None:
            record = self._record = await to_the_end(RootPasswordFile(serverdir.root_password).load)
        secret = await to_the_end(
            place_secret,
            serverdir.own,
            serverdir.path,
            self._runtime.path,
            given=None if configured.secretfile is None else Path(configured.secretfile),
            is_random=self._settings.secret_is_random,
            renew=record.rotating and not record.pending_keeps_logins,
        )
        self._secret_is_ours = secret.own is not None
        known_root_hash = plan.root_hash
        if self._claims is not None:  # it may have been changed since the first launch
            known_root_hash = await to_the_end(_read_text, serverdir.root_hash)
        else:
            changed = self._board.changed
            self._claims = Claims(self._lifecycle, record, secret.own, self._settings.claim_ttl, changed=changed)
        self._claims.launching(secret.own)
        return replace(
            serve,
            secretfile=str(secret.path),
            cheap_derivation=secret.derivation == "cheap",
            known_root_hash=known_root_hash,
            new_root_password=record.pending_rotation(),
        )

    def hear(self, message: Message) -> None:
        """Take devpi-server's reports of its users."""
        if isinstance(message, RootPasswordSeen | UnusableSeen):
            self._users.hear(message)

    async def devpi_up(self, running: Running) -> None:
        """Allow claims and rotations of root's password from now on."""
        assert self._record is not None  # noqa: S101 - devpi-server was launched
        assert self._claims is not None  # noqa: S101
        listening, record, claims = running.listening, self._record, self._claims
        key = DerivedKey(listening.derived_key, listening.argon2)
        await to_the_end(note_derived_key, running.serverdir.own, key, kept=self._secret_is_ours)
        if record.rotating:
            await to_the_end(record.recover_rotation)
            log.warning("finished an interrupted change of root's password; the new password can be claimed now")
            claims.count_from_now()
        setter = Setter(running.child, running.serverdir, self._runtime)
        if listening.root_password == "unusable":  # noqa: S105 - not a password
            await self._give_root_password(record, setter)
        if listening.root_hash is not None:
            await setter.keep_root_hash(listening.root_hash)
        claims.devpi_up(setter, listening.role)
        if running.is_replica and self.provided_password is not None:
            self._may_be_unused = False
            reason = f"{_PROVIDED} has no effect on a replica: its users are the primary's"
            self._lifecycle.notice(Notice("root-password", reason, "remove it from this replica"))
        self._users.begin(listening.root_password, password_advice.rotate(claims.status()))

    async def stopping(self) -> None:
        """Finish the claims and rotations that have begun, and start no others."""
        self._users.end()
        if self._claims is not None:
            self._claims.devpi_down()
            await self._claims.settle()

    async def run(self) -> None:
        """Let an unclaimed password expire; report a provided one that is not root's."""
        await asyncio.gather(self._expire(), self._report_unused_password())

    def status(self) -> Json:
        """Return the passwords' part of `/status`; it is public, so without the address of the claim."""
        root, unusable = self.root_password, self.unusable_passwords
        return {
            "root_password": {
                "state": root.state.value,
                "expires": rfc3339(root.expires),
                "claimed_at": rfc3339(root.claimed_at),
                "expired_at": rfc3339(root.expired_at),
                "hint": password_advice.root_password(root),
            },
            "unusable_passwords": None
            if unusable is None
            else {
                "total": unusable.total,
                "users": [public(name) for name in unusable.users],
                "hint": self.user_password_hint(),
            },
        }

    def samples(self) -> Iterable[Family]:
        """Return the state of root's password as metrics."""
        root = self.root_password
        text = "1 for the current state of root's password, 0 for the others."
        yield states("devpi_sidecar_root_password", text, "state", RootPassword, root.state)
        expires = None if root.expires is None else root.expires.timestamp()
        text = "Time at which an unclaimed root password expires."
        yield gauge("devpi_sidecar_root_password_expiry_timestamp_seconds", text, expires)

    # --- for `web` and `cli` --------------------------------------------------------------------------------

    def token_ok(self, token: bytes) -> bool:
        """Whether `token` is the admin token, in constant time. Raises `NotYet` before the serverdir is open."""
        if self._token is None:
            raise NotYet("the admin token is not loaded yet, because the serverdir is not open", 2)
        return self._token.matches(token)

    @property
    def root_password(self) -> RootPasswordStatus:
        """The state of root's password, from memory."""
        return RootPasswordStatus() if self._claims is None else self._claims.status()

    @property
    def unusable_passwords(self) -> UnusablePasswords | None:
        """The users that need a new password; None: not known yet, or this is a replica."""
        return self._users.unusable

    def user_password_hint(self) -> str | None:
        """Return how to set new passwords for them; None: not possible now, or not needed."""
        return self._users.hint()

    async def claim(self, address: str) -> str:
        """See `Claims.claim`. Also raises `NotYet` and `NotRunning` before devpi-server was launched."""
        return await self._launched().claim(address)

    async def rotate(self, address: str, *, keep_logins: bool = False) -> str:
        """See `Claims.rotate`. Also raises `NotYet` and `NotRunning` before devpi-server was launched."""
        return await self._launched().rotate(address, keep_logins=keep_logins)

    def _launched(self) -> Claims:
        if self._claims is None:
            raise not_running(self._lifecycle.snapshot.phase)
        return self._claims

    # --- a provided password --------------------------------------------------------------------------------

    def _take_password(self, configured: str) -> None:
        """Take root's password from devpi's configuration file; as for devpi's tools, a variable overrides it."""
        if self.provided_password is None:
            self.provided_password = configured
        elif self.provided_password != configured:
            reason = "root-passwd in devpi-server's configuration file is not used, because DEVPI_PASSWORD differs"
            self._lifecycle.notice(Notice("configuration", reason, "keep one of them"))

    async def _give_root_password(self, record: RootPasswordFile, setter: Setter) -> None:
        """Replace a root password that devpi-server can't check. If that fails, the check `root-password` fails."""
        given = self.provided_password
        what = "the provided password was set" if given is not None else "a generated password was set; claim it"
        try:
            await give_root_password(record, setter, given)
        except SetFailed as error:
            log.error("devpi-server can't check root's password hash and rejected a new password: %s", error.reason)
        else:
            log.warning("devpi-server can't check root's password hash, so nobody could log in as root: %s", what)

    async def _report_unused_password(self) -> None:
        """Report a provided password that is not root's, because the serverdir held data, once that is known."""
        await self._unused.wait()
        await asyncio.sleep(_FIRST_REQUESTS)
        if not await self._provided_holds():
            reason = f"{_PROVIDED} is not used: the serverdir holds data, and its root has another password"
            rotate = password_advice.rotate(self.root_password)
            lost = f" (if root's is lost: {rotate})" if rotate else ""
            hint = f"remove it; or, as root, set it with `devpi passwd root`{lost}, and restart"
            self._lifecycle.notice(Notice("root-password", reason, hint))

    async def _provided_holds(self) -> bool:
        while True:
            holds = await self._launched().is_root_password(self.provided_password or "")
            if holds is not None:
                return holds
            await asyncio.sleep(_AGAIN)

    # --- expiry, and the end of a life ----------------------------------------------------------------------

    async def _expire(self) -> None:
        while True:
            if self._claims is not None:
                await self._claims.expire_if_due()
            await asyncio.sleep(_TICK)

    def _lived(self, _before: Snapshot, after: Snapshot) -> None:
        if after.phase is Phase.READY and self._may_be_unused:
            self._unused.set()
        if after.phase in (Phase.FAILED, Phase.STOPPING):
            self._board.drop_hint("root-password")  # a new one can't be set any more


def _read_text(path: Path) -> str | None:
    try:
        content = files.read_file(path, 1024)
    except OSError:
        return None
    return None if content is None else content.decode(errors="replace")
