"""`/metrics` of a real run: it counts what devpi-server did, and never waits for devpi-server."""

from __future__ import annotations

import base64
import http.client
import os
import resource
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import exported
from tests.support.container import (
    Answer,
    Container,
    call_devpi,
    login_token,
    make_index,
    request,
    upload,
    upload_form,
    wait_for,
)
from tests.support.plugins import plugin_with_metrics

Make = Callable[..., Container]


def scrape(container: Container) -> dict[str, float]:
    """Return all samples: name with labels, as in the text and in alphabetical order → value."""
    samples = {}
    for family in text_string_to_metric_families(container.get("/metrics").body.decode()):
        for each in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(each.labels.items()))
            samples[f"{each.name}{{{labels}}}" if labels else each.name] = each.value
    return samples


def answered(samples: dict[str, float]) -> dict[str, float]:
    """Return devpi-server's requests, by class and status."""
    start = "devpi_server_http_requests_total{"
    return {name.removeprefix(start).rstrip("}"): n for name, n in samples.items() if name.startswith(start)}


def counted(container: Container, what: str, least: float) -> dict[str, float]:
    """Return all samples, once `what` is at least `least`."""

    def look() -> dict[str, float] | None:
        samples = scrape(container)
        return samples if samples.get(what, 0) >= least else None

    found: dict[str, float] = wait_for(look, f"{what} to be {least}")
    return found


def test_what_devpi_answers_is_counted(container: Make) -> None:
    """By class and status, with all bytes of a file, and without the monitor's own requests."""
    box = container(env={"SIDECAR_MONITOR_INTERVAL": "50ms", "DEVPI_PASSWORD": "given"}).start().wait_ready()
    wait_for(lambda: scrape(box).get("devpi_server_status_timestamp_seconds"), "a probe of +status")
    assert {} == answered(scrape(box))  # although it was probed many times
    token = login_token(box.devpi, "given")
    index = make_index(box.devpi, token)
    url = upload(index, token, "hello", os.urandom(300_000))
    for _ in range(3):
        assert 300_000 == len(request(url).body)
    assert 200 == request(f"{index}/+simple/hello/").status
    assert 404 == request(f"{box.devpi}/nobody/here/+simple/").status
    assert 404 == request(f"{box.devpi}/%3Cscript%3E/%0a%E2%80%AE").status
    samples = counted(box, 'devpi_server_http_requests_total{route="other",status="404"}', 1)
    assert {
        'route="api",status="200"': 3,  # login, the index, where the upload went
        'route="file",status="200"': 3,
        'route="simple",status="200"': 1,
        'route="simple",status="404"': 1,
        'route="upload",status="200"': 1,
        'route="other",status="404"': 1,
    } == answered(samples)
    assert 900_000 == samples['devpi_server_http_response_bytes_total{route="file"}']
    assert 3 == samples['devpi_server_http_request_duration_seconds_count{route="file"}']
    assert 0 == samples['devpi_server_http_requests_in_flight{route="file"}']
    received = 'devpi_server_http_request_bytes_total{route="upload"}'
    assert 300_000 < samples[received] < 302_000
    assert 0 == samples['devpi_server_http_request_bytes_total{route="file"}']
    body, kind = upload_form("chunked", os.urandom(200_000))
    connection = http.client.HTTPConnection(box.devpi.removeprefix("http://"), timeout=20)
    headers = {"Content-Type": kind, "X-Devpi-Auth": base64.b64encode(f"root:{token}".encode()).decode()}
    path = f"{index.removeprefix(box.devpi)}/"
    connection.request("POST", path, iter([body[:1000], body[1000:]]), headers, encode_chunked=True)
    assert 200 == connection.getresponse().status
    connection.close()
    after = counted(box, 'devpi_server_http_requests_total{route="upload",status="200"}', 2)
    assert len(body) == after[received] - samples[received]
    assert 300_000 < counted(box, "devpi_serverdir_used_bytes", 1)["devpi_serverdir_free_bytes"]


def test_a_scrape_does_not_wait_for_devpi(container: Make) -> None:
    """While devpi-server is stopped by SIGSTOP, a scrape still has both processes."""
    box = container().start().wait_ready()
    scrape(box)  # the first scrape imports the library
    devpi = box.devpi_pid
    os.kill(devpi, signal.SIGSTOP)
    try:
        began = time.monotonic()
        samples = scrape(box)
        took = time.monotonic() - began
    finally:
        os.kill(devpi, signal.SIGCONT)
    assert took < 10, "a wait for devpi-server would last until the request's timeout"
    for process in ("process", "devpi_server_process"):
        assert samples[f"{process}_resident_memory_bytes"] > 10 * 2**20
        assert samples[f"{process}_cpu_seconds_total"] > 0
        assert samples[f"{process}_open_fds"] > 3, "also for another user than root, who may not open /proc/PID/fd"
        assert samples[f"{process}_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert abs(samples["process_start_time_seconds"] - time.time()) < 60


def test_requests_in_flight_are_seen_while_they_run(container: Make) -> None:
    """A client that reads slowly: in flight until the last byte, then counted with its whole duration."""
    box = container(env={"DEVPI_PASSWORD": "given"}).start().wait_ready()
    token = login_token(box.devpi, "given")
    size = 40_000_000  # more than all the buffers between
    url = upload(make_index(box.devpi, token), token, "large", b"\0" * size)
    in_flight = 'devpi_server_http_requests_in_flight{route="file"}'
    with urllib.request.urlopen(url) as answer:
        counted(box, in_flight, 1)
        assert size == len(answer.read())
    samples = counted(box, 'devpi_server_http_requests_total{route="file",status="200"}', 1)
    assert (0, size) == (samples[in_flight], samples['devpi_server_http_response_bytes_total{route="file"}'])


@pytest.mark.slow
def test_an_import_is_told_while_it_runs(container: Make, tmp_path: Path) -> None:
    """Counters that grow, and the totals at the end; the start-up has its duration."""
    box = container(env={"DEVPI_PASSWORD": "given"})
    exported.write(box.init_dir / "export", projects=3_000)
    box.start().wait_listening()
    done, total = (f'devpi_sidecar_import_objects{which}{{kind="files"}}' for which in ("_done", ""))
    samples = counted(box, done, 1)
    assert 3_000 == samples[total]
    assert 1 == samples['devpi_sidecar_phase{phase="importing"}']
    assert 0 == samples["devpi_sidecar_ready"]
    samples = counted(box, "devpi_sidecar_ready", 1)
    assert (3_000, 1) == (samples[done], samples['devpi_sidecar_import_state{state="completed"}'])
    assert samples["devpi_sidecar_import_files_per_second"] > 0
    spent = samples['devpi_sidecar_phase_seconds_total{phase="importing"}']
    assert 0 < spent < samples["devpi_sidecar_startup_seconds"]


def test_a_devpi_that_is_gone_is_told_to_the_end(container: Make) -> None:
    """If it exits by itself, the container exits, too; if it is killed meanwhile, no scrape fails."""
    box = container().start().wait_ready()
    answers: list[Answer] = []
    os.kill(box.devpi_pid, signal.SIGKILL)
    while box.running:
        try:
            answers.append(box.get("/metrics"))
        except OSError:
            break
    assert {200} >= {answer.status for answer in answers}
    assert 137 == box.wait_end()


def test_plugins_metrics_are_passed_on(container: Make, tmp_path: Path) -> None:
    """A real plugin of devpi-server, with hostile names among its metrics."""
    box = container(env=plugin_with_metrics(tmp_path / "plugin")).start().wait_ready()
    samples = counted(box, "devpi_server_search_index_backlog", 3)
    assert 3 == samples["devpi_web_whoosh_index_queue_size"]
    assert 7 == samples["devpi_plugin__script_alert_1_"]
    assert call_devpi(f"{box.devpi}/+status").status == 200
