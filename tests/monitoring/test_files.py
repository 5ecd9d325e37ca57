"""The alerts fire on faults, and are the same in Prometheus, Cloud Monitoring and the docs."""

import subprocess

import pytest
import yaml
from google.cloud.monitoring_v3.types import AlertPolicy
from google.protobuf import json_format

from tests.images import ROOT
from tests.programs import require_programs

FILES = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((FILES / "rules.yaml").read_text())["groups"][0]["rules"]
POLICY = yaml.safe_load((FILES / "alert-policy.yaml").read_text())
PAGE = (ROOT / "docs" / "monitoring.md").read_text()


def test_each_alert_fires_on_its_fault_and_none_on_a_healthy_service() -> None:
    require_programs("promtool")
    done = subprocess.run(
        ["promtool", "test", "rules", "tests/monitoring/alerts.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_policy_is_a_valid_alert_policy_of_cloud_monitoring() -> None:
    policy = json_format.ParseDict(
        POLICY, AlertPolicy.pb(AlertPolicy()), ignore_unknown_fields=False
    )
    assert len(policy.conditions) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_cloud_monitorings_conditions_are_prometheus_rules(rule: dict[str, object]) -> None:
    (condition,) = [
        promql
        for promql in (item["conditionPrometheusQueryLanguage"] for item in POLICY["conditions"])
        if promql["alertRule"] == rule["alert"]
    ]
    assert condition["query"] == rule["expr"]
    assert condition["labels"] == rule["labels"]
    assert int(condition["duration"][:-1]) == 60 * int(str(rule["for"])[:-1])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_is_documented(rule: dict[str, str]) -> None:
    assert f"| `{rule['alert']}` |" in PAGE
