"""Password checks, bounded: each costs 64 MiB and a fifth of a second of a core, and anybody may ask for one.

A pyramid tween outside devpi's transaction. It finds out which requests will have a password checked, has it checked by
`shared_checks`, and leaves the result where devpi's own check looks first. Too many different ones at once are turned
away with 503 before they hold a transaction; so is everybody where argon2 can't run. Login tokens, of which a check is
cheap, pass by.

devpi takes a result that it finds for the one of whatever it is about to check. So a result is left for the very user
and password that were checked here alone: a login's are those in its body, never those in its headers; and those in the
headers of another request count while devpi finds out who asks, not before and not after. And it is left inside devpi's
transaction, where the user still has the hash that was checked: who waited here while the password was changed has the
old one no more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import itsdangerous
from pyramid.httpexceptions import HTTPRequestEntityTooLarge, HTTPServiceUnavailable
from pyramid.interfaces import ISecurityPolicy

from sidecar.worker.patches import hashing
from sidecar.worker.shared_checks import WAITING, Full, SharedChecks
from sidecar.worker.verification import CannotTell
from sidecar.worker.wellformed import is_unicode

if TYPE_CHECKING:
    from devpi_server.main import XOM
    from pyramid.registry import Registry
    from pyramid.request import Request
    from pyramid.response import Response

Handler = Callable[["Request"], "Response"]

log = logging.getLogger("sidecar.admission")

RETRY_AFTER = 5
"""Seconds that a client which was turned away is told to wait: about as long as a full queue takes."""
THREADS = "sidecar.threads"
"""The key of pyramid's registry under which the server's `shared_checks.Threads` are."""
_LOGIN_BYTES = 64 * 1024
"""Size of a login's body above which it is refused."""
_LOG_EVERY = 10.0
"""Least seconds between two log lines about clients turned away, for each reason."""
_RESULT = "__devpiserver_user_validate_result"
"""The attribute of a request in which devpi keeps the result of its own check (devpi_server.auth, `_validate`)."""
_OF_HEADERS = {"devpi_server.auth_basic", "devpi_server.auth_devpi"}
"""The plugins that find credentials in `Authorization` and `X-Devpi-Auth`, and nowhere else."""
_CHECKED = "sidecar.checked"
"""The key of a request's environ under which its `Checked` is."""


class Checked(NamedTuple):
    """A password that was checked."""

    credentials: tuple[str, str]
    """User and password."""
    hashed: tuple[str, str | None]
    """The hash that it was checked against, and its salt."""
    valid: bool


def before_identity(request: Request, credentials: tuple[str, str] | None) -> None:
    """devpi is about to check these credentials: it finds the result of the same ones, and no other."""
    forget(request)
    checked: Checked | None = request.environ.get(_CHECKED)
    if checked is not None and checked.credentials == credentials:
        _leave(checked, request)


def forget(request: Request) -> None:
    """Who asks is known: the result is nobody else's."""
    if hasattr(request, _RESULT):  # mostly not: asking costs less than an exception
        delattr(request, _RESULT)


def _leave(checked: Checked, request: Request) -> None:
    """Leave the result where devpi looks, if the hash is still the user's in this transaction."""
    xom = request.registry["xom"]
    if checked.hashed != _hash_of(checked.credentials[0], xom):
        return
    if checked.valid and xom.keyfs.tx.write and hashing.is_weak(*checked.hashed):
        return  # devpi checks once more, and renews it
    setattr(request, _RESULT, checked.valid)


def _hash_of(name: str, xom: XOM) -> tuple[str, str | None] | None:
    """The user's password hash and salt; None where there is nothing to check. Only within a transaction."""
    user = xom.model.get_user(name)
    config = user.get(credentials=True) if user is not None else {}
    return (config["pwhash"], config.get("pwsalt")) if config.get("pwhash") else None


def login_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """A tween inside the transaction: a login finds the result of its body's credentials."""

    def tween(request: Request) -> Response:
        checked: Checked | None = request.environ.get(_CHECKED)
        if checked is not None and _is_login(request):
            _leave(checked, request)
            del request.environ[_CHECKED]  # no header's
        return handler(request)

    return tween


def _is_login(request: Request) -> bool:
    # a `$` ends the pattern of pyramid's route: it matches before a last line feed, too
    path: str = request.environ.get("PATH_INFO", "")
    return bool(request.method == "POST" and path.removesuffix("\n") == "/+login")


def tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Pyramid's way to make a tween."""
    return _Admission(handler, registry)


class _Admission:
    def __init__(self, handler: Handler, registry: Registry) -> None:
        self._handler = handler
        self._registry = registry
        self._xom: XOM = registry["xom"]
        self._checks = SharedChecks(hashing.matches, registry[THREADS])
        plugins = self._xom.config.hook.devpiserver_get_credentials.get_hookimpls()
        self._headers_only = {plugin.function.__module__ for plugin in plugins} <= _OF_HEADERS
        self._turned_away: dict[str, tuple[int, float]] = {}

    def __call__(self, request: Request) -> Response:
        environ = request.environ
        if (
            self._headers_only
            and environ["REQUEST_METHOD"] != "POST"
            and not environ.get("HTTP_AUTHORIZATION")
            and not environ.get("HTTP_X_DEVPI_AUTH")
        ):  # no credentials, as in nearly all requests; for these this costs next to nothing
            return self._handle(request)
        login = _is_login(request)
        if login and (request.content_length or 0) > _LOGIN_BYTES:
            return HTTPRequestEntityTooLarge(f"A login has {_LOGIN_BYTES} bytes at most.")
        credentials = self._in_body(request) if login else self._in_headers(request)
        if credentials is None:
            return self._handle(request)
        try:
            checked = self._check(*credentials)
        except Full:
            self._log(f"more than {WAITING} different ones wait")
            return _later("Too many passwords are being checked. Log in once, and use the token.")
        except CannotTell as error:
            return self._cannot_tell(error)
        if checked is not None:
            request.environ[_CHECKED] = checked
        return self._handle(request)

    def _handle(self, request: Request) -> Response:
        """devpi's answer. It hashes a new password itself, and checks one whose hash has changed meanwhile."""
        try:
            return self._handler(request)
        except CannotTell as error:
            return self._cannot_tell(error)

    def _check(self, user: str, password: str) -> Checked | None:
        """Whether it is this user's password; None where devpi has nothing to check. Raises Full, CannotTell."""
        self._checks.admit(user, password)
        with self._xom.keyfs.read_transaction():
            hashed = _hash_of(user, self._xom)
        if hashed is None:
            return None
        return Checked((user, password), hashed, self._checks.matches(user, password, *hashed))

    def _in_body(self, request: Request) -> tuple[str, str] | None:
        """User and password of a login; a replica hands that on to its primary."""
        if self._xom.is_replica():
            return None
        try:
            body: Any = request.json_body
            user, password = body["user"], body["password"]
        except (ValueError, KeyError, TypeError, LookupError, RecursionError):  # devpi finds the same
            return None
        both = isinstance(user, str) and isinstance(password, str)
        return (user, password) if both and is_unicode(user) and is_unicode(password) else None  # else devpi refuses it

    def _in_headers(self, request: Request) -> tuple[str, str] | None:
        """User and password of `Authorization: Basic` or `X-Devpi-Auth`; None where it is a login token."""
        policy = self._registry.getUtility(ISecurityPolicy)
        (credentials, _) = policy._get_credentials(request)
        if credentials is None:
            return None
        user, password = credentials
        try:
            policy.auth.serializer.loads(password, max_age=policy.auth.LOGIN_EXPIRATION)
        except itsdangerous.SignatureExpired:
            return None
        except itsdangerous.BadData:
            return user, password
        return None

    def _cannot_tell(self, error: CannotTell) -> Response:
        self._log(f"argon2 can't run ({error})")
        return _later("Passwords can't be checked or changed now: the server lacks memory or threads.")

    def _log(self, reason: str) -> None:
        """Count a client that is turned away, and log so now and then."""
        count, logged = self._turned_away.get(reason, (0, -_LOG_EVERY))
        now = time.monotonic()
        if now - logged >= _LOG_EVERY:
            logged = now
            log.warning("password checks: %s: %d requests turned away so far", reason, count + 1)
        self._turned_away[reason] = count + 1, logged


def _later(what: str) -> Response:
    return HTTPServiceUnavailable(what, headers=[("Retry-After", str(RETRY_AFTER))])
