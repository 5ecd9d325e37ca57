"""What the other tests leave out: the calls of CUDA. Run `pytest --noconftest tests/on_gpu.py` with a GPU.

It is not among the tests of CI, whose machines have none. On a machine that can install nothing, what it needs beside
torch is in the folder of `make gpu-packages`, as PYTHONPATH.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from handler import collation
from handler.pass_size import CudaMemory, limit_passes
from serving import gpu
from serving.torchserve import PATCHED_WORKER_HOME
from task.adapter import adapt
from task.backends import cuda, load_backend
from task.backends.accuracy import relative_error
from task.backends.cuda import Cuda
from task.backends.graphs import GraphBackend
from task.backends.precision import HALF_PRECISIONS, build_half, build_rounded
from tests.images import ROOT, request_body
from tests.unit.test_backends import INPUTS, Branching, network
from tests.unit.test_batch import Doubler, predict, predictions

pytestmark = pytest.mark.filterwarnings("default")  # those of another version of torch, too
if not torch.cuda.is_available():
    pytest.exit(f"torch {torch.__version__} finds no GPU: docs/gpu.md#test-coverage-and-limits", 1)
GPU = torch.device("cuda", 0)
EXAMPLE = INPUTS[:1]
MAX_TF32_ERROR = 0.01
"""cuDNN chooses for each batch size whether it computes in TF32, which changes the outputs of this network by 0.002."""


def assert_equal_outputs(backend: object, net: nn.Module, max_error: float) -> None:
    assert callable(backend)
    with torch.inference_mode():
        for count in (1, 2, 3, 7, 32, 33):
            batch = torch.rand(count, *EXAMPLE.shape[1:], device=GPU)
            assert relative_error(backend(batch), net(batch)) < max_error


def test_selected_backend_gives_the_outputs_of_the_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    choice = {"backend": "scripted", "accelerator": ["float32", *HALF_PRECISIONS]}
    (tmp_path / "backend.json").write_text(json.dumps(choice))
    net = network().to(GPU)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert_equal_outputs(load_backend(net, tmp_path, EXAMPLE.to(GPU)), net, 0.05)
    print(caplog.text)
    assert "as another worker has chosen it" in caplog.text


def test_graphs_give_the_outputs_of_the_network_while_other_threads_pin_memory() -> None:
    net, ended = network().to(GPU), threading.Event()

    def pin() -> None:
        size = 1 << 16
        while not ended.wait(0.001):
            size += 1 << 16
            torch.empty(size, pin_memory=True)

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        backend = GraphBackend(net, EXAMPLE.to(GPU), Cuda(GPU))
    finally:
        ended.set()
        thread.join()
    assert_equal_outputs(backend, net, MAX_TF32_ERROR)


def test_network_that_waits_for_the_gpu_runs_without_graphs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        load_backend(Branching(), tmp_path, EXAMPLE.to(GPU))
    assert "eager with CUDA graphs not available: " in caplog.text
    torch.rand(4, device=GPU)


def test_gpu_is_usable_after_a_capture_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_run_without_waiting", lambda _: None)
    accelerator, stream = Cuda(GPU), torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        GraphBackend(Branching(), EXAMPLE.to(GPU), accelerator)
    assert torch.cuda.current_stream() == stream
    accelerator.recover()
    torch.rand(4, device=GPU)
    net = network().to(GPU)
    assert_equal_outputs(GraphBackend(net, EXAMPLE.to(GPU), Cuda(GPU)), net, MAX_TF32_ERROR)


@pytest.mark.parametrize("name", list(HALF_PRECISIONS))
def test_half_precision_rounds_as_its_comparison_on_a_cpu_does(name: str) -> None:
    net, dtype = network(), HALF_PRECISIONS[name]
    half = build_half(net.to(GPU), EXAMPLE, dtype=dtype, is_fused=True)
    with torch.inference_mode():
        actual, rounded = half(INPUTS.to(GPU)), build_rounded(network(), dtype)(INPUTS)
    assert relative_error(actual.cpu(), rounded) < 4 * torch.finfo(dtype).eps


def test_batches_arrive_unchanged() -> None:
    task = adapt(Doubler(), GPU)
    for shape in ((1,), (256, 256)):
        batches = [[torch.rand(shape) for _ in range(4)] for _ in range(20)]
        moved = [collation.build_batch(task, samples) for samples in batches]
        expected: list[Tensor] = [torch.stack(samples) for samples in batches]
        others = [expected[0], torch.rand(1, 1000).expand(1000, 1000), torch.rand(500, 1000).T]
        moved += [collation.move({"x": [other]}, GPU)["x"][0] for other in others]
        for actual, samples in zip(moved, [*expected, *others], strict=True):
            assert actual.device == GPU
            assert torch.equal(actual.cpu(), samples)


def test_passes_are_limited_by_the_memory() -> None:
    class Large(Doubler):
        def inference(self, batch: Tensor) -> Tensor:
            torch.empty(len(batch) << 20, device=batch.device)  # 4 MiB for a sample
            return super().inference(batch)

    task, memory = adapt(Large(), GPU), CudaMemory(GPU)
    limit_passes(task, memory, workers=memory.free_bytes() // (64 << 20))
    assert task.max_samples is not None
    assert 8 <= task.max_samples <= 16


def test_pass_that_needs_too_much_memory_runs_in_halves_and_frees_it() -> None:
    torch.cuda.empty_cache()
    before, (free, _) = torch.cuda.memory_allocated(GPU), torch.cuda.mem_get_info(GPU)

    class Large(Doubler):
        """Needs a third of the free memory for each sample."""

        def inference(self, batch: Tensor) -> Tensor:
            activations = torch.empty(free // 3 * len(batch), dtype=torch.uint8, device=GPU)
            return super().inference(batch) + activations[0] * 0

    task = adapt(Large(), GPU)
    (response,) = predict(task, request_body(1, 2, 3, 4))
    assert predictions(response) == [2, 4, 6, 8]
    assert task.max_samples == 2
    assert torch.cuda.memory_allocated(GPU) == before


BREAK = """
import torch
from serving.worker.serving_worker.device import DeviceError, check_device
values = torch.zeros(1, device="cuda")
check_device()
values[torch.tensor([5], device="cuda")]
try:
    check_device()
except DeviceError as error:
    print(error, flush=True)
"""


def test_kernel_that_fails_is_found_after_the_batch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BREAK],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert "the GPU is broken for this process, which is replaced" in done.stdout, done.stderr


def test_gpus_of_the_driver_are_those_of_torch() -> None:
    torch_cuda = gpu.find_torch_cuda()
    assert torch_cuda is not None
    found, line = gpu.find_gpus(os.environ, torch_cuda)
    print(line, found)
    assert len(found) == torch.cuda.device_count()
    for index, each in enumerate(found):
        expected = torch.cuda.get_device_properties(index)
        assert each.name == expected.name
        assert each.memory_bytes == pytest.approx(expected.total_memory, rel=0.02)


FORK = """
import importlib, os, sys
from serving_worker.device import check_assigned, select_gpu
from serving_worker.fork_server import PRELOADED
for name in PRELOADED:
    importlib.import_module(name)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
import torch
check_assigned(select_gpu(os.environ, f"/worker.{9000 + int(sys.argv[1])}"))
assert torch.cuda.device_count() == 1
torch.rand(64, 64, device="cuda:0").matmul(torch.rand(64, 64, device="cuda:0")).cpu()
free, total = torch.cuda.mem_get_info()
resident = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(f"all processes use {total - free >> 20} MiB of {total >> 20} MiB; this one has {resident}")
"""


def test_forked_worker_uses_the_gpu_that_it_selects() -> None:
    """The printed sizes are what GPU_CONTEXT_BYTES and GPU_WORKER_BYTES of serving/layout.py estimate."""
    torch_cuda = gpu.find_torch_cuda()
    assert torch_cuda is not None
    selectors = [each.selector for each in gpu.find_gpus(os.environ, torch_cuda)[0]]
    packages = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(PATCHED_WORKER_HOME), *packages]),
        "WORKER_GPUS": ";".join(selectors),
        "CUDA_VISIBLE_DEVICES": "0",
    }
    for number in range(len(selectors)):
        command = [sys.executable, "-c", FORK, str(number)]
        subprocess.run(command, env=environment, check=True, timeout=120)
