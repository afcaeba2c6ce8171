"""The alert rules and the scrape configuration, checked by promtool."""

from __future__ import annotations

import re
from pathlib import Path

from ruamel.yaml import YAML

from tests.prometheus.conftest import DEPLOY, ROOT, alerts, promtool
from tests.support.documents import anchors

ASKED_FOR = {
    "DevpiNotReady",
    "DevpiImportFailed",
    "DevpiEventLag",
    "DevpiDiskFills",
    "DevpiReplicaBehind",
    "DevpiPasswordNeverClaimed",
    "DevpiTokenAttacked",
}


def test_configuration_and_rules_are_sound() -> None:
    """According to Prometheus itself."""
    assert "11 rules found" in promtool("check", "config", DEPLOY / "prometheus.yml")


def test_the_documented_configurations_are_sound(tmp_path: Path) -> None:
    """Those in docs/metrics.md, without the discovery of pods, which Debian's Prometheus lacks."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    found = re.findall(r"^```yaml\n(scrape_configs:.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    for number, config in enumerate(found):
        path = tmp_path / f"{number}.yml"
        path.write_text(config.replace("kubernetes_sd_configs:\n      - role: pod", "static_configs: []"))
        assert "SUCCESS" in promtool("check", "config", path)


def test_the_rules_fire_when_they_should_and_only_then() -> None:
    """Their unit tests; every alert fires in one of them, and has one in which it doesn't."""
    assert "SUCCESS" in promtool("test", "rules", DEPLOY / "alerts.test.yml")
    cases = [
        case for test in YAML(typ="safe").load(DEPLOY / "alerts.test.yml")["tests"] for case in test["alert_rule_test"]
    ]
    names = {rule["alert"] for rule in alerts()}
    assert names == {case["alertname"] for case in cases if case.get("exp_alerts")}
    assert names == {case["alertname"] for case in cases if not case.get("exp_alerts")}


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    """Summary, description, severity, and a runbook that exists."""
    found = alerts()
    assert {rule["alert"] for rule in found} >= ASKED_FOR
    for rule in found:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert {"summary", "description", "runbook"} == set(rule["annotations"])
        document, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert not anchor or anchor in anchors(ROOT / document), rule["annotations"]["runbook"]
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
