"""The GPUs of a machine are found at the start, and each worker uses its own.

No test machine has a GPU, so a small library takes the driver's place.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ts.model_service_worker import TorchModelServiceWorker

from serving import gpu, local, resources
from serving.artifact import Artifact
from serving.container import entrypoint
from serving.container.config import Config, read_config
from serving.container.errors import StartupError
from serving.container.gpu import find_gpus
from serving.container.models import ModelFactory
from serving.gpu import CudaVersion, Gpu, find_torch_cuda
from serving.layout import LayoutError
from serving.logs import Log
from serving.torchserve import PATCHED_WORKER_HOME, build_environment
from serving.torchserve_config import TorchServeConfig
from serving.worker.serving_worker import process
from serving.worker.serving_worker.device import select_gpu
from tests.images import ARCHIVE

DRIVER = r"""
#include <string.h>
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "NVIDIA L4", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 23ul << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? CAPABILITY / 10 : attribute == 76 ? CAPABILITY % 10 : -1;
    return 0;
}
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
"""
CUDA_13 = CudaVersion(13, 0)


def build_driver(
    factory: pytest.TempPathFactory,
    version: int = 13010,
    result: int = 0,
    count: int = 1,
    capability: int = 89,
) -> str:
    """Compile a driver that supports a version of CUDA and has a number of devices; return its path."""
    # Not in tmp_path: Linux takes a new file with a deleted file's number for the library that is loaded already.
    folder = factory.mktemp("driver")
    source, library = folder / "driver.c", folder / "libcuda.so.1"
    source.write_text(DRIVER)
    values = [
        f"-DVERSION={version}",
        f"-DINIT={result}",
        f"-DCOUNT={count}",
        f"-DCAPABILITY={capability}",
    ]
    command = ["gcc", "-shared", "-fPIC", *values, str(source), "-o", str(library)]
    subprocess.run(command, check=True, timeout=60)
    return str(library)


PROMISED = {"AIP_ACCELERATOR_TYPE": "NVIDIA_L4"}


def test_devices_and_versions_are_in_the_log(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    gpus, line = find_gpus(PROMISED, CUDA_13, build_driver(tmp_path_factory, count=2))
    assert [gpu.name for gpu in gpus] == ["NVIDIA L4"] * 2
    assert line == (
        "serving on NVIDIA L4 with 23.0 GiB, NVIDIA L4 with 23.0 GiB; the driver supports CUDA 13.1, torch uses 13.0"
    )


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        ({"version": 12080}, "the driver supports CUDA 12.8, and torch needs 13.0"),
        ({"result": 100}, "the NVIDIA driver's cuInit fails: CUDA_ERROR_NO_DEVICE"),
        ({"count": 0}, "the driver has no device"),
        ({"capability": 70}, "NVIDIA L4 has compute capability 7.0, and CUDA 13.0 needs 7.5"),
        (None, r"there is no NVIDIA driver \(missing.so\); docker run needs --gpus all"),
    ],
    ids=["too old", "fails", "without devices", "an old device", "missing"],
)
def test_promised_gpu_that_torch_cannot_use_ends_the_start(
    tmp_path_factory: pytest.TempPathFactory,
    driver: dict[str, int] | None,
    reason: str,
) -> None:
    library = "missing.so" if driver is None else build_driver(tmp_path_factory, **driver)
    with pytest.raises(StartupError, match=f"^AIP_ACCELERATOR_TYPE=NVIDIA_L4, but {reason}"):
        find_gpus(PROMISED, CUDA_13, library)
    gpus, line = find_gpus({}, CUDA_13, library)
    assert gpus == []
    assert re.match(f"serving on the CPU: {reason}", line)


def test_driver_that_cannot_be_loaded_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    library = tmp_path / "libcuda.so.1"
    library.write_text("no library")
    with pytest.raises(StartupError, match=r"the NVIDIA driver cannot be loaded: .*too short"):
        find_gpus(PROMISED, CUDA_13, str(library))


def test_driver_of_an_older_minor_version_is_used(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    gpus, _ = find_gpus(PROMISED, CudaVersion(13, 2), build_driver(tmp_path_factory, version=13000))
    assert len(gpus) == 1


def test_older_device_is_used_by_a_torch_for_cuda_12(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    library = build_driver(tmp_path_factory, capability=70)
    assert len(find_gpus(PROMISED, CudaVersion(12, 6), library)[0]) == 1


def test_image_with_torch_for_cpus_has_no_line_but_fails_on_a_promised_gpu() -> None:
    assert find_torch_cuda() is None
    assert find_gpus({}, None) == ([], "")
    with pytest.raises(StartupError, match="make build GPU=1"):
        find_gpus(PROMISED, None)


@pytest.mark.parametrize(
    ("visible", "count", "selectors"),
    [
        (None, 1, [""]),
        (None, 2, ["0", "1"]),
        ("2, 3", 2, ["2", "3"]),
        ("3,-1,4", 1, ["3,-1,4"]),
        ("MIG-a,MIG-b", 1, ["MIG-a,MIG-b"]),  # CUDA uses one part of a GPU
    ],
)
def test_each_gpu_has_what_selects_it_alone(
    tmp_path_factory: pytest.TempPathFactory,
    visible: str | None,
    count: int,
    selectors: list[str],
) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    gpus, _ = gpu.find_gpus(environment, CUDA_13, build_driver(tmp_path_factory, count=count))
    assert [each.selector for each in gpus] == selectors


def test_local_server_logs_its_gpus_and_is_quiet_without_a_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines: list[str] = []
    assert local.find_gpus(lines.append) is None  # the installed torch is built for CPUs
    monkeypatch.setattr(gpu, "find_torch_cuda", lambda: CUDA_13)
    find = gpu.find_gpus
    for library, count, expected in (
        ("missing.so", 0, []),
        (build_driver(tmp_path_factory, version=12080), 0, ["serving on the CPU: the driver"]),
        (build_driver(tmp_path_factory), 1, ["serving on NVIDIA L4 with 23.0 GiB"]),
    ):
        monkeypatch.setattr(gpu, "find_gpus", functools.partial(find, library=library))
        assert len(local.find_gpus(lines.append) or []) == count
        assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected
        lines.clear()


@pytest.mark.parametrize(
    ("listed", "visible"),
    [("0;1", ["0", "1", "0"]), ("1;0;1", ["1", "0", "1"]), ("", [None] * 3), ("a,b", ["a,b"] * 3)],
)
def test_each_worker_sees_only_its_gpu(listed: str, visible: list[str | None]) -> None:
    for number, expected in enumerate(visible):
        environ = {"WORKER_GPUS": listed, "CUDA_VISIBLE_DEVICES": "0"}
        assert select_gpu(environ, f"/tmp/.ts.sock.{9000 + number}") == 0
        assert environ.get("CUDA_VISIBLE_DEVICES") == expected
    environ = {"CUDA_VISIBLE_DEVICES": "5"}
    assert select_gpu(environ, "/tmp/.ts.sock.9000") is None
    assert environ == {"CUDA_VISIBLE_DEVICES": "5"}


def test_worker_loads_the_model_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[dict[str, Any], str | None]] = []

    def load(_: object, request: dict[str, Any]) -> tuple[None, str, int]:
        loaded.append((request, os.environ.get("CUDA_VISIBLE_DEVICES")))
        return None, "", 200

    monkeypatch.setattr(TorchModelServiceWorker, "load_model", load)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("WORKER_GPUS", "0;1")
    worker = object.__new__(process.Worker)
    worker.sock_name = "/tmp/.ts.sock.9001"
    worker.load_model({"gpu": None})
    assert loaded == [({"gpu": 0}, "1")]


CONFIG = read_config({"REQUEST_PATH": "torchserve"})


def create_models(folder: Path, *gpus: Gpu, config: Config = CONFIG) -> list[TorchServeConfig]:
    """Return the configurations of two models in a container."""
    archives = [folder / f"{name}.mar" for name in "ab"]
    for archive in archives:
        shutil.copy(ARCHIVE, archive)
    factory = ModelFactory(
        folder=folder,
        config=config,
        gpus=gpus,
        telemetry_port=None,
        log=Log(as_text=True),
    )
    models = factory.create_all([Artifact(archive, None) for archive in archives])
    return [model.config for model in models]


def test_models_of_a_container_share_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 4)
    monkeypatch.setattr(resources, "memory_limit", lambda: 8 << 30)
    gpus = [Gpu("NVIDIA L4", 22 << 30, selector) for selector in "01"]
    first, second = create_models(tmp_path, *gpus)
    # The container's memory suffices for three workers.
    assert (first.gpus, second.gpus) == ((gpus[0], gpus[1]), (gpus[1],))
    assert (first.shared_gpu_workers, second.shared_gpu_workers) == (2, 2)
    assert build_environment(second)["WORKER_GPUS"] == "1"
    assert build_environment(second)["GPU_WORKERS"] == "2"


def test_container_that_shares_a_gpu_with_others_plans_for_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = Gpu("NVIDIA L4", 22 << 30)
    monkeypatch.setattr(entrypoint, "find_gpus", lambda *_: ([device], "the devices"))
    log = Log(as_text=True)
    assert entrypoint._find_gpus(CONFIG, log) == [device]
    config = read_config({"REQUEST_PATH": "torchserve", "GPU_CLIENTS": "4"})
    gpus = entrypoint._find_gpus(config, log)
    assert gpus == [Gpu("NVIDIA L4", 22 << 28)]
    assert (
        "GPU_CLIENTS=4: this container plans for NVIDIA L4 with 5.5 GiB" in capsys.readouterr().out
    )
    monkeypatch.setattr(resources, "cores", lambda: 4)
    monkeypatch.setattr(resources, "memory_limit", lambda: 64 << 30)
    first, second = create_models(tmp_path, *gpus, config=config)
    assert (first.layout.workers, second.layout.workers) == (2, 1)  # 1.5 GiB each
    assert build_environment(first)["GPU_WORKERS"] == "12"


def test_model_of_a_container_that_is_larger_than_the_gpu_is_named(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"^model a: the files of the model have"):
        create_models(tmp_path, Gpu("NVIDIA L4", 1))


IMPORT = """
import importlib, sys
used = []
def record(frame, event, argument):
    code = frame.f_code
    if event == "call" and "/torch/cuda/" in code.co_filename and code.co_name in NAMES:
        used.append((code.co_name, frame.f_back.f_code.co_filename))
    if event == "c_call" and getattr(argument, "__name__", "").startswith("_cuda_"):
        used.append((argument.__name__, code.co_filename))
NAMES = {"_lazy_init", "init", "is_available", "device_count", "current_device", "get_device_properties", "synchronize"}
sys.setprofile(record)
from serving_worker.fork_server import PRELOADED
for name in PRELOADED:
    importlib.import_module(name)
assert not used, used
sys.modules["torch"].cuda.is_available()
assert used
"""


def test_fork_server_imports_its_modules_without_a_call_of_cuda() -> None:
    """A process cannot use CUDA if the one that it was forked from did."""
    subprocess.run(
        [sys.executable, "-c", IMPORT],
        env=os.environ | {"PYTHONPATH": str(PATCHED_WORKER_HOME)},
        check=True,
        timeout=120,
    )
