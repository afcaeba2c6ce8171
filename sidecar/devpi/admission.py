"""Password checks, bounded: each costs 64 MiB and a fifth of a second of a core, and anybody may ask for one.

A pyramid tween outside devpi's transaction. It finds out which requests will have a password checked, checks it here,
one at a time, and leaves the result where devpi's own check looks first. Too many at once are turned away with 503
before they hold a transaction. Login tokens, of which a check is cheap, pass by.

devpi takes a result that it finds for the one of whatever it is about to check. So a result is left for the very user
and password that were checked here alone: a login's are those in its body, never those in its headers; and those in the
headers of another request count while devpi finds out who asks, not before and not after. And it is left inside devpi's
transaction, where the user still has the hash that was checked: who waited here while the password was changed has the
old one no more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import itsdangerous
from devpi_server.auth import verify_and_update_password_hash
from pyramid.httpexceptions import HTTPRequestEntityTooLarge, HTTPServiceUnavailable
from pyramid.interfaces import ISecurityPolicy

from sidecar.devpi.stretching import Turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devpi_server.main import XOM
    from pyramid.registry import Registry
    from pyramid.request import Request
    from pyramid.response import Response

Handler = Callable[["Request"], "Response"]

log = logging.getLogger("sidecar.admission")

WAITING = 8
"""Password checks that may wait for the one that runs."""
RETRY_AFTER = 2
"""Seconds that a client which was turned away is told to wait: about as long as a full queue takes."""
_LOGIN_BYTES = 64 * 1024
"""Size of a login's body above which it is refused."""
_LOG_EVERY = 10.0
"""Least seconds between two log lines about clients turned away."""
_RESULT = "__devpiserver_user_validate_result"
"""The attribute of a request in which devpi keeps the result of its own check (devpi_server.auth, `_validate`)."""
_OF_HEADERS = {"devpi_server.auth_basic", "devpi_server.auth_devpi"}
"""The plugins that find credentials in `Authorization` and `X-Devpi-Auth`, and nowhere else."""
_CHECKED = "sidecar.checked"
"""The key of a request's environ under which its `Checked` is."""


class Full(Exception):
    """As many wait as may, or there is no memory for a check."""


class Checked(NamedTuple):
    """A password that was checked."""

    credentials: tuple[str, str]
    """User and password."""
    hashed: tuple[str, str | None]
    """The hash that it was checked against, and its salt."""
    valid: bool


class Checks:
    """One password check at a time, and a short queue."""

    def __init__(self, waiting: int = WAITING) -> None:
        self._places = threading.BoundedSemaphore(waiting + 1)
        self.turn = Turn()
        """Of the one that asks `stretching` for argon2: who needs that within devpi's write transaction waits there
        behind one of these, not behind all."""

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, the running check's included. Raises Full at once where there is none."""
        if not self._places.acquire(blocking=False):
            raise Full
        try:
            yield
        finally:
            self._places.release()


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
    if checked.hashed == _hash_of(checked.credentials[0], request.registry["xom"]):
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
        self._checks = Checks()
        plugins = self._xom.config.hook.devpiserver_get_credentials.get_hookimpls()
        self._headers_only = {plugin.function.__module__ for plugin in plugins} <= _OF_HEADERS
        self._turned_away = 0
        self._logged = 0.0

    def __call__(self, request: Request) -> Response:
        environ = request.environ
        if (
            self._headers_only
            and environ["REQUEST_METHOD"] != "POST"
            and not environ.get("HTTP_AUTHORIZATION")
            and not environ.get("HTTP_X_DEVPI_AUTH")
        ):  # no credentials, as in nearly all requests; for these this costs next to nothing
            return self._handler(request)
        login = _is_login(request)
        if login and (request.content_length or 0) > _LOGIN_BYTES:
            return HTTPRequestEntityTooLarge(f"A login has {_LOGIN_BYTES} bytes at most.")
        credentials = self._in_body(request) if login else self._in_headers(request)
        if credentials is None:
            return self._handler(request)
        try:
            checked = self._check(*credentials)
        except Full:
            return self._turn_away()
        if checked is not None:
            request.environ[_CHECKED] = checked
        return self._handler(request)

    def _check(self, user: str, password: str) -> Checked | None:
        """Whether it is this user's password; None where devpi has to find out. Raises Full."""
        with self._checks.place():
            with self._xom.keyfs.read_transaction():
                hashed = _hash_of(user, self._xom)
            if hashed is None:
                return None
            try:
                with self._checks.turn:
                    valid, new_hash = verify_and_update_password_hash(password, *hashed)
            except (ValueError, TypeError):
                return None  # a hash that devpi can't read either; it says so in its own way
            except MemoryError as error:
                raise Full from error
        # a hash that is too weak by now is left to devpi, which checks once more, and renews it
        return Checked((user, password), hashed, bool(valid)) if new_hash is None else None

    def _in_body(self, request: Request) -> tuple[str, str] | None:
        """User and password of a login; a replica hands that on to its primary."""
        if self._xom.is_replica():
            return None
        try:
            body: Any = request.json_body
            user, password = body["user"], body["password"]
        except (ValueError, KeyError, TypeError):
            return None
        return (user, password) if isinstance(user, str) and isinstance(password, str) else None

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

    def _turn_away(self) -> Response:
        self._turned_away += 1
        if time.monotonic() - self._logged > _LOG_EVERY:
            self._logged = time.monotonic()
            log.warning("password checks: %d requests turned away so far, %d wait", self._turned_away, WAITING)
        return HTTPServiceUnavailable(
            "Too many passwords are being checked. Log in once, and use the token.",
            headers=[("Retry-After", str(RETRY_AFTER))],
        )
