"""The dashboard, the alerts and Cloud Monitoring's form of them."""

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


def test_each_alert_comes_when_it_should_and_none_while_all_is_well() -> None:
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


def test_the_policy_is_one_of_google_s_type() -> None:
    found = json_format.ParseDict(
        POLICY, AlertPolicy.pb(AlertPolicy()), ignore_unknown_fields=False
    )
    assert len(found.conditions) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_cloud_monitoring_is_told_the_same_as_prometheus(rule: dict[str, object]) -> None:
    (condition,) = [
        each["conditionPrometheusQueryLanguage"]
        for each in POLICY["conditions"]
        if each["conditionPrometheusQueryLanguage"]["alertRule"] == rule["alert"]
    ]
    assert condition["query"] == rule["expr"]
    assert condition["labels"] == rule["labels"]
    assert int(condition["duration"][:-1]) == 60 * int(str(rule["for"])[:-1])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_the_page_says_what_to_do_about_each_alert(rule: dict[str, str]) -> None:
    assert f"| `{rule['alert']}` |" in PAGE
