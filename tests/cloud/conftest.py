"""A rehearsal: the stand-in, a registry, a storage emulator, and images small enough to be started often."""

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.docker import Docker
from deploy import __main__ as command_line
from deploy import settings
from deploy.gcp import client
from emulator import functions
from emulator.config import EmulatorConfig
from emulator.containers import LABEL
from emulator.stack import MissingProgramError, Stack, running
from tests.container.conftest import DOCKER, image  # noqa: F401
from tests.programs import Result, run_main, run_program

HERE = Path(__file__).parent
PROJECT, REGION = "cloud-tests", "us-central1"
TINY = "cloud-tests/tiny"
READY_TIMEOUT_S = 10
POLL_S = 0.1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let all tests of this folder share one rehearsal, but for those with a group of their own."""
    for item in items:
        if item.path.is_relative_to(HERE) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("cloud"))


@pytest.fixture(scope="session")
def tiny(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: F811
    """Build server.py into an image that no other process has, and return its ID."""
    folder, docker = tmp_path_factory.mktemp("tiny"), Docker(DOCKER)
    shutil.copy(HERE / "server.py", folder)
    (folder / "Dockerfile").write_text(
        f'FROM {image}\nCOPY server.py /server.py\nENTRYPOINT ["/opt/venv/bin/python", "/server.py"]\n'
    )
    built = docker("build", "--quiet", "--label", LABEL, str(folder), timeout_s=300)
    yield built
    docker("image", "rm", "--force", built)


@pytest.fixture(scope="session")
def shared_stack(tiny: str) -> Iterator[Stack]:
    """Start a rehearsal; skip with the reason where a program is missing."""
    config = EmulatorConfig(
        docker=DOCKER,
        images={f"{TINY}:{tag}": tiny for tag in (1, 2, 3)},
        ready_timeout_s=READY_TIMEOUT_S,
        probe_interval_s=1,
        cpu_quota=16,
        shared_timeout_s=2,
    )
    try:
        with running(config, report=lambda _: None) as started:
            yield started
    except MissingProgramError as error:
        pytest.skip(str(error))


Run = Callable[..., Result]


@pytest.fixture
def stack(shared_stack: Stack) -> Iterator[Stack]:
    """Yield the shared emulator with no resources in it, and delete what the test leaves."""
    reset(shared_stack)
    yield shared_stack
    reset(shared_stack)


def reset(stack: Stack) -> None:
    """Take away whatever a test left."""
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
    """Return a function that runs python -m deploy, in this process."""
    for name, value in stack.environment(PROJECT).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "POLL_S", (POLL_S,))
    monkeypatch.setattr(settings, "SAVED_DEFAULTS", tmp_path / "last.toml")

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
    """Return a function that runs a program with the real SDK."""
    env = stack.environment(PROJECT)
    return lambda line: run_program([sys.executable, *shlex.split(line)], env)


def traffic_by_version(stack: Stack, name: str = "digits") -> dict[str, int]:
    """Return version → percent of everything that is deployed to an endpoint."""
    return {
        each.model_version_id: endpoint.traffic_split.get(each.id, 0)
        for key, endpoint in stack.state.endpoints.items()
        if key.endswith(f"/endpoints/{name}")
        for each in endpoint.deployed_models
    }


def count_containers(stack: Stack) -> int:
    """Return how many containers of deployed models run, whatever the endpoint says."""
    return sum(len(pool.replicas) for pool in stack.state.pools.values())
