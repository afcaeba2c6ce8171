"""The record of root's password: generated, claimed, expired, provided, imported, or being rotated.

It is one file of `SERVERDIR/.sidecar`, replaced by a durable rename at each change. Changes block on the disk: call
them in a thread. No message and no repr contains a secret or a path, because messages appear in `/status`.
"""

from __future__ import annotations

import functools
import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Self, cast

from sidecar.core import files
from sidecar.core.lifecycle import now
from sidecar.features.credentials.password_status import RootPassword, RootPasswordStatus
from sidecar.features.credentials.secrets import CredentialsDamaged, read_secret


@dataclass(frozen=True, slots=True)
class _Record:
    """The content of `root-password.json`. `_FIELDS` has the fields of each state."""

    state: RootPassword | Literal["rotating"] = RootPassword.UNKNOWN
    password: str | None = field(default=None, repr=False)
    generated: datetime | None = None
    claimed_at: datetime | None = None
    claimed_from: str | None = None
    expired_at: datetime | None = None
    keep_logins: bool | None = None
    started: datetime | None = None
    previous: _Record | None = None


_FIELDS: dict[str, tuple[str, ...]] = {
    "claimable": ("password", "generated"),
    "claimed": ("claimed_at", "claimed_from", "generated"),
    "expired": ("expired_at", "generated"),
    "given": (),
    "from_import": (),
    "rotating": ("password", "keep_logins", "started", "previous"),
}
_SPELT = {"provided": "given"}
"""States that are spelt on disk as in the first builds."""
_TYPES: dict[str, type] = {"password": str, "claimed_from": str, "keep_logins": bool}
_TIMES = frozenset({"generated", "claimed_at", "expired_at", "started"})


@dataclass(slots=True)
class RootPasswordFile:
    """The record of root's password. A change that raises OSError is undone, and can be retried."""

    path: Path = field(repr=False)
    _record: _Record = field(default=_Record(), repr=False)

    def load(self) -> Self:
        """Read the record; if absent, the state is `unknown`. Raises `CredentialsDamaged`, `CredentialsError`."""
        if (data := read_secret(self.path)) is None:
            self._record = _Record()
            return self
        try:
            self._record = _parse(json.loads(data))
        except (ValueError, RecursionError) as error:
            reason = "invalid JSON" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else str(error)
            raise CredentialsDamaged(
                f"the record of root's password ({self.path.name}) is damaged: {reason}",
                "restore it, or move it away, which makes root's password unknown here",
            ) from None
        return self

    def status(self, ttl: float | None, at: datetime) -> RootPasswordStatus:
        """Return its status, without disk access. During a rotation it is `unknown`: either password may be valid.

        `ttl`: seconds that an unclaimed password lasts; None: for ever.
        """
        record = self._record
        status = functools.partial(RootPasswordStatus, generated=record.generated)
        if record.state == "rotating":
            return status(RootPassword.UNKNOWN)
        if record.state is RootPassword.CLAIMABLE:
            expires = self.expires(ttl)
            if expires is not None and at >= expires:
                return status(RootPassword.EXPIRED, expires, changed=expires)
            return status(RootPassword.CLAIMABLE, expires)
        changed = record.claimed_at or record.expired_at
        return status(record.state, changed=changed, claimed_from=record.claimed_from)

    def expires(self, ttl: float | None) -> datetime | None:
        """Return when a claimable password expires; None: never, or none is claimable."""
        if ttl is None or self._record.state is not RootPassword.CLAIMABLE or self._record.generated is None:
            return None
        try:
            return self._record.generated + timedelta(seconds=ttl)
        except OverflowError:
            return None

    @property
    def generated(self) -> datetime | None:
        """When the password was generated, claimed or not; None: it wasn't."""
        return self._record.generated

    @property
    def unclaimed(self) -> str | None:
        """The claimable password; None: there is none."""
        return self._record.password if self._record.state is RootPassword.CLAIMABLE else None

    @property
    def rotating(self) -> bool:
        """Whether a rotation has begun and was neither finished nor abandoned."""
        return self._record.state == "rotating"

    def write_generated(self, password: str, at: datetime | None = None) -> None:
        """Record a generated password (`at`: now), claimable once. Raises OSError, as all methods below."""
        self._write(_Record(RootPassword.CLAIMABLE, password=password, generated=at or now()))

    def write_provided(self) -> None:
        """Record that the operator provided the password."""
        self._write(_Record(RootPassword.PROVIDED))

    def write_from_import(self) -> None:
        """Record that the password is the imported export's."""
        self._write(_Record(RootPassword.FROM_IMPORT))

    def claim(self, address: str, at: datetime) -> str:
        """Return the password, for `address`, after the disk has it as claimed, and no longer holds it.

        Raises ValueError if there is nothing to claim, and OSError.
        """
        record = self._record
        if record.state is not RootPassword.CLAIMABLE:
            raise ValueError("not claimable")
        self._write(_Record(RootPassword.CLAIMED, generated=record.generated, claimed_at=at, claimed_from=address))
        return cast(str, record.password)

    def expire(self, at: datetime) -> None:
        """Delete an unclaimed password. Raises ValueError if there is none, and OSError."""
        if self._record.state is not RootPassword.CLAIMABLE:
            raise ValueError("not claimable")
        self._write(_Record(RootPassword.EXPIRED, generated=self._record.generated, expired_at=at))

    def begin_rotation(self, new: str, keep_logins: bool, at: datetime) -> None:
        """Record that `new` is about to be set in devpi; replaces an unfinished rotation. Raises OSError."""
        previous = self._record.previous if self.rotating else self._record
        self._write(_Record("rotating", password=new, keep_logins=keep_logins, started=at, previous=previous))

    def finish_rotation(self, address: str, at: datetime) -> None:
        """Record that the new password is set, and about to be returned to `address`. Raises ValueError, OSError."""
        begun = self._rotating()
        self._write(_Record(RootPassword.CLAIMED, generated=begun.started, claimed_at=at, claimed_from=address))

    def abandon_rotation(self) -> None:
        """Restore the previous state: the new password was certainly not set. Raises ValueError, OSError."""
        self._write(self._rotating().previous or _Record())

    def pending_rotation(self) -> str | None:
        """Return the password that an unfinished rotation must still set in devpi; None: there is none."""
        return self._record.password if self.rotating else None

    @property
    def pending_keeps_logins(self) -> bool:
        """Whether the unfinished rotation keeps the login secret."""
        return bool(self._record.keep_logins)

    def recover_rotation(self, at: datetime | None = None) -> None:
        """Make `pending_rotation()`, which devpi has now, claimable, because it was never returned.

        Raises ValueError, OSError.
        """
        self.write_generated(cast(str, self._rotating().password), at)

    def _rotating(self) -> _Record:
        if not self.rotating:
            raise ValueError("no rotation has begun")
        return self._record

    def _write(self, record: _Record) -> None:
        try:
            self._put(record)
        except OSError:
            # if only the fsync of the folder failed, the new record is in place already: restore the old one
            with suppress(OSError):
                self._put(self._record)
            raise
        self._record = record

    def _put(self, record: _Record) -> None:
        if record.state is RootPassword.UNKNOWN:
            files.remove(self.path)
        else:
            files.write_file(self.path, json.dumps(_dump(record), indent=1).encode() + b"\n")


def _dump(record: _Record) -> dict[str, object]:
    state = _SPELT.get(record.state, str(record.state))
    content: dict[str, object] = {"state": state}
    for name in _FIELDS.get(state, ()):
        value = getattr(record, name)
        if isinstance(value, datetime):
            value = value.isoformat()
        content[name] = _dump(value) if isinstance(value, _Record) else value
    return content


def _parse(content: object, *, nested: bool = False) -> _Record:
    """Parse a record. Raises ValueError, whose text contains no value."""
    if not isinstance(content, dict):
        raise ValueError("not an object")
    state = content.get("state")
    if nested and state == "unknown":
        return _Record()
    if not isinstance(state, str) or state not in _FIELDS or (nested and state == "rotating"):
        raise ValueError("an unknown state")
    states = {spelt: name for name, spelt in _SPELT.items()}
    record = _Record("rotating" if state == "rotating" else RootPassword(states.get(state, state)))
    values: dict[str, object] = {}
    for name in _FIELDS[state]:
        value = content.get(name)
        if name == "previous":
            values[name] = _parse(value, nested=True)
        elif name in _TIMES and isinstance(value, str):
            values[name] = _time(name, value)
        elif name in _TYPES and isinstance(value, _TYPES[name]) and value != "":
            values[name] = value
        else:
            raise ValueError(f"{name} is absent or wrong")
    return replace(record, **values)  # type: ignore[arg-type]


def _time(name: str, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} is not a time") from None
    if at.tzinfo is None:
        raise ValueError(f"{name} has no time zone")
    return at.astimezone(UTC)
