"""`/metrics`: its samples and formats; no input becomes a label."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar.core import garbage
from sidecar.core.lifecycle import Phase
from sidecar.devpi.client import STATUS_LIMIT
from sidecar.devpi.server_status import METRICS_LIMIT
from sidecar.devpi.server_status import Metric as Said
from sidecar.features.bootstrap.import_status import ImportFailure, ImportState, ImportStatus
from sidecar.web.metrics.devpi import MOST, own
from sidecar.web.metrics.exposition import EXPOSITION, RECENT, _Text
from tests.support.fake_devpi import eventually, status_of
from tests.web.conftest import ADMIN, Site

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
"""What Prometheus sends."""
HUGE = 10**400
"""No float is as large."""
HOSTILE = ["<script>alert(1)</script>", 'a"b', "line\nbreak", "\N{RIGHT-TO-LEFT OVERRIDE}lru", "x" * 10_000, "{}\\"]


class Back(datetime):
    """A wall clock that is set years back."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Back:
        return cls(2020, 1, 1, tzinfo=tz)


async def scrape(site: Site) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples of the text format: name and labels → value."""
    text = (await site.get("/metrics")).body.decode()
    return {(s.name, frozenset(s.labels.items())): s.value for family in parse_text(text) for s in family.samples}


def sample(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;q=0.1,text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=x;q=y;;,,", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=9'<", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
async def test_both_formats_are_negotiated(site: Site, accept: str, kind: str) -> None:
    """Prometheus gets OpenMetrics, a person with curl text; both parse, and hold the same samples."""
    await site.get("/livez")
    answer = await site.get("/metrics", Accept=accept)
    assert (200, kind) == (answer.status, answer.headers["Content-Type"])
    parse = parse_openmetrics if "openmetrics" in kind else parse_text
    names = {s.name for family in parse(answer.body.decode()) for s in family.samples}
    assert {"devpi_sidecar_ready", "devpi_sidecar_http_requests_total", "process_cpu_seconds_total"} <= names


async def test_the_text_is_what_the_library_writes_by_default(site: Site) -> None:
    """Byte for byte, in both formats: skipping the escape of names changes nothing."""
    await site.become_ready()
    await site.get("/metrics")
    for text, library in zip(site.web.runner.app[EXPOSITION]._texts, (exposition, openmetrics), strict=True):
        registry, escaping = text.generate.args  # type: ignore[attr-defined]
        families = list(registry.collect())
        fixed = SimpleNamespace(collect=lambda families=families: families)
        assert library.generate_latest(fixed) == library.generate_latest(fixed, escaping)


async def test_the_life_and_the_checks(site: Site) -> None:
    """Phase, its durations, readiness with its changes, each check's status and value."""
    before = await scrape(site)
    assert (0, 1) == (before[sample("devpi_sidecar_ready")], before[sample("devpi_sidecar_phase", phase="starting")])
    await site.become_ready()
    after = await scrape(site)
    assert (1, 1) == (after[sample("devpi_sidecar_ready")], after[sample("devpi_sidecar_phase", phase="ready")])
    assert 1 == sum(value for (name, _), value in after.items() if name == "devpi_sidecar_phase")
    assert 0 < after[sample("devpi_sidecar_phase_seconds_total", phase="launching")] < 5
    assert 0 < after[sample("devpi_sidecar_startup_seconds")]
    assert 1 == after[sample("devpi_sidecar_readiness_transitions_total", to="ready")]
    assert 1 == after[sample("devpi_sidecar_check_status", check="http", status="pass")]
    assert 0 == after[sample("devpi_sidecar_check_status", check="http", status="fail")]
    assert 0 < after[sample("devpi_sidecar_check_seconds", check="http")] < 5
    await site.devpi.stop()
    await eventually(lambda: [c for c in site.board.checks() if c.blocks])
    gone = await scrape(site)
    assert (0, 1) == (
        gone[sample("devpi_sidecar_ready")],
        gone[sample("devpi_sidecar_readiness_transitions_total", to="not_ready")],
    )


async def test_a_clock_that_goes_back_moves_no_counter_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock is set back between two scrapes: each counter of the phases, and the start-up, stay or grow."""
    monkeypatch.setattr("sidecar.web.metrics.exposition.RECENT", 0.0)
    await site.become_ready()
    before = await scrape(site)
    monkeypatch.setattr("sidecar.core.lifecycle.now", lambda: datetime(2020, 1, 1, tzinfo=UTC))
    monkeypatch.setattr("sidecar.features.bootstrap.import_report.datetime", Back)
    site.lifecycle.enter(Phase.LAUNCHING)
    site.lifecycle.enter(Phase.READY)
    after = await scrape(site)
    phases = [key for key in before if key[0] == "devpi_sidecar_phase_seconds_total"]
    assert len(phases) == len(Phase)
    assert all(after[key] >= before[key] for key in phases)
    assert after[sample("devpi_sidecar_phase_seconds_total", phase="launching")] > 0
    assert before[sample("devpi_sidecar_startup_seconds")] == pytest.approx(
        after[sample("devpi_sidecar_startup_seconds")], abs=1e-6
    )


async def test_a_scrape_sends_the_text_of_the_background(site: Site) -> None:
    """Two scrapes in a row return the same text; the monitor's ticks replace it, scraped or not."""
    livez = sample("devpi_sidecar_http_requests_total", method="GET", route="/livez", status="200")
    first = await site.get("/metrics")
    await site.get("/livez")
    assert first.body == (await site.get("/metrics")).body
    deadline = time.monotonic() + RECENT
    while livez not in await scrape(site):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_without_a_monitor_a_scrape_renders(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And shows for how long the monitor has not ticked."""
    monkeypatch.setattr("sidecar.web.metrics.exposition.RECENT", 0.0)
    monkeypatch.setattr(site.health, "age", lambda: 77.0)
    assert 77 == (await scrape(site))[sample("devpi_sidecar_monitor_age_seconds")]


async def test_nothing_is_rendered_without_scrapes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither before the first scrape nor long after the last, and only the format that is scraped."""
    monkeypatch.setattr("sidecar.web.metrics.exposition.EVERY", 0.0)
    monkeypatch.setattr("sidecar.web.metrics.exposition.PATIENCE", 1.0)
    await asyncio.sleep(0.5)
    made = site.web.runner.app[EXPOSITION]
    assert () == made._texts
    await site.get("/metrics", Accept=OPENMETRICS)
    rendered: list[_Text] = []
    text, scraped = made._texts
    for each in (text, scraped):
        generate = each.generate
        each.generate = lambda each=each, generate=generate: (rendered.append(each), generate())[1]  # type: ignore[misc]
    await asyncio.sleep(1.5)
    number = len(rendered)
    assert number >= 2
    assert all(each is scraped for each in rendered)
    await asyncio.sleep(0.5)
    assert number == len(rendered)


async def test_a_failure_in_the_background_fails_the_next_scrape(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, however often the monitor ticks, which goes on. After the failure, all works again."""
    ticks: list[float] = []
    site.board.on_tick(lambda: ticks.append(time.monotonic()))
    monkeypatch.setattr("sidecar.web.metrics.exposition.EVERY", 0.0)
    assert (await site.get("/metrics")).status == 200
    with monkeypatch.context() as broken:
        broken.setattr("sidecar.web.metrics.own.states", lambda *_: 1 / 0)
        ticks.clear()
        assert await eventually(lambda: len(ticks) >= 3)
        assert 1 == caplog.text.count("ZeroDivisionError")
        assert (await site.get("/metrics")).status == 500
        assert await eventually(lambda: site.health.age() < 1)
    assert (await site.get("/metrics")).status == 200
    await site.get("/livez")
    text, _ = site.web.runner.app[EXPOSITION]._texts
    assert await eventually(lambda: b'route="/livez"' in text.body)  # in the background again
    assert "error of the monitor" not in caplog.text


async def test_the_import(site: Site) -> None:
    """Its state, counts and failure; no name in it becomes a label."""
    failure = ImportFailure(HOSTILE[0], "hint", archive=HOSTILE[1], member=HOSTILE[2])
    site.lifecycle.enter(Phase.IMPORTING)
    site.tell(
        imported=ImportStatus(ImportState.FAILED, current=HOSTILE[3], ignored=tuple(HOSTILE), rate=12.5, error=failure)
    )
    found = await scrape(site)
    assert 1 == found[sample("devpi_sidecar_import_state", state="failed")]
    assert 1 == found[sample("devpi_sidecar_import_failed")]
    assert 12.5 == found[sample("devpi_sidecar_import_files_per_second")]
    assert_clean(found)


async def test_requests_are_counted_by_route_and_not_by_path(site: Site) -> None:
    """A thousand paths, methods and names make as many series as one."""
    await site.get("/readyz/disk")
    for number in range(50):
        await site.get(f"/readyz/no-such-{number}")
        await site.get(f"/%3Cscript%3E{number}")
        await site.ask("PROPFIND", f"/livez?{number}")
    found = await scrape(site)
    total = "devpi_sidecar_http_requests_total"
    assert {
        sample(total, method="GET", route="/readyz/{check}", status="200"): 1,
        sample(total, method="GET", route="/readyz/{check}", status="404"): 50,
        sample(total, method="GET", route="unknown", status="404"): 50,
        sample(total, method="other", route="unknown", status="405"): 50,
    } == {key: value for key, value in found.items() if key[0] == total}
    assert 51 == found[sample("devpi_sidecar_http_request_duration_seconds_count", route="/readyz/{check}")]
    assert_clean(found)


async def test_rejected_admin_requests_are_counted(site: Site) -> None:
    """By reason; accepted requests are not counted."""
    for token in ("wrong", "wrong-too"):
        await site.ask("GET", "/bootstrap", headers={"Authorization": f"Bearer {token}"})
    for _ in range(3):
        await site.ask("GET", "/bootstrap")
    await site.ask("POST", "/bootstrap/rotate", headers=ADMIN | {"Origin": "https://elsewhere.example"})
    await site.ask("GET", "/bootstrap", headers=ADMIN)
    failures = "devpi_sidecar_admin_auth_failures_total"
    found = {key: value for key, value in (await scrape(site)).items() if key[0] == failures}
    assert {
        sample(failures, reason="wrong_token"): 2,
        sample(failures, reason="too_many"): 0,
        sample(failures, reason="no_token"): 3,
        sample(failures, reason="no_certificate"): 0,
        sample(failures, reason="other_origin"): 1,
    } == found


@pytest.mark.parametrize(
    "said",
    [
        {"metrics": [[name, "counter", 1] for name in HOSTILE] + [["x", "gauge", None], 7, [[], {}, "1"]]},
        {"polling_replicas": {name: {"serial": 1} for name in HOSTILE} | {"a" * 32: HOSTILE, "b" * 32: {"serial": 3}}},
        {"serial": HOSTILE[0], "event_serial": None, "last_commit_timestamp": 10**400, "polling_replicas": 5},
        {"versioninfo": HOSTILE, "role": HOSTILE[2], "metrics": {}},
        {"serial": HUGE, "event_serial": 7},
        {"serial": 7, "event_serial": -HUGE},
        {"role": "REPLICA", "primary_serial": HUGE, "serial": 7},
        {"role": "REPLICA", "primary_serial": 2**63 - 1, "serial": -(2**63)},
        {"polling_replicas": {"a" * 32: {"serial": HUGE, "last-request": HUGE}, "b" * 32: {"serial": -HUGE}}},
        {"metrics": [["devpi_web_whoosh_index_queue_size", "gauge", value] for value in (HUGE, 1e308)]},
    ],
)
async def test_a_hostile_status_degrades_the_view_alone(site: Site, said: dict[str, Any]) -> None:
    """Whatever `+status` contains: the exposition parses and has none of it in a label; the page, its events and the
    JSON routes still answer.
    """
    site.devpi.status = status_of(**said)
    for name, value in said.items():  # status_of writes `-` for `_`, and this one has a `_`
        site.devpi.status[name if name == "polling_replicas" else name.replace("_", "-")] = value
    await site.become_ready()
    await eventually(site.health.server_status)
    answer = await site.get("/metrics", Accept=OPENMETRICS)
    assert list(parse_openmetrics(answer.body.decode()))
    found = await scrape(site)
    assert 1 == found[sample("devpi_sidecar_ready")]
    assert_clean(found)
    for path, accept in (("/", "text/html"), ("/status", "*/*"), ("/health", "*/*")):
        assert 200 == (await site.get(path, Accept=accept)).status
    async with site.session.get(f"http://127.0.0.1:{site.web.port}/events") as stream:
        assert await asyncio.wait_for(stream.content.readuntil(b'["versions",'), 5)


async def test_a_repeated_name_costs_nothing(site: Site) -> None:
    """As many entries as fit into `+status`: few of them are kept, so that no scrape reads them all."""
    entry = ["devpi_x", "gauge", 1]
    site.devpi.status = status_of(metrics=[entry] * (STATUS_LIMIT // len(json.dumps(entry) + ", ") - 100))
    await site.become_ready()
    said = await eventually(site.health.server_status)
    assert 1 == (await scrape(site))[sample("devpi_x")]
    assert METRICS_LIMIT == len(said.metrics)


@pytest.fixture
def without_old_garbage() -> Iterator[None]:
    """As in a sidecar: the garbage of earlier tests isn't scanned again with every few lists."""
    before = gc.get_threshold()
    garbage.spare()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("without_old_garbage")
@pytest.mark.parametrize("unit", ["[],", "[[]],", "{},", '{"":0},', '["",""],', "1e5,", '["x","gauge",1],'])
@pytest.mark.parametrize("key", ["anything", "metrics", "polling_replicas"])
async def test_the_largest_status_keeps_no_probe_waiting(site: Site, unit: str, key: str) -> None:
    """With any `+status` up to the maximum size, `/livez` answers while it is parsed; measured in CPU time, because the
    machine may be busy.
    """
    head, end = f'{{"result": {{"serial": 7, "{key}": [', "0]}}"
    if key == "polling_replicas":
        head, end = head[:-1] + "{", '"":0}}}'
        unit = f'"%05x":{unit}'
    room = STATUS_LIMIT - len(head) - len(end)
    entries = "".join(unit % n if "%" in unit else unit for n in range(room // len(unit.replace("%05x", "12345"))))
    site.devpi.status_body = f"{head}{entries}{end}".encode()
    assert STATUS_LIMIT - 50 < len(site.devpi.status_body) <= STATUS_LIMIT
    await site.become_ready()
    slowest = 0.0
    looks = site.devpi.calls.get("/+status", 0)
    deadline = time.monotonic() + 60
    while site.devpi.calls.get("/+status", 0) < looks + 3:
        assert time.monotonic() < deadline
        site.health.probe_now()
        began = time.process_time()
        async with site.session.get(f"http://127.0.0.1:{site.web.port}/livez") as answer:
            assert answer.status == 200
        slowest = max(slowest, time.process_time() - began)
    assert slowest <= 0.25
    assert await eventually(site.health.server_status)
    assert 7 == site.health.server_status().serial  # type: ignore[union-attr]


async def test_too_large_a_status_degrades_the_view_alone(site: Site) -> None:
    """The check `events` warns with the reason; the probes don't change."""
    site.devpi.status_body = b'{"result": {"serial": 7, "x": "' + b"x" * STATUS_LIMIT + b'"}}'
    await site.become_ready()
    reason = f"devpi-server does not report its status: the answer has more than {STATUS_LIMIT} bytes"
    await eventually(lambda: reason in [check.reason for check in site.board.checks()])
    events = await site.get("/readyz/events", Accept="application/json")
    assert (200, "warn") == (events.status, events.json["status"])
    assert 200 == (await site.get("/readyz")).status
    assert site.health.server_status() is None


async def test_replicas_are_told_apart(site: Site) -> None:
    """Each with its lag and last poll; one without a valid name or serial is left out."""
    good, bad = "b" * 32, {"a" * 32: HOSTILE, HOSTILE[0]: {"serial": 3}, "c" * 32: {"serial": HOSTILE[1]}}
    site.devpi.status = status_of() | {"polling_replicas": bad | {good: {"serial": 3, "last-request": 17.5}}}
    await site.become_ready()
    await eventually(site.health.server_status)
    found = await scrape(site)
    lags = {labels: value for (name, labels), value in found.items() if name == "devpi_server_replica_lag_serials"}
    assert {frozenset({("replica", good)}): 4} == lags
    assert 17.5 == found[sample("devpi_server_replica_asked_timestamp_seconds", replica=good)]
    assert 4 == found[sample("devpi_server_replicas")]


def assert_clean(found: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> None:
    """Every label's value is one of the sidecar's own."""
    words = {value for (name, labels) in found for key, value in labels if key not in {"version", "python", "le"}}
    assert set() == {word for word in words if not re.fullmatch(r"[/a-zA-Z0-9_.{}-]{1,40}", word)}


def test_devpis_own_metrics_keep_sound_names() -> None:
    """A counter ends in `_total`; a plugin's metric is marked; none replaces one of the sidecar's, or appears twice."""
    said = [
        ("devpi_server_cache_hits", "counter"),
        ("devpi_server_cache_hits_total", "counter"),
        ("devpi_server_cache_size", "gauge"),
        ("process_cpu_seconds_total", "counter"),
        ("up", "gauge"),
        ("a b\n", "whatever"),
        ("devpi_sidecar_ready", "gauge"),
        ("devpi_server_serial", "gauge"),
        ("devpi_server_http_requests_total", "counter"),
    ]
    made = list(own(tuple(Said(name, kind, 1) for name, kind in said), {"devpi_server_serial"}))
    assert [
        ("devpi_server_cache_hits", "counter"),
        ("devpi_server_cache_size", "gauge"),
        ("devpi_plugin_process_cpu_seconds", "counter"),
        ("devpi_plugin_up", "gauge"),
        ("devpi_plugin_a_b_", "gauge"),
    ] == [(metric.name, metric.type) for metric in made]


def test_devpis_own_metrics_are_bounded() -> None:
    """A plugin that invents names can't fill a Prometheus."""
    made: list[Metric] = list(own(tuple(Said(f"devpi_x_{n}", "gauge", n) for n in range(10_000)), {"devpi_server"}))
    assert MOST == len(made)


async def test_the_volume(site: Site, tmp_path: Path) -> None:
    """Free bytes and size of the volume, as of the monitor's last look."""
    await site.become_ready()
    found = await scrape(site)
    assert 0 < found[sample("devpi_serverdir_free_bytes")] <= found[sample("devpi_serverdir_volume_bytes")]
