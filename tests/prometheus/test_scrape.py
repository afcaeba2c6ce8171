"""A real Prometheus scrapes a real primary and its replica; every panel and every rule has data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.prometheus.conftest import DEPLOY, ROOT, alerts, promtool
from tests.support import exported
from tests.support.container import (
    Container,
    cleared_away,
    free_port,
    login_token,
    make_index,
    request,
    upload,
    wait_for,
)
from tests.support.documents import metrics_table
from tests.support.exposition import families, is_devpis_own
from tests.support.plugins import plugin_with_metrics

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())


@dataclass
class Prometheus:
    """Prometheus with our configuration, on our containers."""

    url: str
    primary: Container
    replica: Container
    index: str
    file: str

    def ask(self, path: str, **query: str) -> Any:
        """Return the `data` of an answer of its HTTP API, which must succeed."""
        answer = request(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}")
        assert answer.status == 200, answer
        assert answer.json["status"] == "success"
        return answer.json["data"]

    def values(self, expression: str) -> list[float]:
        """Return the current values of an expression, without NaN."""
        found = [float(sample["value"][1]) for sample in self.ask("query", query=expression)["result"]]
        return [value for value in found if value == value]  # noqa: PLR0124 - NaN

    def traffic(self) -> None:
        """Send a request of every class, so that all metrics have data."""
        devpi = self.primary.devpi
        for url in (self.file, f"{self.index}/+simple/hello/", f"{devpi}/+api", f"{devpi}/nobody"):
            request(url)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A primary after an import with a plugin like devpi-web's, a replica, and Prometheus on both."""
    home = tmp_path_factory.mktemp("scraped")
    secret = home / "secret"
    secret.write_text("0123456789abcdef" * 4)
    base = ("--host", "127.0.0.1", "--port", "0", "--secretfile", str(secret))
    env = {"DEVPI_PASSWORD": "given", "SIDECAR_SECRET_IS_RANDOM": "true", "SIDECAR_MONITOR_INTERVAL": "200ms"}
    with ExitStack() as stack:
        flags = ("--role", "primary", "--offline-mode", *base)
        plugin = plugin_with_metrics(home / "plugin") | {"MADE_UP_UPSTREAMS": "1", "NO_TRENDS": "1"}
        command = (sys.executable, str(ROOT / "tests" / "browser" / "made_up.py"))
        made = Container(home / "primary", flags, env | plugin, command=command)
        primary = stack.enter_context(cleared_away(made))
        exported.write(primary.init_dir / "export", projects=20)
        primary.start().wait_ready()
        flags = ("--primary-url", primary.devpi, *base)  # offline, it would not ask its primary; it has no mirror
        replica = stack.enter_context(cleared_away(Container(home / "replica", flags, env)))
        replica.start().wait_ready()
        token = login_token(primary.devpi, "given")
        index = make_index(primary.devpi, token)
        file = upload(index, token, "hello", b"x" * 100_000)
        primary.post("/bootstrap/rotate", token="wrong")
        url = stack.enter_context(prometheus_on(home / "prometheus", primary, replica))
        yield Prometheus(url, primary, replica, index, file)


@contextmanager
def prometheus_on(home: Path, *containers: Container) -> Iterator[str]:
    """Run Prometheus with the shipped configuration, except targets and intervals; yield its URL."""
    home.mkdir()
    config = YAML(typ="safe").load(DEPLOY / "prometheus.yml")
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [c.url.removeprefix("http://") for c in containers]}]
    YAML(typ="safe").dump(config, home / "prometheus.yml")
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'data'}"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={address}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: request(f"http://{address}/-/ready").status == 200, "Prometheus")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def panel_queries() -> list[tuple[str, str]]:
    """Return every panel's title and expression, with Grafana's variables filled in."""
    return [
        (panel["title"], filled(target["expr"])) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
    ]


def legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    """Return Grafana's legend of a series."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), target["legendFormat"])


def filled(expression: str) -> str:
    """Return the expression as in Grafana with everything selected."""
    text = expression.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")
    assert "$" not in text
    return text


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that an expression names."""
    return set(re.findall(r"\b(?:devpi_[a-z_]+|process_[a-z_]+|up\b)(?=[{\[ )]|$)", expression))


def selectors_of(expression: str) -> set[str]:
    """Return the metrics that an expression names, with the labels that they must have."""
    found = re.findall(r"\b((?:devpi_[a-z_]+|process_[a-z_]+|up)\b(?:\{[^}]*\})?)(?=[\[ )]|$)", expression)
    assert {each.partition("{")[0] for each in found} == metrics_of(expression)
    return set(found)


def test_the_dashboard_is_well_formed() -> None:
    """Every panel has a unique number and place, a title, and the selected datasource."""
    panels = DASHBOARD["panels"]
    assert len(panels) == len({panel["id"] for panel in panels})
    places = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len(set(places))
    assert {True} == {0 <= x < 24 for x, _ in places}
    for panel in panels:
        assert panel["title"]
        for target in panel.get("targets", []):
            assert "${datasource}" == panel["datasource"]["uid"] == target["datasource"]["uid"]
            assert 'job=~"$job", instance=~"$instance"' in target["expr"]


def test_both_are_scraped(scraped: Prometheus) -> None:
    """Up, without an error, in OpenMetrics."""
    wait_for(lambda: scraped.values('sum(up{job="devpi"})') == [2.0], "both to be scraped")
    assert ["", ""] == [target["lastError"] for target in scraped.ask("targets")["activeTargets"]]


def test_the_series_are_bounded(scraped: Prometheus) -> None:
    """At most as many as documented, whatever clients have requested."""
    for number in range(300):
        request(f"{scraped.primary.url}/{number}")
        request(f"{scraped.primary.devpi}/{number}/{number}")
    lines = scraped.primary.get("/metrics").body.decode().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) < 600


def test_every_documented_label_is_there(scraped: Prometheus) -> None:
    """Primary and replica together have the documented labels, and every documented metric."""
    found: dict[str, set[str]] = {}
    for container in (scraped.primary, scraped.replica):
        text = container.get("/metrics", accept="application/openmetrics-text").body.decode()
        for name, (_, labels) in families(text).items():
            found[name] = found.get(name, set()) | labels
    documented = {name: labels for name, (_, labels) in metrics_table().items()}
    assert documented == {name: labels for name, labels in found.items() if not is_devpis_own(name)}


def test_the_names_are_sound(scraped: Prometheus) -> None:
    """Prometheus' own linter finds nothing in the exposition."""
    for container in (scraped.primary, scraped.replica):
        assert "" == promtool("check", "metrics", text=container.get("/metrics").body).strip()


@pytest.mark.parametrize(("title", "expression"), panel_queries())
def test_every_panel_has_data(scraped: Prometheus, title: str, expression: str) -> None:
    """Numbers, not only no error."""

    def look() -> list[float]:
        scraped.traffic()
        return scraped.values(expression)

    assert wait_for(look, f"{title}: {expression}", patience=30)


@pytest.mark.parametrize("panel", [p for p in DASHBOARD["panels"] if "targets" in p], ids=lambda panel: panel["title"])
def test_no_two_lines_of_a_panel_have_one_name(scraped: Prometheus, panel: dict[str, Any]) -> None:
    """With the primary and its replica selected, as all instances are by default."""
    scraped.traffic()
    wait_for(lambda: scraped.values("sum(devpi_sidecar_ready)") == [2.0], "both to be scraped")
    legends = [
        legend(target, series["metric"])
        for target in panel["targets"]
        for series in scraped.ask("query", query=filled(target["expr"]))["result"]
    ]
    assert len(legends) == len(set(legends)), sorted(legends)
    for target in panel["targets"]:
        assert "{{instance}}" in target["legendFormat"] or "sum" in target["expr"]
        assert "sum" not in target["expr"] or "Sum of all selected instances." in panel["description"]


def test_a_check_is_one_of_three_whatever_is_chosen(scraped: Prometheus) -> None:
    """One line for each check of each instance, with 0, 1 or 2, not a sum over instances."""
    (expression,) = [
        filled(target["expr"]) for p in DASHBOARD["panels"] if p["title"] == "Checks" for target in p["targets"]
    ]
    checks = len(scraped.primary.get("/health").json["checks"])
    values = wait_for(lambda: (v := scraped.values(expression)) and len(v) == 2 * checks and v, "all checks")
    assert {0.0, 1.0, 2.0} >= set(values)


def test_the_rate_of_changes_is_never_below_none(scraped: Prometheus) -> None:
    """The serial is a gauge: a restored backup has a lower one, which is no reset of a counter."""
    (expression,) = [
        filled(t["expr"]) for p in DASHBOARD["panels"] if p["title"] == "Changes committed" for t in p["targets"]
    ]
    assert "rate(" not in expression
    assert all(value >= 0 for value in wait_for(lambda: scraped.values(expression), expression))


def test_the_dashboards_variables_find_the_targets(scraped: Prometheus) -> None:
    """`label_values` of each variable names an existing metric."""
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            (metric,) = re.findall(r"label_values\((devpi_\w+)", variable["query"]["query"])
            assert wait_for(lambda metric=metric: scraped.values(metric), metric)  # type: ignore[misc]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_rule_speaks_of_what_there_is(scraped: Prometheus, rule: dict[str, Any]) -> None:
    """It evaluates, and a real scrape has all its metrics with their labels; otherwise it could never fire."""
    scraped.values(rule["expr"])
    selectors = selectors_of(rule["expr"])
    assert selectors
    for selector in selectors:
        assert wait_for(lambda of=selector: scraped.values(f"count({of})"), selector, patience=30)  # type: ignore[misc]


def test_the_rules_are_healthy_and_nothing_is_wrong(scraped: Prometheus) -> None:
    """Prometheus evaluates all of them, and none fires for a healthy pair."""

    def evaluated() -> list[dict[str, Any]] | None:
        rules = [rule for group in scraped.ask("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = wait_for(evaluated, "the first evaluation")
    assert {rule["alert"] for rule in alerts()} == {rule["name"] for rule in rules}
    assert {"ok"} == {rule["health"] for rule in rules}
    assert [] == [rule["name"] for rule in rules if rule["state"] == "firing"]
