"""On a GPU the samples of a pass are limited by its memory, and copied from pinned memory."""

import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from handler import collation, pass_size
from handler.splitting import split_output
from task.adapter import adapt
from tests.unit.test_batch import Doubler, SmallDevice


class CountedMemory(pass_size.CudaMemory):
    """Takes the place of a GPU's memory: each sample of a task's last pass needs some of it, and each pass, too."""

    def __init__(self, task: Doubler, free: int, per_sample: int, per_pass: int = 0) -> None:
        self.task, self.free, self.per_sample, self.per_pass = task, free, per_sample, per_pass

    def free_bytes(self) -> int:
        return self.free

    def release(self) -> None:
        """Keep nothing."""

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        function()
        return self.per_pass + self.per_sample * self.task.passes[-1]


class Timed(Doubler):
    """A task of which a pass takes a time for itself and for each sample, as its clock measures it."""

    def __init__(self, pass_ms: float, sample_ms: float) -> None:
        super().__init__()
        self.pass_ms, self.sample_ms, self.clock_ms = pass_ms, sample_ms, 0.0

    def inference(self, batch: Tensor) -> Tensor:
        self.clock_ms += self.pass_ms + self.sample_ms * len(batch)
        return super().inference(batch)


@pytest.mark.parametrize(
    ("cost_ms", "memory", "expected", "measured"),
    [
        ((10, 0), (1000_000, 1), 512, 512),
        ((10, 0), (1000, 1), 100, 64),
        ((10, 0), (1000, 2), 50, 32),
        ((1, 1), (1000_000, 1), 32, 256),
        ((0, 100), (1000_000, 1), 2, 4),
        ((1000, 0), (1000, 1), 100, 1),
        ((10, 0), (5, 1), 1, 1),
    ],
    ids=[
        "all the memory",
        "little memory",
        "memory for two workers",
        "32 are as fast as more",
        "larger passes take too long",
        "even one takes long",
        "memory for less than one",
    ],
)
def test_gpu_has_passes_that_fit_into_its_memory_and_are_as_fast_as_larger_ones(
    cost_ms: tuple[float, float],
    memory: tuple[int, int],
    expected: int,
    measured: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, (free, workers) = Timed(*cost_ms), memory
    task = adapt(plain)
    monkeypatch.setattr(time, "perf_counter", lambda: plain.clock_ms / 1000)
    pass_size.limit_passes(task, CountedMemory(plain, free, 10), workers)
    assert task.max_samples == expected
    assert max(plain.passes) == measured
    assert len(plain.passes) <= 40
    assert plain.clock_ms < 2500


def test_samples_of_different_size_share_a_pass_if_their_padding_takes_less_time_than_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Texts(Timed):
        def size(self, _: object) -> int:
            return 4

    plain = Texts(pass_ms=10, sample_ms=0.1)
    task = adapt(plain)
    samples = [torch.zeros(1)] * 4

    def plan(sizes: list[float]) -> list[list[int]]:
        return collation.plan_passes(task, samples, [0, 1, 2, 3], sizes)

    assert plan([1, 100, 1, 3]) == [[0, 2], [3], [1]]
    monkeypatch.setattr(time, "perf_counter", lambda: plain.clock_ms / 1000)
    with caplog.at_level(logging.INFO):
        pass_size.limit_passes(task, CountedMemory(plain, 1000_000, 10), 1)
    assert "padding of 404 takes as long as another pass" in caplog.text
    assert plan([1, 100, 1, 3]) == [[0, 2, 3, 1]]
    assert plan([1, 200, 1, 3]) == [[0, 2, 3], [1]]


@pytest.mark.parametrize(
    ("times_ms", "expected"),
    [({1: 2.0, 11: 4.0}, 50), ({1: 2.0}, 0), ({1: 2.0, 512: 1.9}, float("inf"))],
    ids=["growing", "one measurement", "not growing"],
)
def test_padding_is_compared_with_a_pass_by_the_growth_of_its_time(
    times_ms: dict[int, float], expected: float
) -> None:
    assert collation.find_max_padding(times_ms, size=5) == expected


def test_pass_that_does_not_fit_limits_later_ones_to_the_largest_that_did(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SmallDevice()
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) / 1000)
    task = adapt(plain)
    with caplog.at_level(logging.INFO):
        pass_size.limit_passes(task, CountedMemory(plain, 3 << 30, 1), 2)
    assert "a pass has at most 4 samples; measured 1: 1.0 ms, 2: 1.0 ms, 4: 1.0 ms" in caplog.text
    assert "share of the free memory is 1.5 GiB" in caplog.text
    assert plain.passes[-1] == 8
    assert task.max_samples == 4


def test_model_that_takes_lists_or_fails_has_no_measured_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Texts(Doubler):
        def preprocess(self, *_: object) -> Any:
            return object()

    class Failing(Doubler):
        def inference(self, *_: object) -> Tensor:
            raise RuntimeError("broken")

    for plain in (Texts(), Failing()):
        task = adapt(plain)
        with caplog.at_level(logging.INFO):
            pass_size.limit_passes(task, CountedMemory(plain, 1000, 1), 1)
        assert task.max_samples is None
    assert "not limited by a measurement: the model takes a list of samples" in caplog.text
    assert "not limited by a measurement: broken" in caplog.text


@pytest.mark.parametrize(("text", "expected"), [("", 1), ("3", 3)])
def test_variable_has_the_number_of_workers(
    text: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pass_size.WORKERS, text)
    assert pass_size.read_workers() == expected
    monkeypatch.setenv(pass_size.WORKERS, "0")
    with pytest.raises(ValueError, match="GPU_WORKERS: expected a whole number of 1 or more"):
        pass_size.read_workers()


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[int, ...]]]:
    """Let the device "meta" take the place of a GPU; return the shapes that are allocated and copied for it."""
    shapes: dict[str, list[tuple[int, ...]]] = {"allocated": [], "copied": []}

    def allocate(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        shapes["allocated"].append(shape)
        return torch.empty(shape, dtype=dtype)

    def pin(tensor: Tensor) -> Tensor:
        shapes["copied"].append(tuple(tensor.shape))
        return tensor

    monkeypatch.setattr(collation, "_is_cuda", lambda device: str(device) == "meta")
    monkeypatch.setattr(collation, "_allocate_pinned", allocate)
    monkeypatch.setattr(collation, "_pin", pin)
    return shapes


def test_samples_are_stacked_into_pinned_memory(
    pinned: dict[str, list[tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = adapt(Doubler(), "meta")
    samples = [torch.full((64, 64), float(value)) for value in range(8)]
    assert collation.build_batch(task, samples).device.type == "meta"
    assert pinned["allocated"] == [(8, 64, 64)]
    monkeypatch.setattr(collation, "move", lambda batch, _: batch)
    assert torch.equal(collation.build_batch(task, samples), torch.stack(samples))


def test_batch_for_which_much_memory_would_be_kept_is_not_pinned(
    pinned: dict[str, list[tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collation, "MAX_PINNED_BYTES", 1 << 20)
    collation.build_batch(adapt(Doubler(), "meta"), [torch.zeros(1 << 16)] * 5)
    assert pinned == {"allocated": [], "copied": []}


def test_large_tensors_in_structures_are_pinned_and_small_ones_are_not(
    pinned: dict[str, list[tuple[int, ...]]],
) -> None:
    large, small = torch.zeros(100, 1000), torch.zeros(10)

    class Encoding(dict[str, Tensor]):
        device = ""

        def to(self, device: str) -> "Encoding":
            self.device = device
            return self

    value = {"a": large, "b": (small, [large.bool()]), "c": "text", "d": Encoding(x=large)}
    moved = collation.move(value, "meta")
    assert moved["a"].device.type == moved["b"][0].device.type == "meta"
    assert moved["b"][1][0].dtype is torch.bool
    assert moved["c"] == "text"
    assert moved["d"].device == "meta"
    assert pinned["copied"] == [(100, 1000), (100, 1000)]
    collation.move(large, "cpu")
    assert len(pinned["copied"]) == 2


def test_output_is_copied_to_the_cpu_once_for_each_tensor_of_the_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies: list[tuple[int, ...]] = []

    def copy(tensor: Tensor) -> Tensor:
        copies.append(tuple(tensor.shape))
        return tensor

    monkeypatch.setattr(Tensor, "cpu", copy)
    rows = split_output({"a": torch.zeros(3, 2), "b": (torch.zeros(3), torch.ones(3))}, 3)
    assert copies == [(3, 2), (3,), (3,)]
    assert rows[2]["b"][1] == 1
