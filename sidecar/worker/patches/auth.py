"""Limit concurrent password checks: each takes 64 MiB and 0.2 s of a core, and anybody can request one.

A pyramid tween outside devpi's transaction finds the requests that carry a password, checks it by `shared_checks`, and
stores the result where devpi's own check looks first. If too many different passwords wait, or argon2 can't run, the
request gets 503 before it holds a transaction. Login tokens are cheap to check and pass through.

devpi applies a stored result to whatever credentials it checks next. So the result is stored only for the user and
password that were checked here: for a login those in its body, never those in its headers; for any other request those
in its headers, and only while devpi identifies the user. It is stored inside devpi's transaction, and only if the user
still has the hash that was checked: the password may have been changed while the request waited.
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
"""Seconds in the Retry-After of a rejected request: about as long as a full queue takes."""
THREADS = "sidecar.threads"
"""The key of the server's `shared_checks.Threads` in pyramid's registry."""
_LOGIN_BYTES = 64 * 1024
"""Maximum size of a login's body, in bytes."""
_LOG_EVERY = 10.0
"""Minimum seconds between two log lines about rejected requests, for each reason."""
_RESULT = "__devpiserver_user_validate_result"
"""The attribute of a request in which devpi caches the result of its check (devpi_server.auth, `_validate`)."""
_OF_HEADERS = {"devpi_server.auth_basic", "devpi_server.auth_devpi"}
"""The plugins that read credentials only from `Authorization` and `X-Devpi-Auth`."""
_CHECKED = "sidecar.checked"
"""The key of a request's `Checked` in its environ."""


class Checked(NamedTuple):
    """A password that was checked."""

    credentials: tuple[str, str]
    """User and password."""
    hashed: tuple[str, str | None]
    """The hash that it was checked against, and its salt."""
    valid: bool


def before_identity(request: Request, credentials: tuple[str, str] | None) -> None:
    """Store the result for these credentials, which devpi is about to check, and drop any other."""
    forget(request)
    checked: Checked | None = request.environ.get(_CHECKED)
    if checked is not None and checked.credentials == credentials:
        _leave(checked, request)


def forget(request: Request) -> None:
    """Drop the result, because devpi has identified the user."""
    if hasattr(request, _RESULT):  # rare: the test is cheaper than an exception
        delattr(request, _RESULT)


def _leave(checked: Checked, request: Request) -> None:
    """Store the result where devpi looks, if the user still has the checked hash in this transaction."""
    xom = request.registry["xom"]
    if checked.hashed != _hash_of(checked.credentials[0], xom):
        return
    if checked.valid and xom.keyfs.tx.write and hashing.is_weak(*checked.hashed):
        return  # devpi checks again, and renews the hash
    setattr(request, _RESULT, checked.valid)


def _hash_of(name: str, xom: XOM) -> tuple[str, str | None] | None:
    """Return the user's password hash and salt, None if there is none to check. Requires a transaction."""
    user = xom.model.get_user(name)
    config = user.get(credentials=True) if user is not None else {}
    return (config["pwhash"], config.get("pwsalt")) if config.get("pwhash") else None


def login_tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Make a tween inside the transaction, which stores the result for the credentials in a login's body."""

    def tween(request: Request) -> Response:
        checked: Checked | None = request.environ.get(_CHECKED)
        if checked is not None and _is_login(request):
            _leave(checked, request)
            del request.environ[_CHECKED]  # it must not apply to credentials in the headers
        return handler(request)

    return tween


def _is_login(request: Request) -> bool:
    # pyramid's route pattern ends in `$`, which also matches before a trailing line feed
    path: str = request.environ.get("PATH_INFO", "")
    return bool(request.method == "POST" and path.removesuffix("\n") == "/+login")


def tween_factory(handler: Handler, registry: Registry) -> Handler:
    """Make the tween outside the transaction."""
    return _Admission(handler, registry)


class _Admission:
    def __init__(self, handler: Handler, registry: Registry) -> None:
        self._handler = handler
        self._registry = registry
        self._xom: XOM = registry["xom"]
        self._checks = SharedChecks(hashing.matches, registry[THREADS])
        plugins = self._xom.config.hook.devpiserver_get_credentials.get_hookimpls()
        self._headers_only = {plugin.function.__module__ for plugin in plugins} <= _OF_HEADERS
        self._rejected: dict[str, tuple[int, float]] = {}
        """Reason → how many requests, and when that was logged last."""

    def __call__(self, request: Request) -> Response:
        environ = request.environ
        if (
            self._headers_only
            and environ["REQUEST_METHOD"] != "POST"
            and not environ.get("HTTP_AUTHORIZATION")
            and not environ.get("HTTP_X_DEVPI_AUTH")
        ):  # fast path: nearly all requests have no credentials
            return self._handle(request)
        login = _is_login(request)
        if login and (request.content_length or 0) > _LOGIN_BYTES:
            return HTTPRequestEntityTooLarge(f"The body of a login must not exceed {_LOGIN_BYTES} bytes.")
        credentials = self._in_body(request) if login else self._in_headers(request)
        if credentials is None:
            return self._handle(request)
        try:
            checked = self._check(*credentials)
        except Full:
            self._log(f"more than {WAITING} different passwords are waiting")
            return _later("Too many passwords are being checked. Log in once, and use the token.")
        except CannotTell as error:
            return self._cannot_tell(error)
        if checked is not None:
            request.environ[_CHECKED] = checked
        return self._handle(request)

    def _handle(self, request: Request) -> Response:
        """Return devpi's answer; devpi itself hashes new passwords, and checks one whose hash has just changed."""
        try:
            return self._handler(request)
        except CannotTell as error:
            return self._cannot_tell(error)

    def _check(self, user: str, password: str) -> Checked | None:
        """Check this user's password; None if devpi has nothing to check. Raises Full, CannotTell."""
        self._checks.admit(user, password)
        with self._xom.keyfs.read_transaction():
            hashed = _hash_of(user, self._xom)
        if hashed is None:
            return None
        return Checked((user, password), hashed, self._checks.matches(user, password, *hashed))

    def _in_body(self, request: Request) -> tuple[str, str] | None:
        """Return user and password of a login; None on a replica, which forwards logins to its primary."""
        if self._xom.is_replica():
            return None
        try:
            body: Any = request.json_body
            user, password = body["user"], body["password"]
        except (ValueError, KeyError, TypeError, LookupError, RecursionError):  # devpi refuses it
            return None
        both = isinstance(user, str) and isinstance(password, str)
        return (user, password) if both and is_unicode(user) and is_unicode(password) else None  # as above

    def _in_headers(self, request: Request) -> tuple[str, str] | None:
        """Return user and password of `Authorization: Basic` or `X-Devpi-Auth`; None for a login token."""
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
        """Count a rejected request, and log the count at most every `_LOG_EVERY` seconds."""
        count, logged = self._rejected.get(reason, (0, -_LOG_EVERY))
        now = time.monotonic()
        if now - logged >= _LOG_EVERY:
            logged = now
            log.warning("password checks: %s: %d requests rejected so far", reason, count + 1)
        self._rejected[reason] = count + 1, logged


def _later(what: str) -> Response:
    return HTTPServiceUnavailable(what, headers=[("Retry-After", str(RETRY_AFTER))])
