"""The workloads: each is a model's archive and requests for it."""

import base64
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageOps

from benchmarks.real.network import create_network
from benchmarks.real.task import load
from serving import archive
from task.backends.measure import measure_backends

BUILD = Path("build/bench")
DIGITS = Path("build/model-store/digits.mar")
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
"""Photographs in scikit-image."""
SIZE = (500, 375)
"""Pixels; the average size of ImageNet's pictures."""


class Workload(NamedTuple):
    """A model and its requests."""

    name: str
    archive: Path
    folder: Path
    """The unpacked archive."""
    instances: list[Any]
    max_batch_size: int
    """For all servers that batch requests."""
    duration_factor: float = 1
    """Slow models need longer runs: with few requests the unfinished ones distort the rate."""

    def write_body(self, instances: int) -> Path:
        """Write a request with this number of instances and return its file."""
        file = BUILD / f"{self.name}-{instances}.json"
        chosen = [self.instances[index % len(self.instances)] for index in range(instances)]
        file.write_text(json.dumps({"instances": chosen}))
        return file


def load_digits_workload() -> Workload:
    """Return the digits: 28x28 PNGs, a network of 40,000 weights."""
    held_out = json.loads(Path("build/model/held-out/instances.json").read_text())
    return Workload("SMALL", DIGITS, _unpack("SMALL", DIGITS), held_out["instances"], 32)


def load_photographs_workload() -> Workload:
    """Return the photographs: JPEGs of 500x375, ResNet-18."""
    weights = BUILD / "REAL-weights"
    weights.mkdir(parents=True, exist_ok=True)
    instances = [load_photograph(name) for name in PHOTOGRAPHS]
    _prepare(weights, instances)
    mar = archive.build("photographs", Path(__file__).with_name("real"), weights, BUILD)
    return Workload("REAL", mar, _unpack("REAL", mar), instances, 8, duration_factor=2)


def load_photograph(name: str, size: tuple[int, int] = SIZE) -> dict[str, str]:
    """Return an instance: a photograph as a JPEG of quality 90, which cameras and websites use."""
    from skimage import data  # noqa: PLC0415  the import takes half a second

    photograph = Image.fromarray(getattr(data, name)()).convert("RGB")
    file = io.BytesIO()
    ImageOps.fit(photograph, size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return {"b64": base64.b64encode(file.getvalue()).decode()}


def _prepare(weights: Path, instances: list[Any]) -> None:
    """Write backend.json, the fastest backend, and golden.json, the model's prediction with it."""
    golden = {"instance": instances[0], "expected": {}}
    (weights / "golden.json").write_text(json.dumps(golden))
    if not (weights / "backend.json").exists():
        task = load(weights, torch.device("cpu"))
        pixels = torch.stack([task.preprocess(instance) for instance in instances * 2])
        normalised = task.normalise(pixels)
        measurements = measure_backends(create_network(), normalised, (1, 4, 8), rounds=5)
        measurements.write(weights)
        print(measurements.format_table(), flush=True)
    task = load(weights, torch.device("cpu"))
    with torch.inference_mode():
        row = task.inference(task.preprocess(instances[0]).unsqueeze(0))[0]
    golden["expected"] = {"class": task.postprocess(row, {})["class"]}
    (weights / "golden.json").write_text(json.dumps(golden))


def _unpack(name: str, mar: Path) -> Path:
    folder = BUILD / f"{name}-archive"
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(mar) as contents:
        contents.extractall(folder)
    return folder
