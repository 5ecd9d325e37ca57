"""The NVIDIA GPUs of the machine, as its driver reports them, and whether torch can use them.

It calls the driver's own library, because importing torch takes a second and nvidia-smi may be missing.
"""

import ctypes
import importlib.util
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from serving.errors import ServingError

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""Selects the devices that CUDA uses in a process, by their numbers or UUIDs."""
DRIVER_LIBRARY = "libcuda.so.1"
MIN_CAPABILITY = (7, 5)
"""The minimum compute capability for CUDA 13 and later, that of Turing; Volta and Pascal need CUDA 12."""
CAPABILITY_ATTRIBUTES = (75, 76)
"""The driver's numbers of a device's major and minor compute capability."""
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
    selector: str = ""
    """The value of CUDA_VISIBLE_DEVICES that selects only this device; empty if there is no other and no value."""

    def __str__(self) -> str:
        """Describe the device in the log."""
        return f"{self.name} with {self.memory_bytes / GIB:.1f} GiB"


class NoGpuError(ServingError):
    """Why torch cannot use a GPU here."""


class NoDriverError(NoGpuError):
    """The machine has no driver, and so probably no GPU."""


def find_gpus(
    environment: Mapping[str, str], torch_cuda: CudaVersion, library: str = DRIVER_LIBRARY
) -> tuple[list[Gpu], str]:
    """Return the GPUs that torch will use, and a line for the log that names them; raise NoGpuError.

    `torch_cuda` is the version of CUDA that torch is built for.
    """
    try:
        driver: Any = ctypes.CDLL(library)
    except OSError as error:
        if not str(error).startswith(f"{library}: cannot open shared object file"):
            raise NoGpuError(f"the NVIDIA driver cannot be loaded: {error}") from error
        raise NoDriverError(f"there is no NVIDIA driver ({library})") from error
    version, count = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    cuda = CudaVersion(version.value // 1000, version.value % 1000 // 10)
    # A driver also runs what was built for a later minor version.
    if cuda.major < torch_cuda.major:
        raise NoGpuError(
            f"the driver supports CUDA {cuda}, and torch needs {torch_cuda}; use a torch for the driver's version, as "
            "docs/gpu.md describes"
        )
    _call(driver, "cuInit", 0)
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise NoGpuError("the driver has no device")
    selectors = _list_selectors(environment.get(VISIBLE_VARIABLE, ""), count.value)
    gpus = [
        _read_gpu(driver, index, selector, torch_cuda) for index, selector in enumerate(selectors)
    ]
    devices = ", ".join(map(str, gpus))
    return gpus, f"serving on {devices}; the driver supports CUDA {cuda}, torch uses {torch_cuda}"


def share_gpus(gpus: Sequence[Gpu], clients: int) -> list[Gpu]:
    """Return GPUs with the share of their memory that each of `clients` programs may use."""
    return [gpu._replace(memory_bytes=gpu.memory_bytes // clients) for gpu in gpus]


def find_torch_cuda() -> CudaVersion | None:
    """Return the version of CUDA that torch is built for, None if it is built for CPUs, without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))["cuda"]
    return CudaVersion(*map(int, version.split(".")[:2])) if version else None


def _list_selectors(visible: str, count: int) -> list[str]:
    """Return the value of CUDA_VISIBLE_DEVICES that selects each of the devices that it makes visible."""
    if count == 1:  # also if the value has several parts of a GPU (MIG), of which CUDA uses one
        return [visible]
    if not visible:
        return [*map(str, range(count))]
    return [name.strip() for name in visible.split(",")][:count]


def _read_gpu(driver: Any, index: int, selector: str, torch_cuda: CudaVersion) -> Gpu:
    """Return one of the driver's devices; raise NoGpuError if torch's version of CUDA does not support it."""
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    buffer = ctypes.create_string_buffer(100)
    _call(driver, "cuDeviceGet", ctypes.byref(device), index)
    _call(driver, "cuDeviceGetName", buffer, len(buffer), device)
    _call(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    name = buffer.value.decode(errors="replace")
    major, minor = (_read_attribute(driver, device, number) for number in CAPABILITY_ATTRIBUTES)
    if torch_cuda.major >= 13 and (major, minor) < MIN_CAPABILITY:
        raise NoGpuError(
            f"{name} has compute capability {major}.{minor}, and CUDA {torch_cuda} needs 7.5 or more; use a torch for "
            "CUDA 12, as docs/gpu.md describes"
        )
    return Gpu(name, memory.value, selector)


def _read_attribute(driver: Any, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), number, device)
    return value.value


def _call(driver: Any, function: str, *arguments: Any) -> None:
    """Call a function of the driver; raise NoGpuError with the driver's name of the error."""
    if code := getattr(driver, function)(*arguments):
        name = ctypes.c_char_p()
        driver.cuGetErrorName(code, ctypes.byref(name))
        text = name.value.decode() if name.value else f"error {code}"
        raise NoGpuError(f"the NVIDIA driver's {function} fails: {text}")
