"""The NVIDIA GPUs of the machine, as its driver reports them, and whether torch in this image can use them.

It calls the driver's own library, because importing torch takes a second and nvidia-smi may be missing.
"""

import ctypes
import importlib.util
import runpy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from serving.container.errors import StartupError

ACCELERATOR_VARIABLE = "AIP_ACCELERATOR_TYPE"
"""Vertex AI sets it to the type of the machine's accelerator."""
DRIVER_LIBRARY = "libcuda.so.1"
NVIDIA_SMI = "nvidia-smi"
GIB = 1 << 30


class CudaVersion(NamedTuple):
    """A version of CUDA: drivers support one, torch is built for one."""

    major: int
    minor: int

    def __str__(self) -> str:
        """Return the version as NVIDIA writes it."""
        return f"{self.major}.{self.minor}"


class Gpu(NamedTuple):
    """A device."""

    name: str
    memory_bytes: int

    def __str__(self) -> str:
        """Describe the device in the log."""
        return f"{self.name} with {self.memory_bytes / GIB:.1f} GiB"


class NoGpuError(Exception):
    """Why torch cannot use a GPU here."""


def find_gpus(
    environment: Mapping[str, str],
    torch_cuda: CudaVersion | None,
    library: str = DRIVER_LIBRARY,
) -> tuple[list[Gpu], str]:
    """Return the GPUs that torch will use, and a line for the log, which is empty if torch is built for CPUs.

    Raises StartupError if Vertex AI's variable promises a GPU and torch cannot use one: on the CPU it would be slow
    at the price of the GPU.
    """
    promised = environment.get(ACCELERATOR_VARIABLE)
    if torch_cuda is None and not promised:
        return [], ""
    try:
        gpus, driver_cuda = _find_usable(torch_cuda, library, environment.get("PATH", ""))
    except NoGpuError as error:
        if promised:
            raise StartupError(f"{ACCELERATOR_VARIABLE}={promised}, but {error}") from error
        return [], f"serving on the CPU: {error}"
    devices = ", ".join(map(str, gpus))
    return (
        gpus,
        f"serving on {devices}; the driver supports CUDA {driver_cuda}, torch uses {torch_cuda}",
    )


def find_torch_cuda() -> CudaVersion | None:
    """Return the version of CUDA that torch is built for, None if it is built for CPUs, without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))["cuda"]
    return CudaVersion(*map(int, version.split(".")[:2])) if version else None


def _find_usable(
    torch_cuda: CudaVersion | None, library: str, path: str
) -> tuple[list[Gpu], CudaVersion]:
    """Return the driver's devices and its version of CUDA; raise NoGpuError."""
    if torch_cuda is None:
        raise NoGpuError(
            "torch in this image is built for CPUs; build the image with make build GPU=1"
        )
    try:
        driver: Any = ctypes.CDLL(library)
    except OSError as error:
        raise NoGpuError(
            f"the container has no NVIDIA driver ({library}); docker run needs --gpus all, Kubernetes a limit of "
            "nvidia.com/gpu"
        ) from error
    version, count = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    cuda = CudaVersion(version.value // 1000, version.value % 1000 // 10)
    # A driver also runs what was built for a later minor version.
    if cuda.major < torch_cuda.major:
        raise NoGpuError(
            f"the driver supports CUDA {cuda}, and torch in this image needs {torch_cuda}; build the image with a "
            "TORCH for that version and its TORCH_INDEX, as docs/gpu.md describes"
        )
    _call(driver, "cuInit", 0)
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise NoGpuError("the driver has no device")
    if shutil.which(NVIDIA_SMI, path=path) is None:
        raise NoGpuError(f"TorchServe counts the GPUs with {NVIDIA_SMI}, which is not in PATH")
    return [_read_gpu(driver, index) for index in range(count.value)], cuda


def _read_gpu(driver: Any, index: int) -> Gpu:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(100)
    _call(driver, "cuDeviceGet", ctypes.byref(device), index)
    _call(driver, "cuDeviceGetName", name, len(name), device)
    _call(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    return Gpu(name.value.decode(errors="replace"), memory.value)


def _call(driver: Any, function: str, *arguments: Any) -> None:
    """Call a function of the driver; raise NoGpuError with the driver's name of the error."""
    if code := getattr(driver, function)(*arguments):
        name = ctypes.c_char_p()
        driver.cuGetErrorName(code, ctypes.byref(name))
        text = name.value.decode() if name.value else f"error {code}"
        raise NoGpuError(f"the NVIDIA driver's {function} fails: {text}")
