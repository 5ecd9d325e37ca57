"""At its start the container finds out whether torch can use the GPU that Vertex AI promises.

No test machine has a GPU, so a small library takes the driver's place.
"""

import subprocess
from pathlib import Path

import pytest

from serving.container.errors import StartupError
from serving.container.gpu import CudaVersion, find_gpus, find_torch_cuda

DRIVER = r"""
#include <string.h>
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "NVIDIA L4", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 23ul << 30; return 0; }
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
"""
CUDA_13 = CudaVersion(13, 0)


def build_driver(
    factory: pytest.TempPathFactory, version: int = 13010, result: int = 0, count: int = 1
) -> str:
    """Compile a driver that supports a version of CUDA and has a number of devices; return its path."""
    # Not in tmp_path: Linux takes a new file with a deleted file's number for the library that is loaded already.
    folder = factory.mktemp("driver")
    source, library = folder / "driver.c", folder / "libcuda.so.1"
    source.write_text(DRIVER)
    values = [f"-DVERSION={version}", f"-DINIT={result}", f"-DCOUNT={count}"]
    command = ["gcc", "-shared", "-fPIC", *values, str(source), "-o", str(library)]
    subprocess.run(command, check=True, timeout=60)
    return str(library)


@pytest.fixture
def promised(tmp_path: Path) -> dict[str, str]:
    """Return the variables of a machine with an accelerator."""
    program = tmp_path / "nvidia-smi"
    program.touch(mode=0o755)
    return {"AIP_ACCELERATOR_TYPE": "NVIDIA_L4", "PATH": str(tmp_path)}


def test_devices_and_versions_are_in_the_log(
    promised: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    gpus, line = find_gpus(promised, CUDA_13, build_driver(tmp_path_factory, count=2))
    assert [gpu.name for gpu in gpus] == ["NVIDIA L4"] * 2
    assert line == (
        "serving on NVIDIA L4 with 23.0 GiB, NVIDIA L4 with 23.0 GiB; the driver supports CUDA 13.1, torch uses 13.0"
    )


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        ({"version": 12080}, "the driver supports CUDA 12.8, and torch in this image needs 13.0"),
        ({"result": 100}, "the NVIDIA driver's cuInit fails: CUDA_ERROR_NO_DEVICE"),
        ({"count": 0}, "the driver has no device"),
        (None, "the container has no NVIDIA driver"),
    ],
    ids=["too old", "fails", "without devices", "missing"],
)
def test_promised_gpu_that_torch_cannot_use_ends_the_start(
    promised: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    driver: dict[str, int] | None,
    reason: str,
) -> None:
    library = "missing.so" if driver is None else build_driver(tmp_path_factory, **driver)
    with pytest.raises(StartupError, match=f"^AIP_ACCELERATOR_TYPE=NVIDIA_L4, but {reason}"):
        find_gpus(promised, CUDA_13, library)
    gpus, line = find_gpus({"PATH": promised["PATH"]}, CUDA_13, library)
    assert gpus == []
    assert line.startswith(f"serving on the CPU: {reason}")


def test_driver_of_an_older_minor_version_is_used(
    promised: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    gpus, _ = find_gpus(promised, CudaVersion(13, 2), build_driver(tmp_path_factory, version=13000))
    assert len(gpus) == 1


def test_image_with_torch_for_cpus_has_no_line_but_fails_on_a_promised_gpu(
    promised: dict[str, str],
) -> None:
    assert find_torch_cuda() is None
    assert find_gpus({}, None) == ([], "")
    with pytest.raises(StartupError, match="make build GPU=1"):
        find_gpus(promised, None)


def test_gpu_that_torchserve_cannot_count_ends_the_start(
    promised: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    library = build_driver(tmp_path_factory)
    with pytest.raises(StartupError, match="nvidia-smi, which is not in PATH"):
        find_gpus(promised | {"PATH": "/nowhere"}, CUDA_13, library)
