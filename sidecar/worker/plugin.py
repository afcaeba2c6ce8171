"""What the sidecar adds to devpi-server: a plugin for its hooks, and a substitute for `waitress.serve`."""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from devpi_server.config import hookimpl
from devpi_server.log import threadlog
from devpi_server.main import Fatal
from devpi_server.model import UpstreamError
from pyramid.interfaces import ISecurityPolicy, ITweens
from pyramid.tweens import EXCVIEW

from sidecar.core import garbage
from sidecar.core.errors import ExitCode
from sidecar.devpi.protocol import (
    CheckRootPassword,
    Drain,
    Drained,
    Listening,
    Noticed,
    RootPasswordChecked,
    RootPasswordSet,
    Serve,
    SetRootPassword,
)
from sidecar.worker import repeats, root_mirror, wellformed
from sidecar.worker.access_log import AccessLogFilter, WsgiApp
from sidecar.worker.channel import SidecarGone
from sidecar.worker.contents import ContentsWatch
from sidecar.worker.flags import CHEAP_DERIVATION
from sidecar.worker.mirrors import MirrorsWatch
from sidecar.worker.passwords import RootPassword
from sidecar.worker.patches import auth, failures, recovery, waits
from sidecar.worker.patches.drain import Drainer
from sidecar.worker.patches.waitress import ConnectionLimit
from sidecar.worker.shared_checks import Threads
from sidecar.worker.traffic import Traffic
from sidecar.worker.upstreams import Reporter
from sidecar.worker.user_passwords import EVERY, UsersWatch
from sidecar.worker.verification import CannotTell

if TYPE_CHECKING:
    from devpi_server.main import XOM
    from pyramid.config import Configurator
    from pyramid.request import Request

    from sidecar.core.lifecycle import Notice
    from sidecar.worker.channel import Channel
    from sidecar.worker.upstreams import Upstreams

REQUEST_LOG = "devpi_server.views.tween_request_logging"
TRANSACTION = "devpi_server.views.tween_keyfs_transaction"
ADMISSION = "sidecar.worker.patches.auth.tween_factory"
LOGIN = "sidecar.worker.patches.auth.login_tween_factory"
_WHERE = frozenset({"host", "port", "listen", "unix_socket", "unix_socket_perms"})
"""waitress's arguments for sockets, which the sidecar has bound already."""
_YOUNG = 10_000
"""New objects after which Python collects garbage. Requests in flight use thousands of objects: Python's default of 700
finds little, and takes 2 % of devpi-server's time.
"""


class SidecarPlugin:
    """A devpi plugin, and the substitute for `waitress.serve` that controls the server."""

    def __init__(self, request: Serve, channel: Channel, upstreams: Upstreams, *, own_derivation: bool) -> None:
        self._request = request
        self._own_derivation = own_derivation
        self._channel = channel
        self._upstreams = upstreams
        self._xom: XOM
        self._registry: Any = None
        self._threads = Threads()
        self._about_root: queue.SimpleQueue[SetRootPassword | CheckRootPassword] = queue.SimpleQueue()
        self._root: RootPassword
        self._users: UsersWatch
        self._mirrors: MirrorsWatch
        self._reporter = Reporter(upstreams, channel.send)
        self._contents: ContentsWatch
        self.start_error: OSError | None = None
        """Why waitress could not start."""

    @hookimpl
    def devpiserver_pyramid_configure(self, pyramid_config: Configurator) -> None:
        """Add our tweens (devpi's hook), and keep the registry: its security policy has a copy of the login key."""
        self._registry = pyramid_config.registry
        self._registry[auth.THREADS] = self._threads
        pyramid_config.add_tween(ADMISSION, under=REQUEST_LOG, over=TRANSACTION)
        pyramid_config.set_request_factory(wellformed.FormChecked)
        pyramid_config.add_exception_view(failures.answer_failure, context=UpstreamError)
        pyramid_config.add_tween(LOGIN, under=TRANSACTION, over=EXCVIEW)

    @hookimpl(tryfirst=True)
    def devpiserver_get_identity(self, request: Request, credentials: tuple[str, str] | None) -> None:
        """Prepare the check of the credentials (devpi's hook, which runs before the plugins that check them)."""
        auth.before_identity(request, credentials)

    @hookimpl
    def devpiserver_identity_loaded(self, request: Request) -> None:
        """Forget the credentials once they are checked (devpi's hook)."""
        auth.forget(request)

    @hookimpl
    def devpiserver_cmdline_run(self, xom: XOM) -> None:
        """Keep the open state (devpi's hook)."""
        self._xom = xom
        self._root = RootPassword(xom, self._request.known_root_hash)

    def serve(self, app: WsgiApp, **kwargs: object) -> None:
        """Check root, listen, report to the sidecar, and serve (devpi calls this instead of `waitress.serve`)."""
        from waitress.server import create_server

        self._check_tweens()
        repeats.log_once()
        if self._request.after_kill and not self._xom.is_replica():  # a replica's threads already write files
            recovery.clear_uploads(self._xom)
        if self._request.new_root_password is not None:
            self._root.change(self._request.new_root_password)
        if not self._xom.is_replica():
            root_mirror.set_upstream(self._xom, self._request.mirror, self.notice)
        root, root_hash = self._root.state()
        self._users = UsersWatch(self._xom, lambda: self._root.state()[0], root, self._channel.send)
        self._mirrors = MirrorsWatch(self._xom, self._upstreams.retain, self._channel.send)
        self._contents = ContentsWatch(self._xom, self._channel.send)
        traffic = Traffic(wellformed.Wellformed(app))
        arguments = {name: value for name, value in kwargs.items() if name not in _WHERE}
        arguments["sockets"] = self._channel.take_listeners()
        try:
            server = create_server(AccessLogFilter(traffic, self._request.probe_secret), **arguments)
        except OSError as error:  # no descriptor is left
            self.start_error = error
            end_cleanly()
            return
        self._threads.are_of(server.task_dispatcher)
        waits.leave_threads_free(self._xom.config.args.threads)
        drainer = Drainer(server)
        ConnectionLimit(drainer.listeners, drainer.begun)
        config = self._xom.config
        cost = config._secret_parameters
        self._channel.send(
            Listening(
                addresses=list(drainer.addresses),
                role=config.role,
                uuid=config.nodeinfo["uuid"],
                root_password=root,
                root_hash=root_hash,
                derived_key=hashlib.sha256(config.get_auth_secret()).hexdigest(),
                argon2=f"m={cost.memory_cost},t={cost.time_cost},p={cost.parallelism}",
            )
        )
        threading.Thread(target=self._obey, args=(drainer, traffic), name="sidecar", daemon=True).start()
        threading.Thread(target=self._report, args=(traffic,), name="traffic", daemon=True).start()
        garbage.spare(_YOUNG, middle=2)
        server.run()

    def notice(self, notice: Notice) -> None:
        """Send the sidecar a notice for the operator."""
        with suppress(SidecarGone):
            self._channel.send(Noticed(notice.about, notice.reason, notice.hint))

    def _check_tweens(self) -> None:
        """Raise Fatal if admission is not outside the transaction, or if views' errors would not roll it back."""
        order = [name for name, _ in self._registry.getUtility(ITweens).implicit()]
        wanted = [REQUEST_LOG, ADMISSION, TRANSACTION, LOGIN, EXCVIEW]
        if [name for name in order if name in wanted] != wanted:
            raise Fatal(f"this devpi-server's tweens are in an unknown order: {', '.join(order)}")

    def _obey(self, drainer: Drainer, traffic: Traffic) -> None:
        """Obey the sidecar while devpi-server serves; runs in a thread of its own."""
        threading.Thread(target=self._look_after_root, name="root's password", daemon=True).start()
        try:
            while True:
                match self._channel.receive():
                    case (SetRootPassword() | CheckRootPassword()) as request:
                        self._about_root.put(request)
                    case Drain(grace, keep_listening):
                        self._upstreams.stop_refreshes()
                        cut = drainer.drain(grace, keep_listening=keep_listening)
                        self._channel.send(traffic.totals())  # the next report would come too late
                        self._channel.send(Drained(cut))
                        end_cleanly()
                        return
                    case message:
                        raise AssertionError(f"unexpected {type(message).__name__}")
        except SidecarGone:
            os._exit(ExitCode.INTERNAL)

    def _look_after_root(self) -> None:
        """Change and check root's password, and check users, mirrors and contents once a second; runs in a thread.

        It is not the thread of `_obey`, because a change may have to wait for devpi, and a stop must not.
        """
        with suppress(SidecarGone):
            due = time.monotonic()
            while True:
                try:
                    request = self._about_root.get(timeout=max(0.0, due - time.monotonic()))
                except queue.Empty:
                    self._users.look()
                    self._mirrors.look()
                    self._reporter.look()
                    self._contents.look()
                    due = time.monotonic() + EVERY
                    continue
                if isinstance(request, SetRootPassword):
                    self._channel.send(self._change_root_password(request))
                else:
                    self._channel.send(self._check_root_password(request))

    def _report(self, traffic: Traffic) -> None:
        """Report the number of requests to the sidecar; runs in a thread of its own."""
        with suppress(SidecarGone):
            traffic.report(self._channel.send)

    def _change_root_password(self, request: SetRootPassword) -> RootPasswordSet:
        try:
            root_hash = self._root.change(request.password)
        except CannotTell as error:  # before the commit
            return RootPasswordSet(request.number, f"argon2 can't run ({error})", retryable=True)
        except Exception as error:
            # a failed transaction is rolled back, but this error may have come after the commit
            reason = f"devpi-server failed with {type(error).__name__}"
            return RootPasswordSet(request.number, reason, maybe_done=True)
        self._users.root_was_changed()
        self._users.look_at_root()  # so that the sidecar gets the new state before the answer
        if request.secretfile_changed:
            try:
                self._renew_login_secret()
            except Exception as error:
                reason = f"the login secret was not renewed: {type(error).__name__}"
                return RootPasswordSet(request.number, reason, maybe_done=True)
        return RootPasswordSet(request.number, root_hash=root_hash)

    def _check_root_password(self, request: CheckRootPassword) -> RootPasswordChecked:
        try:
            return RootPasswordChecked(request.number, self._root.is_this(request.password))
        except CannotTell as error:
            threadlog.error("root's password can't be checked: argon2 can't run (%s)", error)
        except Exception:  # any error of devpi's database
            threadlog.exception("root's password can't be read")
        return RootPasswordChecked(request.number, None)

    def _renew_login_secret(self) -> None:
        """Read the secret file again and sign with it from now on, which ends all logins."""
        import itsdangerous

        config = self._xom.config
        config.args.secretfile = self._request.secretfile
        if not self._own_derivation:
            for flag, value in zip(CHEAP_DERIVATION[::2], CHEAP_DERIVATION[1::2], strict=True):
                setattr(config.args, flag.lstrip("-").replace("-", "_"), int(value))
        for name in ("secret_path", "basesecret"):  # devpi caches both for the life of the process
            with suppress(AttributeError):
                delattr(config, name)
        config._key_cache.clear()
        policy = self._registry.getUtility(ISecurityPolicy)
        policy.auth.serializer = itsdangerous.TimedSerializer(config.get_auth_secret())


def end_cleanly() -> None:
    """Make devpi-server's main thread shut down its thread pool, as Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)
