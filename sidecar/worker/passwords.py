"""devpi's password hashes, and root's password in an open devpi-server."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from devpi_server.log import threadlog

from sidecar.core.password_hash import is_checkable
from sidecar.worker.patches import hashing
from sidecar.worker.verification import CannotTell

if TYPE_CHECKING:
    from devpi_server.main import XOM


def hash_of(password: str) -> str:
    """Return devpi's hash of a password (argon2id, 64 MiB). Raises CannotTell."""
    from devpi_server.auth import hash_password

    return str(hash_password(password))


def is_hash_of_empty(pwhash: str, pwsalt: str | None) -> bool:
    """Whether the empty password matches the hash. Raises CannotTell."""
    return is_hash_of("", pwhash, pwsalt)


def is_hash_of(password: str, pwhash: str, pwsalt: str | None) -> bool:
    """Whether the password matches the hash; False if devpi can't check that hash. Raises CannotTell."""
    return hashing.matches(password, pwhash, pwsalt)


def digest(pwhash: str) -> str:
    """Return a name for a password hash from which it can't be derived."""
    return hashlib.sha256(pwhash.encode()).hexdigest()


class RootPassword:
    """Root's password in one devpi-server. For use in one thread at a time."""

    def __init__(self, xom: XOM, known: str | None) -> None:
        """`known`: the digest of a hash of root's that is known not to be of the empty password."""
        self._xom = xom
        self._judged = {} if known is None else {known: False}
        """By digest, whether root's hash is of the empty password: argon2 runs once for each."""

    def state(self) -> tuple[str, str | None]:
        """Return its state (see `Listening`), and the digest of its hash if the password is known not to be empty.

        `unchecked`: argon2 can't run. `unusable`: no login is possible. Raises any error of devpi's database.
        """
        if self._xom.is_replica():
            return "unknown", None
        pwhash, pwsalt = self._hash()
        if pwhash is None:
            return "absent", None
        if not is_checkable(pwhash, pwsalt):
            return "unusable", None
        name = digest(pwhash)
        try:
            if name not in self._judged:
                self._judged = {name: is_hash_of_empty(pwhash, pwsalt)}
        except CannotTell as error:
            threadlog.error("root's password can't be checked: argon2 can't run (%s)", error)
            return "unchecked", None
        return ("empty", None) if self._judged[name] else ("set", name)

    def change(self, password: str) -> str:
        """Set it in one transaction, create root if missing, and return the digest of the hash.

        Raises CannotTell before the commit; any other error may come after it.
        """
        with self._xom.keyfs.write_transaction():
            root = self._xom.model.get_user("root")
            if root is None:
                root = self._xom.model.create_user("root", password=password)
            else:
                root.modify(password=password)
            name = digest(root.get(credentials=True)["pwhash"])
        self._judged = {name: not password}
        return name

    def is_this(self, password: str) -> bool:
        """Whether this is root's password. Raises CannotTell and any error of devpi's database."""
        pwhash, pwsalt = self._hash()
        return pwhash is not None and is_hash_of(password, pwhash, pwsalt)

    def _hash(self) -> tuple[str | None, str | None]:
        """Return the hash of root's password and its salt; None for what is missing (only old hashes have a salt)."""
        with self._xom.keyfs.read_transaction():
            root = self._xom.model.get_user("root")
            config = root.get(credentials=True) if root is not None else {}
        return config.get("pwhash") or None, config.get("pwsalt")
