"""The workloads: each is a model's archive and requests for it."""

import base64
import io
import json
import shutil
import sys
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from benchmarks.errors import BenchmarkError
from project.cli import ProjectError
from project.environment import find_python
from project.model_folder import Model, find_model
from serving import archive, artifact
from serving.errors import ArchiveError
from serving.layout import choose_layout
from serving.verification import REQUESTS

BUILD = Path("build/bench")
MAX_REQUESTS = 256
"""Requests that are sent, in turn; those of requests.json come first, then those of held-out.json."""
SLOW_MS = 20
"""A slower model is measured for longer: with few requests the unfinished ones distort the rate."""
MAX_DURATION_FACTOR = 10
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
"""Photographs in scikit-image."""
SIZE = (500, 375)
"""Pixels; the average size of ImageNet's pictures."""


class Workload:
    """A model, packed, and its requests."""

    def __init__(self, model: Model, name: str = "") -> None:
        """Build the archive if needed; raise BenchmarkError."""
        self.model, self.name = model, name or model.name
        self.scratch = BUILD / f"workload-{self.name}"
        """The folder for request bodies, logs and the unpacked archive."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        try:
            archive.build(model)
            self.python = find_python(model)
            """The Python with the model's packages."""
            self.inference_ms = artifact.read_inference_ms(model.archive)
            """The time of one instance on one thread; 0 if unknown."""
        except (ArchiveError, ProjectError) as error:
            raise BenchmarkError(str(error)) from error
        self.requests = _read_requests(model)
        """The rows of requests.json, and of held-out.json if the model has it."""

    @property
    def site_packages(self) -> list[str]:
        """The folder with the model's own packages; none if it needs no others than this program's."""
        if self.python == Path(sys.executable):
            return []
        return [str(path) for path in self.python.parent.parent.glob("lib/python*/site-packages")]

    @property
    def max_batch_size(self) -> int:
        """The requests in a batch, for all servers that batch: the default of our server with one thread."""
        return choose_layout(1, None, self.inference_ms).batch_size

    @property
    def duration_factor(self) -> float:
        """The factor by which the measurements of this model are longer than those of a fast one."""
        return min(max(self.inference_ms / SLOW_MS, 1), MAX_DURATION_FACTOR)

    @property
    def has_parameters(self) -> bool:
        """Whether a request has parameters."""
        return any(row.get("parameters") for row in self.requests)

    @cached_property
    def folder(self) -> Path:
        """The unpacked archive."""
        folder = self.scratch / "archive"
        shutil.rmtree(folder, ignore_errors=True)
        with zipfile.ZipFile(self.model.archive) as contents:
            contents.extractall(folder)
        return folder

    def write_bodies(self, instances: int) -> Path:
        """Write request bodies with this number of instances, one a line, and return their file.

        Together they contain every instance; the instances of a body have the same parameters.
        """
        by_parameters: dict[str, list[Any]] = {}
        for row in self.requests:
            parameters = json.dumps(row.get("parameters") or {})
            by_parameters.setdefault(parameters, []).append(row["instance"])
        bodies = []
        for parameters, group in by_parameters.items():
            for start in range(0, len(group), instances):
                chosen = [group[(start + index) % len(group)] for index in range(instances)]
                bodies.append({"instances": chosen, "parameters": json.loads(parameters)})
        return write_bodies(self.scratch / f"{instances}.jsonl", bodies)


def select_workload(value: str | None, name: str = "") -> Workload:
    """Return the workload of the model that MODEL names; raise BenchmarkError."""
    try:
        return Workload(find_model(value), name)
    except ProjectError as error:
        raise BenchmarkError(str(error)) from error


def load_photographs() -> Workload:
    """Return the photographs: JPEGs of 500x375, ResNet-18."""
    model = Model(path=Path(__file__).with_name("real"), name="real", output=BUILD)
    rows = [{"instance": load_photograph(name)} for name in PHOTOGRAPHS]
    model.weights.mkdir(parents=True, exist_ok=True)
    requests = model.weights / REQUESTS
    if not requests.is_file():  # a new file would be a new archive
        requests.write_text(json.dumps(rows))
    return Workload(model, "REAL")


def load_photograph(name: str, size: tuple[int, int] = SIZE) -> dict[str, str]:
    """Return an instance: a photograph as a JPEG of quality 90, which cameras and websites use."""
    from skimage import data  # noqa: PLC0415  the import takes half a second

    photograph = Image.fromarray(getattr(data, name)()).convert("RGB")
    file = io.BytesIO()
    ImageOps.fit(photograph, size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return {"b64": base64.b64encode(file.getvalue()).decode()}


def write_bodies(file: Path, bodies: list[dict[str, Any]]) -> Path:
    """Write request bodies, one a line, and return the file. Empty parameters are left out."""
    kept = [{key: value for key, value in body.items() if value != {}} for body in bodies]
    file.write_text("".join(f"{json.dumps(body)}\n" for body in kept))
    return file


def _read_requests(model: Model) -> list[dict[str, Any]]:
    if not model.requests.is_file():
        raise BenchmarkError(f"{model.archive} has no {REQUESTS}, so there is nothing to send")
    files = [model.requests, *filter(Path.is_file, [model.held_out])]
    return [row for file in files for row in json.loads(file.read_text())][:MAX_REQUESTS]
