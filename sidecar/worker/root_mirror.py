"""Sets the upstream of `root/pypi` to DEVPI_MIRROR_URL, before devpi-server accepts requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from devpi_server.log import threadlog
from devpi_server.model import InvalidIndexconfig

from sidecar.core.lifecycle import Notice

if TYPE_CHECKING:
    from devpi_server.main import XOM

NAME = "root/pypi"


def set_upstream(xom: XOM, settings: dict[str, Any], notice: Callable[[Notice], None]) -> None:
    """Set the `mirror_url` of `root/pypi` to that of `Serve.mirror`, if another one is stored.

    All other options of the index and its cached pages and files stay. The URL has no credentials, so those of the
    stored one are removed. `notice` gets the reason if that is impossible. Must not be called on a replica. Raises
    errors of devpi's database.
    """
    url = settings.get("url")
    if url is None:
        return
    with xom.keyfs.read_transaction():
        stored = _stored(xom)
    if stored is None:
        hint = f"as root, run `devpi index -c {NAME} type=mirror mirror_url={url}`, or unset the variable"
        notice(Notice("variable", f"DEVPI_MIRROR_URL has no effect: there is no mirror {NAME}", hint))
    elif not is_same(stored, url):
        try:
            _change(xom, url)
        except (InvalidIndexconfig, ValueError) as error:
            reason = f"DEVPI_MIRROR_URL has no effect: devpi-server refuses to change {NAME}: {error}"
            notice(Notice("variable", reason, f"as root, run `devpi index {NAME} mirror_url={url}`"))
        else:
            threadlog.info("the upstream of %s was %s and is now %s (DEVPI_MIRROR_URL)", NAME, _shown(stored), url)


def is_same(stored: str, url: str) -> bool:
    """Whether a stored `mirror_url` needs no change: it differs at most in slashes at its end, which devpi adds."""
    return stored.rstrip("/") == url.rstrip("/")


def _stored(xom: XOM) -> str | None:
    """Return the `mirror_url` of root/pypi; None if there is no such mirror. Needs a transaction."""
    stage = xom.model.getstage(NAME)
    if stage is None or stage.ixconfig["type"] != "mirror":
        return None
    return str(stage.ixconfig.get("mirror_url", ""))


def _change(xom: XOM, url: str) -> None:
    """Change it in one transaction, as a request to devpi-server does."""
    with xom.keyfs.write_transaction():
        stage = xom.model.getstage(NAME)
        if stage is not None:
            # with all options: devpi-server resets those of plugins that are not passed
            stage.modify(**{**stage.get(), "mirror_url": url}, _keep_unknown=True)


def _shown(url: str) -> str:
    """Return a URL without the credentials and the query that it may have, whatever its syntax."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2].partition('?')[0]}" if mark else "unset"
