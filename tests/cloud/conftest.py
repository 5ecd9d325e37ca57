"""Fixtures: the emulator with its registry and storage, a small image, and the programs that use them."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from contract.docker import Docker
from deploy import __main__ as command_line
from deploy import places
from deploy.gcp import client
from emulator import functions
from emulator.config import EmulatorConfig
from emulator.containers import LABEL
from emulator.stack import MissingProgramError, Stack, running
from tests.container.conftest import DOCKER, image  # noqa: F401
from tests.programs import Result, run_main, run_program

FOLDER = Path(__file__).parent
PROJECT, REGION = "cloud-tests", "us-central1"
TINY = "cloud-tests/tiny"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
MODEL: dict[str, Any] = {
    "displayName": "toy",
    "containerSpec": {
        "imageUri": f"{TINY}:1",
        "ports": [{"containerPort": 9090}],
        "healthRoute": "/well",
        "predictRoute": "/ask",
        "env": [{"name": "COLOUR", "value": "red"}],
    },
}
MACHINE: dict[str, Any] = {"machineSpec": {"machineType": "e2-standard-2"}, "minReplicaCount": 1}
READY_TIMEOUT_S = 10
POLL_S = 0.1


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of this folder in one worker, so that they share the emulator, unless they have a group."""
    for item in items:
        if item.path.is_relative_to(FOLDER) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("cloud"))


@pytest.fixture(scope="session")
def tiny(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: F811
    """Build an image of server.py that only this process uses; yield its ID."""
    folder, docker = tmp_path_factory.mktemp("tiny"), Docker(DOCKER)
    shutil.copy(FOLDER / "server.py", folder)
    (folder / "Dockerfile").write_text(
        f'FROM {image}\nCOPY server.py /server.py\nENTRYPOINT ["/opt/venv/bin/python", "/server.py"]\n'
    )
    image_id = docker("build", "--quiet", "--label", LABEL, str(folder), timeout_s=300)
    yield image_id
    docker("image", "rm", "--force", image_id)


@pytest.fixture(scope="session")
def shared_stack(tiny: str) -> Iterator[Stack]:
    """Start the emulator; skip the test if a program is missing."""
    config = EmulatorConfig(
        docker=DOCKER,
        images={f"{TINY}:{tag}": tiny for tag in (1, 2, 3)},
        ready_timeout_s=READY_TIMEOUT_S,
        probe_interval_s=1,
        cpu_quota=16,
        shared_timeout_s=2,
        max_idle_s=5,  # longer than a predict command takes on a busy machine
    )
    try:
        with running(config, report=lambda _: None) as stack:
            yield stack
    except MissingProgramError as error:
        pytest.skip(str(error))


Run = Callable[..., Result]
Call = Callable[..., Any]


@pytest.fixture
def stack(shared_stack: Stack) -> Iterator[Stack]:
    """Yield the shared emulator without resources; delete those that the test leaves."""
    reset(shared_stack)
    yield shared_stack
    reset(shared_stack)


def reset(stack: Stack) -> None:
    """Delete all resources and faults, and stop all containers and functions."""
    state = stack.state
    stack.clear_faults()
    for operation in list(state.operations.values()):
        operation.cancelled.set()
        operation.future.exception(timeout=60)
    for pool in list(state.pools.values()):
        pool.stop()
    functions.stop_all(state)
    for resources in vars(state).values():
        if isinstance(resources, dict | list):
            resources.clear()


@pytest.fixture
def deploy(
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Return a function that runs python -m deploy in this process."""
    for name, value in stack.environment(PROJECT).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "POLL_S", (POLL_S,))
    monkeypatch.setattr(places, "FILE", tmp_path / "last.toml")

    def run(line: str, **environ: str) -> Result:
        with monkeypatch.context() as patch:
            for name, value in {"DEPLOY_IMAGE": f"{TINY}:1", **environ}.items():
                patch.setenv(name, value)
            return run_main(command_line.main, line, capsys)

    return run


@pytest.fixture
def gcloud(stack: Stack) -> Run:
    """Return a function that runs the real gcloud."""

    def run(line: str) -> Result:
        region = ["--region", REGION] if line.startswith("ai ") else []
        return run_program(["gcloud", *shlex.split(line), *region], stack.environment(PROJECT))

    return run


@pytest.fixture
def python(stack: Stack) -> Run:
    """Return a function that runs Python with the real SDK."""
    env = stack.environment(PROJECT)
    return lambda line: run_program([sys.executable, *shlex.split(line)], env)


def traffic_by_version(stack: Stack, name: str = "toy") -> dict[str, int]:
    """Return version → percent of the traffic, for every model deployed to an endpoint."""
    return {
        deployed.model_version_id: endpoint.traffic_split.get(deployed.id, 0)
        for key, endpoint in stack.state.endpoints.items()
        if key.endswith(f"/endpoints/{name}")
        for deployed in endpoint.deployed_models
    }


def count_containers(stack: Stack) -> int:
    """Return the number of running containers of deployed models, listed by an endpoint or not."""
    return sum(len(pool.replicas) for pool in stack.state.pools.values())


class GoogleError(Exception):
    """The error in a response or in an operation."""


@pytest.fixture
def call(stack: Stack) -> Call:
    """Return a function that sends a request and waits for its operation; it raises GoogleError."""

    def send(verb: str, path: str, content: Any = None) -> Any:
        response = requests.request(verb, f"{stack.url}/v1/{path}", json=content, timeout=60)
        if response.status_code != 200:
            error = response.json()["error"]
            assert error["code"] == response.status_code
            raise GoogleError(f"{response.status_code} {error['status']}: {error['message']}")
        result = response.json()
        while "/operations/" in result.get("name", "") and not result.get("done"):
            time.sleep(POLL_S)
            result = requests.get(f"{stack.url}/v1/{result['name']}", timeout=60).json()
        if "error" in result:
            raise GoogleError(f"{result['error']['code']}: {result['error']['message']}")
        return result.get("response", result)

    return send


@pytest.fixture
def endpoint(call: Call) -> str:
    """Return the name of an endpoint that serves the small image."""
    call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "toy"})
    call("POST", f"{PARENT}/endpoints?endpointId=e", {"displayName": "e"})
    deployed = {"model": f"{PARENT}/models/toy", "dedicatedResources": MACHINE}
    call(
        "POST",
        f"{PARENT}/endpoints/e:deployModel",
        {"deployedModel": deployed, "trafficSplit": {"0": 100}},
    )
    return f"{PARENT}/endpoints/e"
