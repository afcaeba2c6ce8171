"""The progress of an import: counted where it happens, and reported to the sidecar at intervals."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar.devpi.protocol import ImportState, Progress

if TYPE_CHECKING:
    from sidecar.exports import merge, sources
    from sidecar.worker.channel import Channel

T = TypeVar("T")

_REPORT_EVERY = 0.05
"""Minimum seconds between two reports of progress."""
_AT_ONCE = 50
"""Archives in one report. A name has up to 255 bytes, each of them up to 6 in JSON, and a packet holds 128 KiB."""
_IGNORED = 100
"""Names of ignored files that are reported."""
_CURRENT = 300
"""Characters of the current project that are reported: an export does not limit its name."""


class Reporter:
    """Counts what is done, and reports it to the sidecar at intervals. Also the `sources.Watcher` of unpacking."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._state = ImportState.EXTRACTING
        self._counts: dict[str, list[int]] = {
            name: [0, 0] for name in ("users", "indexes", "projects", "files", "bytes", "extracted")
        }
        self._current: str | None = None
        self._read_before = 0
        self._last = 0.0

    def begin(self, found: sources.Found) -> None:
        """Report the archives that are about to be unpacked."""
        self._counts["extracted"][1] = sum(each.bytes for each in found.sources if not each.is_directory)
        for some in _pieces(found.sources):
            self._send(archives=[{"name": each.name, "bytes": each.bytes, "sha256": None} for each in some])
        for names in _pieces(found.passed_over[:_IGNORED]):
            self._send(ignored=list(names))

    def unpacking(self, source: str, compressed_bytes: int, members: int, unpacked_bytes: int) -> None:
        """Count what was read of an archive."""
        self._counts["extracted"][0] = self._read_before + compressed_bytes
        self._current = source
        self._now_and_then()

    def unpacked(self, tree: sources.Unpacked) -> None:
        """Count an unpacked archive, and report its digest."""
        if not tree.source.is_directory:
            self._read_before += tree.source.bytes
            self._counts["extracted"][0] = self._read_before
        self._send(digests={tree.source.name: tree.sha256})

    def state(self, state: ImportState) -> None:
        """Report the next state of the import."""
        self._state, self._current = state, None
        self._send()

    def totals(self, totals: merge.Totals, omissions: sources.Omissions) -> None:
        """Report how much there is to load, and what is left out."""
        for name in ("users", "indexes", "projects", "files", "bytes"):
            self._counts[name][1] = getattr(totals, name)
        first = [{"archive": each.archive, "member": each.member, "reason": each.reason} for each in omissions.first]
        self._send(left_out={"total": omissions.total, "first": first} if first else None)

    def now_at(self, what: str) -> None:
        """Set the project that is being loaded."""
        self._current = what[:_CURRENT]

    def users_done(self) -> None:
        """Count all users: devpi creates them in one transaction before the first index."""
        self._counts["users"][0] = self._counts["users"][1]
        self._now_and_then()

    def index_done(self) -> None:
        """Count an index: all its projects are committed."""
        self._counts["indexes"][0] += 1
        self._now_and_then()

    def project_done(self, names: int) -> None:
        """Count a committed project, whose name may have had several spellings."""
        self._counts["projects"][0] += names
        self._now_and_then()

    def file_done(self, size: int) -> None:
        """Count a file that is verified and stored."""
        self._counts["files"][0] += 1
        self._counts["bytes"][0] += size
        self._now_and_then()

    def loaded(self) -> None:
        """Report that everything is loaded."""
        self._current = None
        self.users_done()
        self._send()

    def _now_and_then(self) -> None:
        if time.monotonic() - self._last >= _REPORT_EVERY:
            self._send()

    def _send(
        self,
        *,
        archives: list[dict[str, Any]] | None = None,
        ignored: list[str] | None = None,
        left_out: dict[str, Any] | None = None,
        digests: dict[str, str] | None = None,
    ) -> None:
        self._last = time.monotonic()
        counts = {name: list(pair) for name, pair in self._counts.items()}
        self._channel.send(Progress(self._state.value, archives, ignored, left_out, digests, counts, self._current))


def _pieces(names: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split the names so that each piece fits into one packet."""
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]
