"""`make export` selects the fastest way to run a model that keeps its predictions, and measures every model."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from authoring import export as program
from handler.loading import load_model
from project.model_folder import Model
from serving import archive
from task.backends import BACKENDS, measure
from task.backends.choice import read_precisions
from task.backends.measure import Measurements
from task.backends.precision import HALF_PRECISIONS

MODEL = """
import time
import torch
from torch import nn
from task import pad
from task.backends import load_backend

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x, scale=1.0):
        {forward}

class Task:
    {members}
    def __init__(self, folder):
        self.{name} = self.net = Network().eval()
        self.backend = {backend}

    def preprocess(self, instance):
        return torch.tensor(instance)

    def inference(self, batch):
        {inference}

    def postprocess(self, output, parameters):
        return output.tolist()

def load(folder, device):
    return Task(folder)
"""
PARTS = {
    "forward": "return self.layers(x)",
    "members": "",
    "name": "network",
    "backend": "load_backend(self.net, folder, torch.zeros(1, 4))",
    "inference": "return self.backend(batch)",
}
CLASSIFIER = {"members": "labels = ['a', 'b', 'c']"}
CPU = torch.device("cpu")
INSTANCES = ([0.5, 1.0, -1.0, 2.0], [1.0, 0.0, 3.0, 1.0])


def write_model(
    folder: Path, instances: Any = INSTANCES, expected: Any = None, **parts: str
) -> None:
    (folder / "model.py").write_text(MODEL.format(**PARTS | parts))
    rows = [{"instance": each, "expected": expected} for each in instances]
    (folder / "requests.json").write_text(json.dumps(rows))


def export(folder: Path) -> Measurements:
    return program.export(folder, folder, folder / "held-out.json", rounds=2)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Restore the number of threads, which the program changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def add_backend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], Tensor]], None]:
    """Replace the other backends by "quick", the fastest, which changes the network's outputs."""

    def add(change: Callable[[Tensor], Tensor]) -> None:
        for name in [name for name in BACKENDS if name != "eager"]:
            monkeypatch.delitem(BACKENDS, name)
        monkeypatch.setitem(BACKENDS, "quick", lambda net, _: lambda batch: change(net(batch)))
        times_ms = {"eager": 9.0, "quick": 1.0}
        monkeypatch.setattr(
            measure, "measure_ms", lambda backends, *_: {name: times_ms[name] for name in backends}
        )

    return add


@pytest.mark.parametrize(
    ("parts", "factor", "chosen"),
    [
        (CLASSIFIER, 1.01, "quick"),
        (CLASSIFIER, 1.2, "eager"),
        (CLASSIFIER, -1, "eager"),
        ({}, 1.0005, "quick"),
        ({}, 1.01, "eager"),
    ],
    ids=[
        "a classifier keeps its probabilities",
        "other probabilities",
        "other labels",
        "an embedding within 0.1 %",
        "another embedding",
    ],
)
def test_fastest_backend_with_the_same_predictions_is_chosen(
    parts: dict[str, str],
    factor: float,
    chosen: str,
    tmp_path: Path,
    add_backend: Callable[[Callable[[Tensor], Tensor]], None],
) -> None:
    write_model(tmp_path, **parts)
    add_backend(lambda output: output * factor)
    assert export(tmp_path).best == chosen
    assert json.loads((tmp_path / "backend.json").read_text())["backend"] == chosen


def test_backend_that_breaks_requests_json_is_not_chosen(
    tmp_path: Path, add_backend: Callable[[Callable[[Tensor], Tensor]], None]
) -> None:
    write_model(tmp_path, [INSTANCES[0]] * 2, **CLASSIFIER)
    model = load_model(tmp_path, CPU)
    [output] = model.inference(model.preprocess(INSTANCES[0], {})[None])
    write_model(tmp_path, [INSTANCES[0]] * 2, output.tolist(), **CLASSIFIER)
    add_backend(lambda output: output * 1.01)
    measurements = export(tmp_path)
    assert measurements.best == "eager"
    assert "requests.json[0]" in measurements.unavailable["quick"]


@pytest.mark.parametrize(
    ("forward", "tolerance", "expected"),
    [
        ("return self.layers(x)", 0.1, ["float32", "float16", "bfloat16"]),
        ("return self.layers(x)", 1e-3, ["float32", "float16"]),
        ("return self.layers(x) * 1e6 / 1e6", 0.1, ["float32", "bfloat16"]),
        ("return self.layers(x) - self.layers(x + 1e-4)", 0.1, ["float32"]),
    ],
    ids=["both", "requests.json", "values too large for float16", "small differences"],
)
def test_gpu_may_use_the_precisions_that_keep_the_predictions(
    forward: str, tolerance: float, expected: list[str], tmp_path: Path
) -> None:
    write_model(tmp_path, forward=forward, **CLASSIFIER)
    outputs = load_model(tmp_path, CPU).inference(torch.tensor(INSTANCES)).tolist()
    rows = [
        {"instance": instance, "expected": output, "tolerance": tolerance}
        for instance, output in zip(INSTANCES, outputs, strict=True)
    ]
    (tmp_path / "requests.json").write_text(json.dumps(rows))
    measurements = export(tmp_path)
    written = json.loads((tmp_path / "backend.json").read_text())
    assert written["accelerator"] == read_precisions(tmp_path) == expected
    lines = measurements.format_table().splitlines()
    allowed = [name for name in HALF_PRECISIONS if f"on a GPU, {name}: may be used" in lines]
    assert ["float32", *allowed] == expected


def test_precisions_of_a_slow_network_are_compared_on_a_gpu_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MAX_PASS_S", 0.0)
    write_model(tmp_path, **CLASSIFIER)
    assert "too long for a comparison; use --device cuda" in export(tmp_path).precisions["float16"]
    assert read_precisions(tmp_path) == ["float32"]


def test_device_that_is_missing_is_an_error_of_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "--device", "cuda"])
    with pytest.raises(SystemExit):
        program.main()
    assert "--device cuda: torch finds no GPU; it needs" in capsys.readouterr().err


def test_backend_that_no_longer_fits_requests_json_does_not_fail_the_archive(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "numbers"
    folder.mkdir()
    write_model(folder)
    outputs = load_model(folder, CPU).inference(torch.tensor(INSTANCES)).tolist()
    rows = [
        {"instance": instance, "expected": output, "tolerance": 1e-5}
        for instance, output in zip(INSTANCES, outputs, strict=True)
    ]
    model = Model(path=folder, name="numbers", output=tmp_path / "build")
    archive.build(model)
    choice = model.build / "backend.json"
    choice.write_text(
        choice.read_text().replace('"backend": "', '"backend": "scripted bfloat16", "was": "')
    )
    (folder / "requests.json").write_text(json.dumps(rows))
    archive.build(model)
    assert json.loads(choice.read_text())["backend"] != "scripted bfloat16"


@pytest.mark.parametrize(
    "change",
    [lambda output: output * torch.nan, lambda output: output[:1]],
    ids=["NaN", "another number of rows"],
)
def test_backend_with_invalid_outputs_is_not_available(
    change: Callable[[Tensor], Tensor],
    tmp_path: Path,
    add_backend: Callable[[Callable[[Tensor], Tensor]], None],
) -> None:
    write_model(tmp_path, **CLASSIFIER)
    add_backend(change)
    measurements = export(tmp_path)
    assert measurements.best == "eager"
    assert (
        "differ from eager's in shape, or in where they are NaN"
        in (measurements.unavailable["quick"])
    )


def reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"name": "other"}, "no attribute `network`"),
        ({"backend": "self.net"}, "does not call task.backends.load_backend"),
        (
            {"inference": "return self.net(batch, torch.ones(1))"},
            "takes Tensor and Tensor, expected one Tensor",
        ),
        ({"inference": "return self.net(batch, scale=2.0)"}, "takes Tensor and float"),
        (
            {"inference": "return self.net(batch) + self.net(batch)"},
            "calls the network 2 times for an instance",
        ),
        (
            {
                "forward": "return {'a': self.layers(x)}",
                "backend": "self.net  # load_backend()",
                "inference": "return self.net(batch)['a']",
            },
            "returns dict, expected Tensor",
        ),
        (
            {"inference": "return self.backend(batch.repeat(2, 1))[:len(batch)]"},
            "takes (2, 4) and returns (2, 3), expected N first",
        ),
    ],
    ids=[
        "no network",
        "no backend",
        "two tensors",
        "a keyword",
        "two calls",
        "a dict",
        "two rows for an instance",
    ],
)
def test_only_the_time_of_other_models_is_measured_and_the_reason_is_printed(
    parts: dict[str, str], reason: str, tmp_path: Path
) -> None:
    write_model(tmp_path, **parts)
    measurements = export(tmp_path)
    assert list(measurements.by_backend) == ["eager"]
    assert set(measurements.by_backend["eager"].median_ms) == {1, 8, 32}
    assert reason in measurements.format_table()


def test_samples_of_different_lengths_are_measured(tmp_path: Path) -> None:
    parts = {"members": "collate = staticmethod(pad)", "forward": "return x.sum(1, keepdim=True)"}
    write_model(tmp_path, ([1.0, 2.0], [1.0, 2.0, 3.0]), **parts)
    measurements = export(tmp_path)
    assert "differ in shape: (1, 2) and (1, 3)" in measurements.format_table()


def test_network_that_branches_on_its_input_keeps_eager(tmp_path: Path) -> None:
    write_model(tmp_path, forward="return self.layers(x) if x.sum() > 0 else self.layers(-x)")
    measurements = export(tmp_path)
    assert measurements.best == "eager"
    assert "torch.fx cannot trace" in measurements.unavailable["scripted"]


def test_network_that_returns_nan_keeps_eager_and_its_file_is_json(tmp_path: Path) -> None:
    write_model(tmp_path, forward="return self.layers(x) * float('nan')")
    assert export(tmp_path).best == "eager"
    json.loads((tmp_path / "backend.json").read_text(), parse_constant=reject_constant)


def test_slow_model_is_measured_in_a_limited_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MAX_PASS_S", 0.02)
    monkeypatch.setattr(program, "MAX_STEP_S", 0.1)
    write_model(
        tmp_path,
        [INSTANCES[0]] * 50,
        members="passes = []",
        inference="time.sleep(0.04); self.passes.append(len(batch)); return self.backend(batch)",
    )
    measurements = export(tmp_path)
    assert set(measurements.by_backend["eager"].median_ms) == {1}
    assert "a pass takes 0.0 s, too long" in measurements.format_table()
    passes = sys.modules["model"].Task.passes
    assert max(passes) == 1
    assert len(passes) < 10
