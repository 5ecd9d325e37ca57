"""The engine that runs a network: fast where it can be, the same answers everywhere."""

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import task.backends
from task.backends import CANDIDATES, choice, measure
from task.backends.measure import Trial, Trials

INPUTS = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    """Return a small network with all that is folded and scripted."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 5 * 5, 4),
    )
    net.train()(INPUTS)  # so that its batch norm has seen something
    return net.eval()


class Branching(nn.Module):
    """Does as its input says, which cannot be traced."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch if batch.sum() > 0 else -batch


@pytest.mark.parametrize("name", [name for name in CANDIDATES if name != "scripted bfloat16"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_an_engine_answers_as_the_network_does(name: str, size: int) -> None:
    net = network()
    made = CANDIDATES[name](net, INPUTS[:1])
    with torch.inference_mode():
        assert torch.allclose(made(INPUTS[:size]), net(INPUTS[:size]), atol=1e-5)


def test_the_networks_own_weights_stay_as_they_are() -> None:
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for build in CANDIDATES.values():
        build(net, INPUTS[:1])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_the_engine_that_was_chosen_runs(tmp_path: Path) -> None:
    (tmp_path / choice.FILE).write_text(json.dumps({"engine": "scripted"}))
    made = task.backends.ready(network(), tmp_path, INPUTS[:1])
    assert isinstance(made, torch.jit.ScriptModule)


@pytest.mark.parametrize("why", ["unknown", "off", "branching"])
def test_an_engine_that_cannot_be_trusted_here_gives_way_to_eager(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(CANDIDATES, "off", lambda net, _: lambda batch: net(batch) * 1.1)
    monkeypatch.setitem(
        CANDIDATES, "branching", lambda _, x: CANDIDATES["scripted"](Branching(), x)
    )
    (tmp_path / choice.FILE).write_text(json.dumps({"engine": why}))
    net = network()
    with caplog.at_level(logging.WARNING):
        assert task.backends.ready(net, tmp_path, INPUTS[:1]) is net
    assert repr(why) in caplog.text


def test_the_fastest_that_keeps_the_answers_is_chosen() -> None:
    done = {
        "eager": Trial({1: 9.0}, 0, 0),
        "fused": Trial({1: 5.0}, 1e-6, 0),
        "another label": Trial({1: 1.0}, 1e-6, 1),
        "another probability": Trial({1: 1.0}, 0.02, 0),
    }
    assert Trials(done, {}).best == "fused"


def test_the_choice_and_its_figures_are_written_down(tmp_path: Path) -> None:
    trials = measure.measure(network(), INPUTS, (1, 4), rounds=2)
    trials.write(tmp_path)
    written = json.loads((tmp_path / choice.FILE).read_text())
    assert written["engine"] == trials.best == choice.read(tmp_path)
    assert set(written["figures"]["engines"]["eager"]["milliseconds"]) == {"1", "4"}
    assert "<- chosen" in trials.table()
