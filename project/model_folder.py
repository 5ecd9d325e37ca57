"""Find a model by MODEL, and derive every name and path from it."""

import argparse
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from project.cli import ProjectError

MODELS = Path("model")
"""The folder with a folder for each model."""
ENTRY = "model.py"
"""The file in a model's folder that defines `load`."""
DEFAULT = "digits"
BUILD = Path("build")
HELD_OUT = "held-out.json"
VARIABLE = "MODEL"
OUTPUT_VARIABLE = "MODEL_OUTPUT"
"""Names another folder than build/ for what is built, so that the pipeline's steps leave build/ as it is."""
RESERVED = frozenset(
    (
        *("bench", "deploy", "evaluation", "functions", "gke", "hello", "knn", "kubernetes"),
        *("pipeline", "scan"),
    )
)
"""Folders of build/ with other contents."""
MAX_NAME_CHARS = 40
"""Shorter than every limit of Vertex AI, Cloud Run and Kubernetes, with room for a suffix."""


class ModelFolderError(ProjectError):
    """MODEL names no model. The text says what was found, and what to set."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's sources, and the files that are built from them."""

    path: Path
    """The folder with model.py, or a ready archive (.mar)."""
    name: str
    """The name of the archive, the image, the endpoint and the function: lowercase letters, digits, hyphens."""
    output: Path = field(default_factory=lambda: Path(os.environ.get(OUTPUT_VARIABLE) or BUILD))
    """The folder in which each model has a folder."""

    @property
    def selection(self) -> str:
        """What selects this model in a command of make, quoted for a shell."""
        value = self.path.name if self.path.parent == MODELS else str(self.path)
        return f"{VARIABLE}={shlex.quote(value)}"

    @property
    def build(self) -> Path:
        """The folder for everything that is built from this model."""
        return self.output / self.name

    @property
    def archive(self) -> Path:
        """The archive that is served."""
        return self.build / f"{self.name}.mar"

    @property
    def weights(self) -> Path:
        """The folder that train.py or fetch.py writes; its files replace those of the model's folder."""
        return self.build / "weights"

    @property
    def requests(self) -> Path:
        """requests.json as it is in the archive."""
        return self.build / "requests.json"

    @property
    def request(self) -> Path:
        """The body of a predict request with the first instance."""
        return self.build / "request.json"

    @property
    def packages(self) -> Path:
        """The folder with requirements.txt and the local wheels of the model, for installing them elsewhere."""
        return self.build / "packages"

    @property
    def distributions(self) -> Path:
        """For each module that the model imported when it was packed, the requirement that provides it (JSON)."""
        return self.build / "distributions.json"

    @property
    def venv(self) -> Path:
        """The environment with the packages of the model's requirements.txt."""
        return BUILD / self.name / "venv"

    @property
    def held_out(self) -> Path:
        """Instances to measure and evaluate the model with: those of the trained weights, else of the folder.

        `[{"instance", "truth"?, "parameters"?, "variant"?}, …]`. The file may not exist; it is not packed.
        """
        trained = self.weights / HELD_OUT
        return trained if trained.is_file() else self.path / HELD_OUT

    @property
    def predict_route(self) -> str:
        """The route of predictions in the container."""
        return f"/predictions/{self.name}"


def find_model(value: str | None = None, root: Path = Path()) -> Model:
    """Return the model that MODEL names: a folder in model/, any other folder, or a .mar.

    None or "" is the only folder in model/, else `digits`. Raises ModelFolderError.
    """
    names = list_models(root)
    if not value:
        if len(names) != 1 and DEFAULT not in names:
            raise ModelFolderError(f"{VARIABLE} is not set: {_describe_choices(names)}")
        value = names[0] if len(names) == 1 else DEFAULT
    path = root / MODELS / value if value in names else Path(value)
    if path.suffix == ".mar":
        if not path.is_file():
            raise ModelFolderError(f"{VARIABLE}={value}: the archive does not exist")
        return Model(path=path, name=_to_name(path.stem))
    if not (path / ENTRY).is_file():
        found = f"{path} has no {ENTRY}" if path.is_dir() else f"no folder {path}"
        raise ModelFolderError(f"{VARIABLE}={value}: {found}; {_describe_choices(names)}")
    return Model(path=path, name=_to_name(path.resolve().name))


def list_models(root: Path = Path()) -> list[str]:
    """Return the names of the folders in model/ that have a model.py."""
    return sorted(entry.parent.name for entry in (root / MODELS).glob(f"*/{ENTRY}"))


def add_model_option(
    parser: argparse.ArgumentParser, environ: Mapping[str, str] = os.environ
) -> None:
    """Add --model, whose default is the variable MODEL."""
    default = environ.get(VARIABLE) or None
    text = "name in model/, folder or .mar (default: the variable MODEL, the only model, or digits)"
    parser.add_argument("--model", default=default, metavar="MODEL", help=text)


def _to_name(text: str) -> str:
    name = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    if not re.fullmatch(f"[a-z][a-z0-9-]{{1,{MAX_NAME_CHARS - 1}}}", name):
        raise ModelFolderError(
            f"{text}: the name of a model has 2 to {MAX_NAME_CHARS} letters, digits and hyphens, "
            "and starts with a letter; rename the folder"
        )
    if name in RESERVED:
        raise ModelFolderError(f"{text}: build/{name} has other files; rename the folder")
    return name


def _describe_choices(names: list[str]) -> str:
    if not names:
        example = "make new NAME=flowers FROM=tabular"
        return f"there is no model in model/: {example} writes one; or set {VARIABLE} to a folder with a {ENTRY}"
    known = f"the models are {', '.join(names)}"
    return f"{known}; set {VARIABLE} to one of them, or to a folder with a {ENTRY} (make new writes one)"
