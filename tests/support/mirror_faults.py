"""What an upstream can do wrong, and what a mirror answers then; docs/mirror.md has the same table.

`python -m tests.support.mirror_faults` prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from testbed import upstream_faults as faults
from testbed.upstream import Fault, Upstream

LASTING, PASSING, LATE = (502,), (503,), (502, 503)
"""Statuses of a failure that needs attention, of one that may end by itself, and of one by its size or its time."""
HEADER = ("upstream", "page that is not cached")


@dataclass(frozen=True)
class UpstreamFault:
    """One fault, and a mirror's answer for a page that is not cached; the other answers are the same for all.

    A cached page and a private project: 200. An unknown name: 404 by a fresh list, otherwise as one that is not cached.
    """

    what: str
    begin: Callable[[Upstream], None]
    statuses: tuple[int, ...] = LASTING
    """Allowed, each with Retry-After."""
    retry_after: str | None = None
    """None: the mirror's own."""
    https: bool = False
    """The mirror's URL is https."""

    @property
    def cells(self) -> tuple[str, ...]:
        """Its line of the table."""
        failed = " or ".join(map(str, self.statuses))
        if self.retry_after is not None:
            failed += ", upstream's `Retry-After`"
        return self.what, failed


def _page(fault: Fault) -> Callable[[Upstream], None]:
    """Let all answers for pages and for the list have this fault."""

    def begin(upstream: Upstream) -> None:
        upstream.page_fault = upstream.list_fault = fault

    return begin


def _tls(kind: str) -> Callable[[Upstream], None]:
    return lambda upstream: upstream.listen_tls(kind)


FAULTS = (
    UpstreamFault("refuses connections", Upstream.refuse, PASSING),
    UpstreamFault("accepts connections and never answers", Upstream.swallow, PASSING),
    UpstreamFault("drops connections, as a firewall", Upstream.drop, PASSING),
    UpstreamFault("reads the request and never answers", _page(faults.HANGS), PASSING),
    UpstreamFault("answers after 60 s", _page(Fault(seconds=60)), PASSING),
    UpstreamFault("500", _page(Fault(500)), PASSING),
    UpstreamFault("503", _page(Fault(503)), PASSING),
    UpstreamFault("503 with `Retry-After`", _page(Fault(503, "7")), PASSING, "7"),
    UpstreamFault("429 with `Retry-After`", _page(Fault(429, "9")), PASSING, "9"),
    UpstreamFault("401", _page(Fault(401))),
    UpstreamFault("403", _page(Fault(403))),
    UpstreamFault("certificate of an unknown authority, or self-signed", _tls("untrusted"), https=True),
    UpstreamFault("expired certificate", _tls("expired"), https=True),
    UpstreamFault("certificate of another name", _tls("wrong name"), https=True),
    UpstreamFault("plain HTTP where the URL is https", Upstream.listen, https=True),
    UpstreamFault("TLS where the URL is http", _tls("trusted"), PASSING),
    UpstreamFault("redirects to itself", _page(faults.LOOP)),
    UpstreamFault("redirects to a login page", _page(faults.TO_LOGIN_PAGE)),
    UpstreamFault("a login page with 200", _page(faults.LOGIN_PAGE)),
    UpstreamFault("an image with 200", _page(faults.IMAGE)),
    UpstreamFault("JSON that is cut, of the right length", _page(faults.GARBAGE)),
    UpstreamFault("closes the connection within the body", _page(faults.CUT), PASSING),
    UpstreamFault("a body with a byte each half a second", _page(faults.DRIPS), LATE),
    UpstreamFault("an endless body", _page(faults.ENDLESS), LATE),
    UpstreamFault("a small body that inflates to 1 GiB", _page(faults.BOMB), LATE),
    UpstreamFault("200,000 nested brackets", _page(faults.DEEP)),
)


def table(lines: Iterable[UpstreamFault] = FAULTS) -> str:
    """Return the table as Markdown."""
    cells = [HEADER, tuple("---" for _ in HEADER), *(fault.cells for fault in lines)]
    return "".join(f"| {' | '.join(each)} |\n" for each in cells)


if __name__ == "__main__":
    print(table(), end="")
