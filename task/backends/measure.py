"""Which engine is the fastest here of those that keep the answers."""

import json
import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from task.backends.candidates import CANDIDATES, Engine
from task.backends.choice import FILE, TOLERANCE, difference

BUDGET = 0.01
"""How far a probability may lie from eager's; every label has to be the same."""


class Trial(NamedTuple):
    """What came of one engine."""

    milliseconds: dict[int, float]
    """Medians for a pass on one thread, by the instances in it."""
    off: float
    """The largest distance of a probability from eager's."""
    labels_changed: int

    @property
    def keeps_the_answers(self) -> bool:
        """Whether it is within the budget."""
        return self.labels_changed == 0 and self.off <= BUDGET

    @property
    def cost(self) -> float:
        """Milliseconds an instance, the batch sizes counting alike."""
        return statistics.geometric_mean([ms / size for size, ms in self.milliseconds.items()])


class Trials(NamedTuple):
    """What came of all of them."""

    done: dict[str, Trial]
    refused: dict[str, str]
    """Why an engine is not to be had on this machine."""

    @property
    def best(self) -> str:
        """The fastest of those within the budget; eager always is."""
        able = [name for name, trial in self.done.items() if trial.keeps_the_answers]
        return min(able, key=lambda name: self.done[name].cost)

    def table(self) -> str:
        """Write them down for people."""
        sizes = self.done["eager"].milliseconds
        lines = [f"{'engine':20}" + "".join(f"{f'{size} at once':>14}" for size in sizes)]
        for name, trial in self.done.items():
            times = "".join(f"{ms:11.2f} ms" for ms in trial.milliseconds.values())
            answers = f"off by {trial.off:.0e} at most, {trial.labels_changed} labels changed"
            lines.append(f"{name:20}{times}   {answers}{'  <- chosen' * (name == self.best)}")
        lines += [f"{name:20}   not to be had: {why}" for name, why in self.refused.items()]
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write the choice and its reasons to FOLDER/engine.json."""
        figures = {
            "budget": {"probability": BUDGET, "labels_changed": 0, "at_load": TOLERANCE},
            "engines": {name: trial._asdict() for name, trial in self.done.items()},
            "refused": self.refused,
            "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "torch": torch.__version__,
        }
        document = {"engine": self.best, "figures": figures}
        (folder / FILE).write_text(json.dumps(document, indent=2) + "\n")


def measure(net: nn.Module, inputs: Tensor, batches: tuple[int, ...], rounds: int) -> Trials:
    """Try every engine on one thread, in turn, `rounds` times for each batch size.

    `inputs` are what the network takes, the held-out set's, at least as many as the largest batch.
    """
    torch.set_num_threads(1)
    engines, refused = _engines(net, inputs[:1])
    done = {}
    with torch.inference_mode():
        answers = {
            name: torch.cat([engine(part) for part in torch.split(inputs, max(batches))]).softmax(1)
            for name, engine in engines.items()
        }
        times = {size: _times(engines, inputs[:size], rounds) for size in batches}
    wanted = answers["eager"]
    for name, answer in answers.items():
        changed = int((answer.argmax(1) != wanted.argmax(1)).sum())
        medians = {size: round(times[size][name], 4) for size in batches}
        done[name] = Trial(medians, float((answer - wanted).abs().max()), changed)
    return Trials(done, refused)


def _engines(net: nn.Module, example: Tensor) -> tuple[dict[str, Engine], dict[str, str]]:
    engines, refused = {}, {}
    for name, build in CANDIDATES.items():
        try:
            engine = build(net, example)
            difference(engine, net, example)
        except (RuntimeError, NotImplementedError) as error:
            refused[name] = str(error).strip().splitlines()[-1]
        else:
            engines[name] = engine
    return engines, refused


def _times(engines: dict[str, Engine], batch: Tensor, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            began = time.perf_counter()
            engine(batch)
            taken[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(times) for name, times in taken.items()}
