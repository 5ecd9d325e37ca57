"""The layout of a model on a machine: workers, threads, batches, and the size of Java's heap."""

from collections.abc import Sequence
from typing import NamedTuple

from serving import resources
from serving.errors import ServingError
from serving.gpu import Gpu

WORKER_BYTES = 600 << 20
"""What one worker with torch and a small model may grow to."""
FRONTEND_BYTES = 500 << 20
"""What Java and the other processes need beside the workers."""
MIN_HEAP_BYTES, MAX_HEAP_BYTES = 128 << 20, 512 << 20

MIN_PARALLEL_MS = 4
"""Inference that takes this long on one thread is faster on several."""
MAX_THREADS = 4
"""Threads per worker; more gain less than another worker does."""
MAX_BATCH_REQUESTS = 32
MAX_BATCH_MS = 250
"""The time for one batch: requests that arrive while it runs wait for all of it."""

WORKERS_PER_GPU = 2
"""One preprocesses while the other computes."""
GPU_GATHER_MS = 2
"""How long a request waits for as many others as the batch before had: a GPU computes a larger batch in almost the
same time. On a simulated device it gave 3 to 13 % more than no wait, and longer waits gave no more."""
GPU_WORKER_BYTES = 2 << 30
"""What a worker that uses CUDA may grow to in the container's memory, beside the model's files: CUDA's libraries, and
buffers for the device. An estimate, which was not measured."""
GPU_CONTEXT_BYTES = 512 << 20
"""What CUDA's context and libraries need of a GPU's memory for each worker. An estimate, which was not measured."""
GPU_PASS_BYTES = 1 << 30
"""What the tensors of a pass may need of a GPU's memory; a pass that needs more is split. An estimate, too."""


class LayoutError(ServingError):
    """The models do not fit into the memory."""


class Machine(NamedTuple):
    """What the workers of one or several models share."""

    cores: int
    memory_bytes: int
    gpus: Sequence[Gpu] = ()
    """The devices that the models use; empty: the CPU."""

    def __str__(self) -> str:
        """Return the number of cores, and the GPUs if there are some."""
        gpus = f" and {describe_gpus(len(self.gpus), join_names(self.gpus))}" if self.gpus else ""
        return f"{self.cores} cores{gpus}"


def read_machine(gpus: Sequence[Gpu] = ()) -> Machine:
    """Return this machine as this process may use it, with the GPUs that were found."""
    memory_bytes = resources.memory_limit() or resources.physical_memory()
    return Machine(resources.cores(), memory_bytes, gpus)


class Layout(NamedTuple):
    """How a model's work is distributed over the cores."""

    workers: int
    threads: int
    """OpenMP threads of each worker. If workers x threads is more than the cores, a worker uses fewer while others
    are busy: more threads would compete for the cores."""
    batch_size: int = MAX_BATCH_REQUESTS
    """The most requests in one batch."""
    batch_delay_ms: int = 0
    """How long a request waits for others to fill a batch; 0 batches only what is queued already."""
    source: str = "default"
    """What the layout was chosen by, for the log."""

    def __str__(self) -> str:
        """Describe the layout in one line of the log."""
        return (
            f"{self.workers} workers x {self.threads} threads, batches of up to {self.batch_size}"
            f" requests, batch delay {self.batch_delay_ms} ms ({self.source})"
        )


def choose_layout(machine: Machine, inference_ms: float = 0, model_bytes: int = 0) -> Layout:
    """Return the layout for a machine, on its GPUs if it has some; raise LayoutError.

    The other parameters are those of choose_cpu_layout.
    """
    if machine.gpus:
        return choose_gpu_layout(machine, model_bytes)
    return choose_cpu_layout(machine.cores, machine.memory_bytes, inference_ms, model_bytes)


def choose_cpu_layout(
    cores: int, memory_bytes: int | None, inference_ms: float = 0, model_bytes: int = 0
) -> Layout:
    """Return the layout for a number of cores and a memory limit (None: no limit).

    `inference_ms` is the time of one instance on one thread, 0 if unknown; `model_bytes` is the size of the
    model's files. Each core gets a worker. Below MIN_PARALLEL_MS a second thread costs more than it gains.
    Slower inference is split over the cores of the workers that are idle, so that a single client is answered
    sooner; the busy ones share the cores.
    """
    workers = max(min(cores, max_cpu_workers(cores, memory_bytes, model_bytes)), 1)
    share = max(cores // workers, 1)
    if not inference_ms:
        return Layout(workers, share)
    threads = max(share, min(cores, MAX_THREADS) if inference_ms >= MIN_PARALLEL_MS else 1)
    batch_size = max(int(MAX_BATCH_MS * share / inference_ms), 1)
    return Layout(workers, threads, min(batch_size, MAX_BATCH_REQUESTS))


def choose_gpu_layout(machine: Machine, model_bytes: int = 0) -> Layout:
    """Return the layout of a model on the machine's GPUs; raise LayoutError if the model is larger than one of them.

    A GPU has WORKERS_PER_GPU workers, or as many as fit into its memory and into the container's.
    """
    gpus = machine.gpus
    smallest = min(gpus, key=lambda gpu: gpu.memory_bytes)
    if model_bytes > smallest.memory_bytes:
        raise LayoutError(
            f"the files of the model have {model_bytes >> 20} MiB, and {smallest.name} has a memory of "
            f"{smallest.memory_bytes >> 20} MiB: use a GPU with more memory, or a smaller model"
        )
    wanted = WORKERS_PER_GPU * len(gpus)
    workers = min(wanted, machine.cores, max_gpu_workers(machine, model_bytes))
    source = f"default for {describe_gpus(len(gpus), join_names(gpus))}"
    if workers < wanted:
        source += f", {wanted} workers need more cores or memory"
    threads = max(machine.cores // workers, 1)
    return Layout(workers, threads, source=source)


def describe_gpus(count: int, names: str) -> str:
    """Return a text for a number of GPUs."""
    return f"{count} GPU{'s' * (count > 1)} ({names})" if count else "no GPU"


def join_names(gpus: Sequence[Gpu]) -> str:
    """Return the different names of GPUs."""
    return ", ".join(sorted({gpu.name for gpu in gpus}))


def max_workers(machine: Machine, model_bytes: int = 0) -> int:
    """Return how many workers fit into the memory of a machine, and into that of its GPUs if it has some."""
    if machine.gpus:
        return max_gpu_workers(machine, model_bytes)
    return max_cpu_workers(machine.cores, machine.memory_bytes, model_bytes)


def max_gpu_workers(machine: Machine, model_bytes: int = 0) -> int:
    """Return how many workers fit into the memory of the machine and of its GPUs; at least one."""
    smallest = min(gpu.memory_bytes for gpu in machine.gpus)
    workers = len(machine.gpus) * max(smallest // gpu_bytes(model_bytes), 1)
    free = machine.memory_bytes - FRONTEND_BYTES
    return max(min(workers, free // worker_bytes(model_bytes, on_gpu=True)), 1)


def gpu_bytes(model_bytes: int) -> int:
    """Return what a worker needs of a GPU's memory. A second form of the model, for a faster backend, is in it too."""
    return GPU_CONTEXT_BYTES + GPU_PASS_BYTES + 2 * model_bytes


def max_cpu_workers(cores: int, memory_bytes: int | None, model_bytes: int = 0) -> int:
    """Return how many workers fit into the memory; one per core if it is not limited."""
    if memory_bytes is None:
        return cores
    return max((memory_bytes - FRONTEND_BYTES) // worker_bytes(model_bytes), 1)


def worker_bytes(model_bytes: int, *, on_gpu: bool = False) -> int:
    """Return what a worker may grow to in the container's memory.

    On the CPU a model may be twice as large as its files, for example in a second form for a faster backend.
    """
    return GPU_WORKER_BYTES + model_bytes if on_gpu else WORKER_BYTES + 2 * model_bytes


def heap_bytes(memory_bytes: int | None) -> int:
    """Return the size of Java's heap: a quarter of the memory, within fixed limits."""
    if memory_bytes is None:
        return MAX_HEAP_BYTES
    return min(max(memory_bytes // 4, MIN_HEAP_BYTES), MAX_HEAP_BYTES)
