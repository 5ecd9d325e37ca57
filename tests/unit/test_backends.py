"""The backends run a network faster where they can, with the same predictions everywhere."""

import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from task.backends import BACKENDS, choice, device_measure, graphs, load_backend, selection
from task.backends.accuracy import relative_error
from task.backends.cuda import Capture, Cuda
from task.backends.graphs import GraphBackend, plan_sizes
from task.backends.measure import (
    Measurement,
    Measurements,
    compare_precisions,
    describe_error,
    measure_backends,
)
from task.backends.precision import HALF_PRECISIONS, build_half, build_rounded

INPUTS = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    """Return a small network with every kind of layer that is fused or scripted."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 5 * 5, 4),
    )
    net.train()(INPUTS)  # gives the batch norm its statistics
    return net.eval()


class Branching(nn.Module):
    """Branches on its input, so that it cannot be traced."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch if batch.sum() > 0 else -batch


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "scripted bfloat16"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_backend_gives_the_outputs_of_the_network(name: str, size: int) -> None:
    net = network()
    backend = BACKENDS[name](net, INPUTS[:1])
    with torch.inference_mode():
        assert torch.allclose(backend(INPUTS[:size]), net(INPUTS[:size]), atol=1e-5)


def test_building_backends_does_not_change_the_network() -> None:
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for build in BACKENDS.values():
        build(net, INPUTS[:1])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    "files",
    [
        {choice.FILE: {"backend": "scripted"}},
        {choice.OLD_FILE: {"engine": "scripted"}},
        {choice.OLD_FILE: {"engine": "eager"}, choice.FILE: {"backend": "scripted"}},
    ],
    ids=["backend.json", "engine.json", "both"],
)
def test_chosen_backend_is_loaded(files: dict[str, object], tmp_path: Path) -> None:
    for name, document in files.items():
        (tmp_path / name).write_text(json.dumps(document))
    backend = load_backend(network(), tmp_path, INPUTS[:1])
    assert isinstance(backend, torch.jit.ScriptModule)


def test_bfloat16_does_not_round_token_ids() -> None:
    net = nn.Sequential(nn.Embedding(1001, 4), nn.Flatten(), nn.Linear(8, 2)).eval()
    tokens = torch.tensor([[1000, 999], [997, 3]])
    backend = BACKENDS["scripted bfloat16"](net, tokens[:1])
    with torch.inference_mode():
        assert torch.allclose(backend(tokens), net(tokens), atol=0.05)


@pytest.mark.parametrize("name", ["unknown", "inaccurate", "branching", "NaN", "failing"])
def test_unavailable_or_inaccurate_backend_is_replaced_by_eager(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(BACKENDS, "inaccurate", lambda net, _: lambda batch: net(batch) * 1.1)
    monkeypatch.setitem(BACKENDS, "NaN", lambda net, _: lambda batch: net(batch) * torch.nan)
    monkeypatch.setitem(BACKENDS, "failing", lambda net, _: lambda batch: net(batch)["x"])
    monkeypatch.setitem(BACKENDS, "branching", lambda _, x: BACKENDS["scripted"](Branching(), x))
    (tmp_path / choice.FILE).write_text(json.dumps({"backend": name}))
    net = network()
    with caplog.at_level(logging.WARNING):
        assert load_backend(net, tmp_path, INPUTS[:1]) is net
    assert repr(name) in caplog.text


def test_fastest_accurate_backend_is_chosen() -> None:
    by_backend = {
        "eager": Measurement({1: 9.0}, 0, 0),
        "fused": Measurement({1: 5.0}, 1e-6, 0),
        "another label": Measurement({1: 1.0}, 1e-6, 1),
        "another probability": Measurement({1: 1.0}, 0.02, 0),
    }
    measurements = Measurements(by_backend, {})
    assert measurements.best == "fused"
    rejected = measurements.reject("fused", "another prediction")
    assert rejected.best == "eager"
    assert "fused                  not available: another prediction" in rejected.format_table()


def test_choice_and_measurements_are_written(tmp_path: Path) -> None:
    measurements = measure_backends(network(), INPUTS, (1, 4), rounds=2)
    measurements.write(tmp_path)
    written = json.loads((tmp_path / choice.FILE).read_text())
    assert written["backend"] == measurements.best == choice.read_choice(tmp_path)
    assert set(written["figures"]["backends"]["eager"]["median_ms"]) == {"1", "4"}
    assert "<- chosen" in measurements.format_table()


@pytest.mark.parametrize("name", list(HALF_PRECISIONS))
def test_rounding_in_float32_changes_the_outputs_as_half_precision_does(name: str) -> None:
    net, dtype = network(), HALF_PRECISIONS[name]
    half = build_half(net, INPUTS[:1], dtype=dtype, is_fused=False)
    with torch.inference_mode():
        exact, rounded, actual = net(INPUTS), build_rounded(net, dtype)(INPUTS), half(INPUTS)
    assert rounded.dtype == actual.dtype == torch.float32
    error = relative_error(rounded, exact)
    assert torch.finfo(dtype).eps / 100 < error < 2 * torch.finfo(dtype).eps
    assert relative_error(rounded, actual) < torch.finfo(dtype).eps


@pytest.mark.parametrize("name", list(HALF_PRECISIONS))
def test_rounding_of_a_transformer_reaches_the_operations_within_a_layer(name: str) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), torch.rand(4, 7, 32)
    net, dtype = nn.TransformerEncoder(layer, 2).eval(), HALF_PRECISIONS[name]
    half = build_half(net, inputs[:1], dtype=dtype, is_fused=False)
    with torch.inference_mode():
        exact, rounded, actual = net(inputs), build_rounded(net, dtype)(inputs), half(inputs)
    assert relative_error(rounded, exact) > relative_error(actual, exact) * 0.6
    assert torch.backends.mha.get_fastpath_enabled()


def test_rounding_changes_tensors_in_place_and_leaves_views_and_integers_as_they_are() -> None:
    class Steps(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            values = torch.zeros(len(tokens), 2)
            values[:, 0].add_(1.0001)
            values[:, 1] += tokens[:, 0]
            return values

    output = build_rounded(Steps(), torch.bfloat16)(torch.tensor([[1000], [256]]))
    assert output.tolist() == [[1.0, 1000.0], [1.0, 256.0]]


def test_precision_whose_range_is_too_small_is_not_used() -> None:
    class Large(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return (batch * 1e6) / 1e6

    reasons = compare_precisions(Large(), INPUTS)
    assert reasons["float32"] == ""
    assert "differ by up to inf" in reasons["float16"]
    assert "inf" not in reasons["bfloat16"]


class CpuAccelerator(Cuda):
    """Takes the place of a GPU: a capture is the function itself, whose output always has the same memory."""

    name = "a device"

    def __init__(self, error: Exception | None = None) -> None:
        """`error` is what captures raise."""
        self.error, self.recoveries, self.replays = error, 0, 0

    def synchronize(self) -> None:
        """Return at once: nothing runs meanwhile."""

    def release_memory(self) -> None:
        """Keep nothing, as the CPU does."""

    def recover(self) -> None:
        self.recoveries += 1

    def capture(self, function: Callable[[], Tensor]) -> Capture:
        if self.error is not None:
            raise self.error
        output = function()

        def replay() -> None:
            self.replays += 1
            output.copy_(function())

        return Capture(replay, output)


@pytest.fixture
def graph_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pass with a graph take half of the time of one without."""
    times_ms = itertools.cycle([2.0, 1.0])
    monkeypatch.setattr(graphs, "time_pass", lambda function, *_: (function(), next(times_ms))[1])


@pytest.mark.usefixtures("graph_is_faster")
def test_graph_gives_the_outputs_of_the_network_for_every_batch_size() -> None:
    net, accelerator = network(), CpuAccelerator()
    backend = GraphBackend(net, INPUTS[:1], accelerator)
    accelerator.replays = 0
    batches = [torch.rand(count, 3, 12, 12) for count in (1, 2, 3, 31, 32, 33)]
    with torch.inference_mode():
        outputs = [backend(batch) for batch in batches]
        assert accelerator.replays == 5
        for output, batch in zip(outputs, batches, strict=True):
            assert torch.allclose(output, net(batch), atol=1e-5)


@pytest.mark.usefixtures("graph_is_faster")
def test_other_shapes_types_and_gradients_need_no_graph() -> None:
    accelerator = CpuAccelerator()
    backend = GraphBackend(nn.Softmax(-1), torch.rand(1, 4), accelerator)
    accelerator.replays = 0
    assert backend(torch.rand(2, 5)).shape == (2, 5)
    assert backend(torch.rand(2, 4).double()).dtype is torch.float64
    batch = torch.rand(2, 4, requires_grad=True)
    torch.autograd.grad(backend(batch)[:, 0].sum(), batch)
    assert accelerator.replays == 0
    backend(torch.rand(2, 4))
    assert accelerator.replays == 1


def test_graph_whose_memory_the_network_has_replaced_is_not_used() -> None:
    class Caching(nn.Module):
        """Keeps a tensor for the last batch size, as some networks keep positions."""

        positions = torch.zeros(0)

        def forward(self, batch: Tensor) -> Tensor:
            if len(self.positions) != len(batch):
                self.positions.resize_(0).resize_(len(batch), 1)
                self.positions.copy_(torch.arange(len(batch))[:, None])
            return batch + self.positions

    class Recording(CpuAccelerator):
        def capture(self, function: Callable[[], Tensor]) -> Capture:
            output = function()
            return Capture(lambda: None, output)  # the kernels read what is freed

    with pytest.raises(RuntimeError, match="the outputs of a graph for 32 instances differ"):
        GraphBackend(Caching(), torch.rand(1, 4), Recording())


@pytest.mark.parametrize(
    ("plain_ms", "graph_ms", "expected"),
    [
        ({1: 5, 2: 5, 4: 5}, {1: 1, 2: 1, 4: 1}, {1: 1, 2: 2, 3: 4, 4: 4}),
        ({1: 2, 2: 2, 4: 8}, {1: 1, 2: 1, 4: 7}, {1: 1, 2: 2, 4: 4}),
        ({1: 1, 2: 2, 4: 4}, {1: 2, 2: 3, 4: 5}, {}),
    ],
    ids=["starting kernels takes all the time", "padding costs more than it saves", "slower"],
)
def test_batch_is_padded_only_if_that_is_faster(
    plain_ms: dict[int, float], graph_ms: dict[int, float], expected: dict[int, int]
) -> None:
    assert plan_sizes(plain_ms, graph_ms) == expected


@pytest.fixture
def passes_ms(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Return the milliseconds of a pass by the type of the backend, to be changed; others take 9."""
    times_ms: dict[str, float] = {"GraphBackend": 5.0, "GraphModule": 6.0}

    def measure(function: Any, *_: object) -> float:
        function()
        return times_ms.get(type(function.func).__name__, 9.0)

    monkeypatch.setattr(device_measure, "time_pass", measure)
    monkeypatch.setattr(device_measure, "GraphBackend", FakeGraphBackend)
    return times_ms


class FakeGraphBackend(GraphBackend):
    """Captures, but does not compare times."""

    def _select(self, captures: Mapping[int, Capture], _: object) -> Mapping[int, Capture]:
        return captures


FakeGraphBackend.__name__ = "GraphBackend"


def select(folder: Path, accelerator: CpuAccelerator, *precisions: str) -> Any:
    return selection.select_backend(
        network(), folder, INPUTS[:1], precisions or ("float32",), accelerator
    )


@pytest.mark.usefixtures("passes_ms")
def test_first_worker_measures_and_the_others_take_its_choice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        backend = select(tmp_path, CpuAccelerator())
        assert isinstance(backend, GraphBackend)
        assert (
            "backend 'fused with CUDA graphs' on a device; milliseconds for 1, 8, 32 instances: "
            "eager 9.00, 9.00, 9.00; fused 6.00, 6.00, 6.00; fused with CUDA graphs 5.00"
            in caplog.text
        )
        monkeypatch.delattr(selection, "measure_on_device")
        assert isinstance(select(tmp_path, CpuAccelerator()), GraphBackend)
    assert "as another worker has chosen it" in caplog.text


def test_half_precision_is_used_only_where_it_keeps_the_predictions(
    tmp_path: Path, passes_ms: dict[str, float]
) -> None:
    passes_ms["function"] = 1.0  # the type of the half precisions
    passes_ms["GraphBackend"] = 8.0
    assert type(select(tmp_path, CpuAccelerator())).__name__ == "GraphModule"
    backend = select(tmp_path, CpuAccelerator(), "float32", "float16")
    assert type(backend).__name__ == "function"
    assert isinstance(select(tmp_path, CpuAccelerator(), "bfloat16")(INPUTS), Tensor)


def test_gpu_without_allowed_precisions_runs_the_network_as_it_is(tmp_path: Path) -> None:
    net = network()
    assert selection.select_backend(net, tmp_path, INPUTS[:1], [], CpuAccelerator()) is net


@pytest.mark.usefixtures("passes_ms")
@pytest.mark.parametrize(
    "error",
    [RuntimeError("called a synchronizing CUDA operation"), torch.OutOfMemoryError("2 GiB")],
    ids=["waits for the device", "needs too much memory"],
)
def test_network_that_cannot_be_captured_runs_without_graphs(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    accelerator = CpuAccelerator(error)
    with caplog.at_level(logging.INFO):
        assert type(select(tmp_path, accelerator)).__name__ == "GraphModule"
    assert f"fused with CUDA graphs not available: {error}" in caplog.text
    assert accelerator.recoveries == 1


@pytest.mark.usefixtures("passes_ms")
def test_worker_that_cannot_build_the_choice_of_another_uses_the_network_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    select(tmp_path, CpuAccelerator())
    accelerator = CpuAccelerator(torch.OutOfMemoryError("2 GiB"))
    assert isinstance(select(tmp_path, accelerator), nn.Sequential)
    assert accelerator.recoveries == 1
    text = "backend 'fused with CUDA graphs' is not available, using 'eager': 2 GiB"
    assert text in caplog.text


@pytest.mark.usefixtures("passes_ms")
def test_backend_that_ends_the_process_is_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        select(tmp_path, CpuAccelerator(KeyboardInterrupt()))  # type: ignore[arg-type]
    assert isinstance(select(tmp_path, CpuAccelerator()), nn.Sequential)
    assert "backend 'eager': an earlier measurement did not end" in caplog.text


def test_network_that_fails_for_the_example_runs_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net, example = network(), torch.zeros(1, 4)
    for _ in range(2):
        backend = selection.select_backend(net, tmp_path, example, ["float32"], CpuAccelerator())
        assert backend is net
    assert caplog.text.count("backend 'eager': the network fails for 1 times the example: ") == 2


@pytest.mark.usefixtures("passes_ms")
def test_sizes_for_which_the_network_has_too_little_memory_are_not_timed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Large(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            if len(batch) > 8:
                raise torch.OutOfMemoryError("2 GiB")
            return batch

    with caplog.at_level(logging.INFO):
        selection.select_backend(Large(), tmp_path, INPUTS[:1], ["float32"], CpuAccelerator())
    assert "milliseconds for 1, 8 instances: eager 9.00, 9.00;" in caplog.text


def test_reason_of_an_error_is_one_line() -> None:
    text = "CUDA error: operation not permitted\nSearch for it in the manual\nCompile with DSA"
    assert describe_error(RuntimeError(text)) == "CUDA error: operation not permitted"
    assert describe_error(RuntimeError("Traceback of TorchScript:\n  x\nunknown")) == "unknown"
    assert describe_error(ValueError()) == "ValueError"


@pytest.fixture
def precise() -> Iterator[None]:
    """Allow TF32 again after a test."""
    before = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("precise")
def test_selection_is_restricted_to_float32_and_then_to_the_network_as_it_is(
    tmp_path: Path, passes_ms: dict[str, float]
) -> None:
    passes_ms |= {"function": 1.0, "GraphBackend": 8.0}
    types = []
    for _ in range(3):
        types.append(type(select(tmp_path, CpuAccelerator(), "float32", "float16")).__name__)
        is_restricted = selection.restrict_selection(tmp_path)
        assert not torch.backends.cudnn.allow_tf32
    assert types == ["function", "GraphModule", "Sequential"]
    assert not is_restricted


@pytest.mark.usefixtures("precise")
def test_only_tf32_is_restricted_for_a_model_without_backends(tmp_path: Path) -> None:
    assert selection.restrict_selection(tmp_path)
    assert not selection.restrict_selection(tmp_path)


@pytest.mark.usefixtures("passes_ms")
def test_worker_whose_folder_is_read_only_measures_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(select(tmp_path / "missing", CpuAccelerator()), GraphBackend)
    assert "this worker measures alone" in caplog.text


def test_only_one_worker_measures_at_a_time(tmp_path: Path) -> None:
    entered = threading.Event()

    def enter() -> None:
        with selection.lock_folder(tmp_path):
            entered.set()

    with selection.lock_folder(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(5)
    thread.join()
