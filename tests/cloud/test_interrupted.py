"""Tests that a command interrupted at a call that changes something is finished by running it again.

tests/unit/test_plan.py tests the same for every step of every command, without calls.
"""

import threading
from typing import Any

import pytest
import requests

from deploy.cli import interrupt
from emulator.containers import Replica
from emulator.errors import ApiError
from emulator.stack import Stack
from tests.cloud.conftest import Run, count_containers, reset, traffic_by_version

pytestmark = pytest.mark.full

MAX_CHANGES = 20
"""More changes than any of these commands makes."""


@pytest.fixture(autouse=True)
def no_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start and stop replicas without Docker: there are hundreds, and their responses are not needed."""

    def start(self: Replica, cancelled: threading.Event) -> None:
        if cancelled.wait(0.2):
            raise ApiError("CANCELLED", "The operation was cancelled.")
        self.healthy = True

    monkeypatch.setattr(Replica, "start", start)


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the Nth change interrupt the command, before its response is read."""
    send, remaining = requests.Session.send, [0]

    def send_and_count(
        self: requests.Session, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        response = send(self, request, **options)
        if request.method != "GET":
            remaining[0] -= 1
            if remaining[0] == 0:
                interrupt()
        return response

    monkeypatch.setattr(requests.Session, "send", send_and_count)

    def after(count: int) -> None:
        remaining[0] = count

    return after


def deploy_tags(deploy: Run, *tags: str) -> None:
    for tag in tags:
        done = deploy("deploy", DEPLOY_IMAGE=f"cloud-tests/tiny:{tag}")
        assert done.code == 0, done.err


COMMANDS = {
    "canary --traffic 10": ((), {"1": 90, "2": 10}),
    "promote": (("canary --traffic 10",), {"1": 0, "2": 100}),
    "rollback": (("canary --traffic 10", "promote"), {"1": 100}),
    "deploy": (("canary --traffic 10",), {"1": 0, "2": 100}),
    "teardown --yes --keep-images": (("canary --traffic 10",), {}),
}


@pytest.mark.parametrize("line", COMMANDS)
def test_command_interrupted_at_any_change_is_finished_by_running_it_again(
    deploy: Run, stack: Stack, stop_after: Any, line: str
) -> None:
    before, expected = COMMANDS[line]
    for count in range(1, MAX_CHANGES):
        deploy_tags(deploy, "1")
        for earlier in before:
            assert deploy(earlier, DEPLOY_IMAGE="cloud-tests/tiny:2").code == 0
        stop_after(count)
        stopped = deploy(line, DEPLOY_IMAGE="cloud-tests/tiny:2")
        stop_after(0)
        if stopped.code == 0:
            assert count > 3, "it was interrupted too rarely"
            return
        assert stopped.code == 130
        assert "Run the same command again" in stopped.out
        again = deploy(line, DEPLOY_IMAGE="cloud-tests/tiny:2")
        assert again.code == 0, f"after {count} changes: {again.err}"
        assert traffic_by_version(stack) == expected, f"after {count} changes"
        assert count_containers(stack) == len(expected)
        if line.startswith("teardown"):
            assert not stack.state.endpoints
            assert not stack.state.models
        reset(stack)
    pytest.fail(f"{line} makes more than {MAX_CHANGES} changes")
