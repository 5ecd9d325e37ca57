"""Tests of `canary --watch` with metrics from the emulated Cloud Monitoring."""

from pathlib import Path

import pytest

from emulator.stack import Stack
from emulator.walkthrough import background_traffic
from tests.cloud.conftest import PROJECT, Run, count_containers, traffic_by_version
from tests.cloud.test_failures import env_file

pytestmark = pytest.mark.full
ROLLED_BACK = "the canary was rolled back"


@pytest.mark.parametrize(
    "case",
    [
        ("wrong", "--watch 30s --max-error-rate 5%", ROLLED_BACK, "responses are errors"),
        ("slow", "--watch 30s --max-p95 100ms", ROLLED_BACK, "(the limit is 100 ms)"),
        ("none", "--watch 4s --max-p95 5s", "version 2 stayed within the limits", ""),
    ],
    ids=lambda case: case[0],
)
def test_canary_that_exceeds_a_limit_is_rolled_back_and_others_stay(
    deploy: Run, stack: Stack, tmp_path: Path, case: tuple[str, str, str, str]
) -> None:
    fault, options, outcome, reason = case
    assert deploy("deploy").code == 0
    with background_traffic(stack, PROJECT, "toy", b'{"instances": [1]}', pause_s=0.02):
        done = deploy(f"canary --traffic 50 {options} {env_file(tmp_path, FAULT=fault)}")
    rolled_back = outcome == ROLLED_BACK
    assert done.code == rolled_back, done
    assert outcome in (done.err if rolled_back else done.out)
    assert reason in done.err
    assert traffic_by_version(stack) == ({"1": 100} if rolled_back else {"1": 50, "2": 50})
    assert count_containers(stack) == (1 if rolled_back else 2)


def test_canary_without_requests_is_not_judged(deploy: Run, stack: Stack, tmp_path: Path) -> None:
    assert deploy("deploy").code == 0
    done = deploy(f"canary --watch 2s {env_file(tmp_path, COLOUR='red')}")
    assert done.code == 1
    assert "the canary got only 0 requests" in done.err
    assert traffic_by_version(stack) == {"1": 90, "2": 10}


def test_canary_without_a_serving_version_fails_before_it_changes_anything(
    deploy: Run, stack: Stack
) -> None:
    done = deploy("canary")
    assert done.code == 1
    assert "no version serves traffic yet" in done.err
    assert not stack.state.models
    assert not stack.state.endpoints
