"""make build GPU=1: the libraries of the image for GPUs, and what it does on a machine without one."""

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.conftest import (
    DOCKER,
    HARDENED,
    VERTEX,
    container_starter,
    docker,
    wait_until_healthy,
)
from tests.container.test_build import MODEL, REQUESTS
from tests.images import ROOT, request_body
from tests.programs import run_program
from tests.unit.test_gpu import build_driver
from tests.wheels import write_wheel

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("builds")]

MAX_BYTES = 0.8 * 5.15e9
"""Of what pip install torch==2.13.0 on debian:bookworm-slim makes."""
PYTHON = "/opt/venv/bin/python"
PROMISED = VERTEX | {"AIP_ACCELERATOR_TYPE": "NVIDIA_L4"}


@pytest.fixture(scope="module")
def gpu_image(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the image for GPUs, of a model with a package that requires torch."""
    folder = tmp_path_factory.mktemp("gpu") / f"m{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL.format(module="mine"))
    (folder / "requests.json").write_text(json.dumps(REQUESTS))
    wheel = write_wheel(folder, "mine", "1.0", "torch>=2")
    (folder / "requirements.txt").write_text(f"./{wheel.name}\n")
    name = f"{image}-gpu"
    make = ["make", "build", "GPU=1", f"MODEL={folder}", f"IMAGE={name}", f"DOCKER={DOCKER}"]
    done = run_program(make, cwd=ROOT, timeout_s=1800)
    assert done.code == 0, done.err[-3000:]
    yield name
    docker("image", "rm", "--force", name)
    shutil.rmtree(ROOT / "build" / folder.name)


def run_python(image: str, script: Path, *arguments: str) -> str:
    """Return what a program of this repository prints in a container of the image."""
    command = [DOCKER, "run", "--rm", "--interactive", "--entrypoint", PYTHON, image, "-"]
    with script.open() as source:
        done = subprocess.run(
            [*command, *arguments],
            stdin=source,
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
    return done.stdout


def test_every_library_of_nvidia_is_used_and_finds_those_that_it_links_to(gpu_image: str) -> None:
    lines = run_python(gpu_image, ROOT / "docker/scripts/linked_libraries.py", "/opt/venv")
    *table, last = lines.splitlines()
    assert "find all that they link to" in last
    assert [line for line in table if "libcublasLt.so" in line and "libtorch_cuda" in line]
    assert [line for line in table if "used by no library" in line] == []
    assert int(docker("inspect", "--format", "{{.Size}}", gpu_image)) < MAX_BYTES


def test_licenses_of_nvidia_are_in_the_image_and_its_packages_in_the_sbom(gpu_image: str) -> None:
    sbom = docker("run", "--rm", "--entrypoint", "cat", gpu_image, "/sbom/sbom.cdx.json")
    packages = {each["name"] for each in json.loads(sbom)["components"]}
    nvidia = {name for name in packages if name.startswith("nvidia-")}
    assert {"torch", "mine", "nvidia-cublas", "nvidia-cudnn-cu13"} <= packages
    assert not {"triton", "cuda-toolkit", "cuda-bindings", "nvidia-nvtx"} & packages
    find = ("find", "/opt/venv", "-ipath", "*nvidia*license*.txt")
    licenses = docker("run", "--rm", "--entrypoint", find[0], gpu_image, *find[1:]).split()
    assert len(licenses) == len(nvidia)


def test_container_without_a_gpu_serves_on_the_cpu_and_logs_why(gpu_image: str) -> None:
    with container_starter(gpu_image) as start:
        container = start(*HARDENED, **VERTEX)
        endpoint = container.endpoint(9000, VERTEX["AIP_PREDICT_ROUTE"])
        wait_until_healthy(endpoint, VERTEX["AIP_HEALTH_ROUTE"])
        assert json.loads(endpoint.post(request_body(2)).body) == {"predictions": [4.0]}
        assert "serving on the CPU: there is no NVIDIA driver" in container.logs()


def test_promised_gpu_without_a_driver_ends_the_container_with_that_reason(gpu_image: str) -> None:
    with container_starter(gpu_image) as start:
        container = start(*HARDENED, **PROMISED)
        assert container.wait_until_ended(20) == 1
        assert "AIP_ACCELERATOR_TYPE=NVIDIA_L4, but there is no NVIDIA driver" in (
            container.last_message()
        )


def test_gpu_that_only_torch_cannot_use_ends_the_container_with_the_reason_of_torch(
    gpu_image: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The driver is a stand-in, which has none of the functions that torch calls."""
    library = Path(build_driver(tmp_path_factory))
    with container_starter(gpu_image) as start:
        volume = ("--volume", f"{library}:/usr/local/nvidia/lib64/{library.name}:ro")
        container = start(*HARDENED, *volume, **PROMISED)
        assert container.wait_until_ended(90) == 1
        assert "torch cannot use GPU 0 of this machine: " in container.last_message()
