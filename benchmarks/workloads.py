"""What is asked of every contestant: an archive, and requests for it."""

import base64
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageOps

from benchmarks.real.network import drawn
from benchmarks.real.task import load
from serving import archive
from task.backends.measure import measure_backends

BUILD = Path("build/bench")
DIGITS = Path("build/model-store/digits.mar")
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
"""Photographs that come with scikit-image."""
SIZE = (500, 375)
"""Pixels: what ImageNet's pictures have on average."""


class Workload(NamedTuple):
    """One model and what it is asked."""

    name: str
    archive: Path
    folder: Path
    """The archive, unpacked."""
    instances: list[Any]
    largest_batch: int
    """Requests in one pass, for all contestants that make batches."""
    longer: float = 1
    """How much longer a turn has to be: of few requests the last ones weigh too much."""

    def body(self, instances: int) -> Path:
        """Write a request of so many instances and return its file."""
        file = BUILD / f"{self.name}-{instances}.json"
        chosen = [self.instances[index % len(self.instances)] for index in range(instances)]
        file.write_text(json.dumps({"instances": chosen}))
        return file


def small() -> Workload:
    """Return the digits: 28x28 PNGs, a network of 40,000 weights."""
    held_out = json.loads(Path("build/model/held-out/instances.json").read_text())
    return Workload("SMALL", DIGITS, _unpack("SMALL", DIGITS), held_out["instances"], 32)


def real() -> Workload:
    """Return the photographs: JPEGs of 500x375, ResNet-18."""
    weights = BUILD / "REAL-weights"
    weights.mkdir(parents=True, exist_ok=True)
    instances = [photograph(name) for name in PHOTOGRAPHS]
    _prepare(weights, instances)
    built = archive.build("photographs", Path(__file__).with_name("real"), weights, BUILD)
    return Workload("REAL", built, _unpack("REAL", built), instances, 8, longer=2)


def photograph(name: str, size: tuple[int, int] = SIZE) -> dict[str, str]:
    """Return an instance, a JPEG of a size and of the quality that cameras and web sites use."""
    from skimage import data  # noqa: PLC0415  half a second, for those who need it

    shown = Image.fromarray(getattr(data, name)()).convert("RGB")
    file = io.BytesIO()
    ImageOps.fit(shown, size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return {"b64": base64.b64encode(file.getvalue()).decode()}


def _prepare(weights: Path, instances: list[Any]) -> None:
    """Write backend.json, the fastest backend here, and golden.json, what the model answers with it."""
    golden = {"instance": instances[0], "expected": {}}
    (weights / "golden.json").write_text(json.dumps(golden))
    if not (weights / "backend.json").exists():
        task = load(weights, torch.device("cpu"))
        pixels = torch.stack([task.preprocess(instance) for instance in instances * 2])
        measurements = measure_backends(drawn(), task.normalised(pixels), (1, 4, 8), rounds=5)
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
