"""The GPUs that the container serves on. One that Vertex AI promises must be usable."""

from collections.abc import Mapping

from serving import gpu
from serving.container.errors import StartupError
from serving.gpu import CudaVersion, Gpu, NoDriverError, NoGpuError

ACCELERATOR_VARIABLE = "AIP_ACCELERATOR_TYPE"
"""Vertex AI sets it to the type of the machine's accelerator."""


def find_gpus(
    environment: Mapping[str, str],
    torch_cuda: CudaVersion | None,
    library: str = gpu.DRIVER_LIBRARY,
) -> tuple[list[Gpu], str]:
    """Return the GPUs that torch will use, and a line for the log, which is empty if torch is built for CPUs.

    Raises StartupError if Vertex AI's variable promises a GPU and torch cannot use one: on the CPU it would be slow
    at the price of the GPU.
    """
    promised = environment.get(ACCELERATOR_VARIABLE)
    if torch_cuda is None and not promised:
        return [], ""
    try:
        return _find_usable(environment, torch_cuda, library)
    except NoGpuError as error:
        if promised:
            raise StartupError(f"{ACCELERATOR_VARIABLE}={promised}, but {error}") from error
        return [], f"serving on the CPU: {error}"


def _find_usable(
    environment: Mapping[str, str], torch_cuda: CudaVersion | None, library: str
) -> tuple[list[Gpu], str]:
    """Return what serving.gpu finds; raise NoGpuError with what to do about the container."""
    if torch_cuda is None:
        raise NoGpuError(
            "torch in this image is built for CPUs; build the image with make build GPU=1"
        )
    try:
        return gpu.find_gpus(environment, torch_cuda, library)
    except NoDriverError as error:
        raise NoDriverError(
            f"{error}; docker run needs --gpus all, Kubernetes a limit of nvidia.com/gpu"
        ) from error
