"""The workloads: each is a model's archive and requests for it."""

import base64
import io
import json
import math
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from benchmarks.errors import BenchmarkError
from benchmarks.load import MAX_ROUND_S
from benchmarks.results import LoadProfile
from benchmarks.tabular.model import Features
from project.cli import ProjectError
from project.environment import find_python
from project.model_folder import HELD_OUT, Model, find_model
from serving import archive, artifact, resources
from serving.errors import ArchiveError
from serving.layout import choose_cpu_layout
from serving.verification import REQUESTS

BUILD = Path("build/bench")
MAX_REQUESTS = 256
"""Requests that are sent, in turn; those of requests.json come first, then those of held-out.json."""
PACKED_REQUESTS = 4
"""The requests of a generated requests.json; the server's start runs all of them. The others are held out."""
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
"""Photographs in scikit-image."""
SIZE = (500, 375)
"""Pixels; the average size of ImageNet's pictures."""
ANSWERS_PER_CLIENT = 5
"""In a shorter round, the answers that are not finished at its end would distort the ratio."""
ROWS = 128
"""The generated rows of features, and texts."""
FEATURES = tuple(Features.__annotations__)
MEDIAN_WORDS, WORDS_SIGMA, MAX_WORDS = 16, 1, 256
"""The lengths of the texts are log-normal: half of them have at most 16 words, one in twenty more than 80."""


class Workload:
    """A model, packed, and its requests."""

    device = "cpu"
    """The device of the other servers, as torch names it."""

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
        return choose_cpu_layout(1, None, self.inference_ms).batch_size

    def round_s(self, profile: LoadProfile, min_s: float) -> int:
        """Return the time of a round: long enough for ANSWERS_PER_CLIENT, at least `min_s`."""
        pass_s = profile.clients * profile.instances * self.inference_ms / 1000 / resources.cores()
        return math.ceil(max(min_s, min(ANSWERS_PER_CLIENT * pass_s, MAX_ROUND_S)))

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


def _select_small() -> Workload:
    """Return the default model's workload, with the requests that every server takes: those without parameters."""
    workload = select_workload(None, "SMALL")
    plain = [row for row in workload.requests if not row.get("parameters")]
    workload.requests = plain or workload.requests
    return workload


def _generate_workload(name: str, generate: Callable[[], list[Any]]) -> Workload:
    """Return the workload of a model of this folder, with generated instances.

    No prediction is expected of them, so that near ties of random weights never fail a check of the archive.
    """
    folder = name.lower()
    model = Model(path=Path(__file__).with_name(folder), name=folder, output=BUILD)
    model.weights.mkdir(parents=True, exist_ok=True)
    rows = [{"instance": instance} for instance in generate()]
    parts = {REQUESTS: rows[:PACKED_REQUESTS], HELD_OUT: rows[PACKED_REQUESTS:]}
    for file, part in parts.items():
        path, text = model.weights / file, json.dumps(part)
        # A new file would be a new archive.
        if part and not (path.is_file() and path.read_text() == text):
            path.write_text(text)
    return Workload(model, name)


def generate_photographs() -> list[dict[str, str]]:
    """Return photographs as JPEGs."""
    return [load_photograph(name) for name in PHOTOGRAPHS]


def generate_rows() -> list[dict[str, float]]:
    """Return rows of named features, from a seed."""
    generator = random.Random(0)
    return [{name: round(generator.uniform(0, 100), 2) for name in FEATURES} for _ in range(ROWS)]


def generate_texts() -> list[str]:
    """Return texts of mixed lengths, from a seed."""
    generator = random.Random(0)
    syllables = [first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ["".join(generator.choices(syllables, k=generator.randint(1, 4))) for _ in range(5000)]
    lengths = [generator.lognormvariate(math.log(MEDIAN_WORDS), WORDS_SIGMA) for _ in range(ROWS)]
    return [
        " ".join(generator.choices(words, k=min(max(round(length), 1), MAX_WORDS))).capitalize()
        + "."
        for length in lengths
    ]


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "SMALL": _select_small,
    "REAL": partial(_generate_workload, "REAL", generate_photographs),
    "TABULAR": partial(_generate_workload, "TABULAR", generate_rows),
    "TEXT": partial(_generate_workload, "TEXT", generate_texts),
}
"""What `make bench` measures without a model."""


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
