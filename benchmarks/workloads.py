"""The workloads: each is a model's archive and requests for it."""

import base64
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageOps

from project.model_folder import Model, find_model
from serving import archive

BUILD = Path("build/bench")
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
    model = find_model("digits")
    archive.build(model)
    held_out = json.loads((model.path / "held-out.json").read_text())
    instances = [each["instance"] for each in held_out]
    return Workload("SMALL", model.archive, _unpack("SMALL", model.archive), instances, 32)


def load_photographs_workload() -> Workload:
    """Return the photographs: JPEGs of 500x375, ResNet-18."""
    model = Model(path=Path(__file__).with_name("real"), name="photographs", output=BUILD)
    instances = [load_photograph(name) for name in PHOTOGRAPHS]
    model.weights.mkdir(parents=True, exist_ok=True)
    requests = json.dumps([{"instance": instance} for instance in instances])
    (model.weights / "requests.json").write_text(requests)
    archive.build(model)
    folder = _unpack("REAL", model.archive)
    return Workload("REAL", model.archive, folder, instances, 8, duration_factor=2)


def load_photograph(name: str, size: tuple[int, int] = SIZE) -> dict[str, str]:
    """Return an instance: a photograph as a JPEG of quality 90, which cameras and websites use."""
    from skimage import data  # noqa: PLC0415  the import takes half a second

    photograph = Image.fromarray(getattr(data, name)()).convert("RGB")
    file = io.BytesIO()
    ImageOps.fit(photograph, size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return {"b64": base64.b64encode(file.getvalue()).decode()}


def _unpack(name: str, mar: Path) -> Path:
    folder = BUILD / f"{name}-archive"
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(mar) as contents:
        contents.extractall(folder)
    return folder
