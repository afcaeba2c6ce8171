"""`sidecar.worker.progress`: whatever is imported, the sidecar gets the reports."""

from __future__ import annotations

from pathlib import Path

from sidecar.devpi.protocol import PACKET_BYTES, Message, Progress, encode
from sidecar.exports.merge import Totals
from sidecar.exports.sources import MOST_SOURCES, Found, Omissions, Source, Unpacked
from sidecar.worker.channel import Channel
from sidecar.worker.progress import Reporter


class Heard(Channel):
    """A channel that keeps what is sent, and refuses packets that are too large for the real one."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []

    def send(self, message: Message) -> None:
        assert isinstance(message, Progress)
        assert len(encode(message)) <= PACKET_BYTES
        self.reports.append(message)


def worst(number: int) -> str:
    """Return a file name of 255 bytes, none of them UTF-8: six characters for each in JSON."""
    return f"{number:04}" + "\udcff" * 251


def test_many_archives_fit_into_packets() -> None:
    """The maximum of archives, with the longest names: all are reported once, then only each digest."""
    sources = tuple(Source(worst(number), Path("/x"), False, 10**12, 0) for number in range(MOST_SOURCES))
    heard = Heard()
    reporter = Reporter(heard)
    reporter.begin(Found(sources, tuple(map(worst, range(5000)))))
    told = [each["name"] for report in heard.reports for each in report.archives or []]
    assert [source.name for source in sources] == told
    assert [worst(number) for number in range(100)] == [n for each in heard.reports for n in each.ignored or []]
    reporter.unpacked(Unpacked(sources[7], Path("/x"), "5ha", 1, 1))
    last = heard.reports[-1]
    assert (None, {worst(7): "5ha"}) == (last.archives, last.digests)
    assert {"extracted": [10**12, MOST_SOURCES * 10**12]}.items() <= (last.counts or {}).items()


def test_a_project_of_any_length_fits_into_a_packet() -> None:
    """Its name comes from the export, and may be anything."""
    heard = Heard()
    reporter = Reporter(heard)
    reporter.now_at("alice/dev/" + "☃" * PACKET_BYTES)
    reporter.totals(Totals(1, 1, 1, 1, 1), Omissions(strict=False))
    (report,) = heard.reports
    assert ("alice/dev/" + "☃" * 290) == report.current


def test_what_is_left_out_fits_into_a_packet() -> None:
    """Whatever its number and names: all of it is counted, some of it is named."""
    heard, omissions = Heard(), Omissions(strict=False)
    for _ in range(1000):
        omissions.add("\U0001f40d" * 5000, "a hint", worst(1), "\U0001f40d" * 5000)
    Reporter(heard).totals(Totals(1, 1, 1, 1, 1), omissions)
    (report,) = heard.reports
    assert report.left_out is not None
    assert (1000, Omissions.MOST_NAMED) == (report.left_out["total"], len(report.left_out["first"]))
