"""A canary that is watched: Cloud Monitoring says how it does, and it is rolled back by itself."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from rehearsal.stage import Stage
from tests.cloud.conftest import PROJECT, REGION, Run, containers, traffic
from tests.cloud.test_failures import env_file

pytestmark = pytest.mark.full
PREDICT = f"v1/projects/{PROJECT}/locations/{REGION}/endpoints/digits:predict"


@pytest.fixture
def clients(empty: Stage) -> Iterator[None]:
    """Let somebody ask all the time."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.02):
            requests.post(f"{empty.url}/{PREDICT}", json={"instances": [1]}, timeout=30)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    over.set()
    thread.join(30)


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize(
    "case",
    [
        ("wrong", "--max-error-rate 5%", "answers are errors"),
        ("slow", "--max-p95 100ms", "(the limit is 100 ms)"),
    ],
)
def test_one_that_breaks_a_limit_is_rolled_back(
    deploy: Run, empty: Stage, tmp_path: Path, case: tuple[str, str, str]
) -> None:
    fault, limit, because = case
    assert deploy("deploy").code == 0
    done = deploy(f"canary --traffic 50 --watch 30s {limit} {env_file(tmp_path, FAULT=fault)}")
    assert done.code == 1
    assert "the canary was rolled back" in done.err
    assert because in done.err
    assert traffic(empty) == {"1": 100}
    assert containers(empty) == 1


@pytest.mark.usefixtures("clients")
def test_one_that_keeps_them_stays(deploy: Run, empty: Stage, tmp_path: Path) -> None:
    assert deploy("deploy").code == 0
    options = f"--traffic 30 --watch 4s --max-p95 5s {env_file(tmp_path, COLOUR='red')}"
    done = deploy(f"canary {options}")
    assert done.code == 0, done.err
    assert "version 2 kept within the limits" in done.out
    assert traffic(empty) == {"1": 70, "2": 30}


def test_one_that_nobody_asked_is_not_called_good(
    deploy: Run, empty: Stage, tmp_path: Path
) -> None:
    assert deploy("deploy").code == 0
    done = deploy(f"canary --watch 2s {env_file(tmp_path, COLOUR='red')}")
    assert done.code == 1
    assert "only 0 requests reached the canary" in done.err
    assert traffic(empty) == {"1": 90, "2": 10}
