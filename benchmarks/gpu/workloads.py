"""The models that are measured on a GPU, unpacked, and their requests."""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.workloads import BUILD, Workload, generate_photographs, generate_texts
from project.model_folder import Model
from serving.archive import HANDLER_FILE, collect
from serving.verification import REQUESTS

BENCHMARKS = Path(__file__).resolve().parents[1]
EXAMPLES = 4
"""The requests of requests.json, which a worker runs when it starts."""
SIMULATED_ROWS = 64


def generate_numbers() -> list[list[float]]:
    """Return rows of numbers, from a seed."""
    generator = random.Random(0)
    return [[round(generator.random(), 3) for _ in range(8)] for _ in range(SIMULATED_ROWS)]


MODELS: dict[str, tuple[str, dict[str, float], Callable[[], list[Any]]]] = {
    "RESNET50": ("real", {"layers": 50}, generate_photographs),
    "MINILM": (
        "text",
        {"vocabulary": 30_522, "width": 384, "heads": 12, "layers": 6},
        generate_texts,
    ),
    "SIMULATED": (
        "gpu/simulated",
        {"preprocess_ms": 0.5, "pass_ms": 2, "sample_ms": 0.5},
        generate_numbers,
    ),
}
"""The folder of each model in benchmarks/, its config.json, and its instances."""


class GpuWorkload(Workload):
    """A model of MODELS in an unpacked archive, and its requests."""

    def __init__(self, name: str, device: str) -> None:  # pylint: disable=super-init-not-called
        """Copy the model into a folder of its own."""
        folder, config, generate = MODELS[name]
        self.name, self.device = name, device
        self.model = Model(path=BENCHMARKS / folder, name=name.lower(), output=BUILD)
        self.scratch = BUILD / f"gpu-{self.model.name}"
        self.folder = self.scratch / "archive"
        self.python, self.inference_ms = Path(sys.executable), 0.0
        self.requests = [{"instance": instance} for instance in generate()]
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        collect(self.model, self.folder)
        shutil.copyfile(HANDLER_FILE, self.folder / HANDLER_FILE.name)
        (self.folder / "config.json").write_text(json.dumps(config))
        (self.folder / REQUESTS).write_text(json.dumps(self.requests[:EXAMPLES]))

    @property
    def site_packages(self) -> list[str]:
        """The folders in PYTHONPATH."""
        return list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
