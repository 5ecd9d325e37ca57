"""The backends run a network faster where they can, with the same predictions everywhere."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from task.backends import BACKENDS, load_backend, loading
from task.backends.measure import Measurement, Measurements, measure_backends

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
        {loading.FILE: {"backend": "scripted"}},
        {loading.OLD_FILE: {"engine": "scripted"}},
        {loading.OLD_FILE: {"engine": "eager"}, loading.FILE: {"backend": "scripted"}},
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
    (tmp_path / loading.FILE).write_text(json.dumps({"backend": name}))
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
    written = json.loads((tmp_path / loading.FILE).read_text())
    assert written["backend"] == measurements.best == loading.read_choice(tmp_path)
    assert set(written["figures"]["backends"]["eager"]["median_ms"]) == {"1", "4"}
    assert "<- chosen" in measurements.format_table()
