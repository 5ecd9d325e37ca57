"""Find a model or an archive by MODEL, and derive every name and path from it."""

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
REQUIREMENTS = "requirements.txt"
ENTRY = "model.py"
"""The file in a model's folder that defines `load`."""
DEFAULT = "digits"
BUILD = Path("build")
MANIFEST = Path("MAR-INF", "MANIFEST.json")
"""The file that makes a folder an unpacked archive of torch-model-archiver."""
ARCHIVE_SUFFIXES = (".mar", ".tar.gz", ".tgz", ".zip")
MODEL_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")
"""The suffixes of files with weights, or with a whole model."""
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
    """The folder with model.py, or a ready archive: a .mar, another format of it, the folder of an unpacked one; or a
    folder of several .mar files."""
    name: str
    """The name of the archive, the image, the endpoint and the function: lowercase letters, digits, hyphens."""
    output: Path = field(default_factory=lambda: Path(os.environ.get(OUTPUT_VARIABLE) or BUILD))
    """The folder in which each model has a folder."""

    @property
    def is_archive(self) -> bool:
        """Whether it is a ready archive, in place of a folder with model.py."""
        return self.path.is_file() or (self.path / MANIFEST).is_file()

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
        """The archive that is served, unless there are several."""
        return self.build / f"{self.name}.mar"

    @property
    def folder_archives(self) -> list[Path]:
        """The ready archives of a folder of several, which one image serves together; else none."""
        return [] if self.is_archive else _list_archives(self.path)

    @property
    def archives(self) -> list[Path]:
        """The archives that are served."""
        return [self.build / path.name for path in self.folder_archives] or [self.archive]

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
    def instances(self) -> Path:
        """The instances of requests.json, one a line: the input of a batch prediction job."""
        return self.build / "instances.jsonl"

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
    """Return the model that MODEL names: a folder in model/, any other folder, an archive, or a folder of several.

    None or "" is the only folder in model/, else `digits`. Raises ModelFolderError.
    """
    names = list_models(root)
    if not value:
        if len(names) != 1 and DEFAULT not in names:
            raise ModelFolderError(f"{VARIABLE} is not set: {_describe_choices(names)}")
        value = names[0] if len(names) == 1 else DEFAULT
    path = root / MODELS / value if value in names else Path(value)
    suffix = next((each for each in ARCHIVE_SUFFIXES if path.name.lower().endswith(each)), "")
    is_model = (path / ENTRY).is_file() or (path / MANIFEST).is_file()
    if path.is_dir() and (is_model or _list_archives(path)):
        return Model(path=path, name=_to_name(path.resolve().name))
    if path.is_file() and suffix:
        return Model(path=path, name=_to_name(path.name[: -len(suffix)]))
    raise ModelFolderError(
        f"{VARIABLE}={value}: {describe_other(path) or _describe_choices(names, path)}"
    )


def list_models(root: Path = Path()) -> list[str]:
    """Return the names of the folders in model/ that have a model.py."""
    return sorted(entry.parent.name for entry in (root / MODELS).glob(f"*/{ENTRY}"))


def add_model_option(
    parser: argparse.ArgumentParser, environ: Mapping[str, str] = os.environ
) -> None:
    """Add --model, whose default is the variable MODEL."""
    default = environ.get(VARIABLE) or None
    text = (
        "name in model/, folder or archive (default: the variable MODEL, the only model, or digits)"
    )
    parser.add_argument("--model", default=default, metavar="MODEL", help=text)


def _list_archives(folder: Path) -> list[Path]:
    """Return the .mar files of a folder that has several of them and no model.py."""
    archives = sorted(file for file in folder.glob("*.mar") if not file.name.startswith("."))
    return archives if len(archives) > 1 and not (folder / ENTRY).is_file() else []


def _to_name(text: str) -> str:
    name = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    if not re.fullmatch(f"[a-z][a-z0-9-]{{1,{MAX_NAME_CHARS - 1}}}", name):
        raise ModelFolderError(
            f"{text}: the name of a model has 2 to {MAX_NAME_CHARS} letters, digits and hyphens, "
            "and starts with a letter; rename it"
        )
    if name in RESERVED:
        raise ModelFolderError(f"{text}: build/{name} has other files; rename it")
    return name


def describe_other(path: Path) -> str:
    """Say what a path is that is no model, and which command serves it; "" if that is not known."""
    if str(path).startswith("gs:"):
        return "a bucket; set STORAGE to it, in place of MODEL"
    if path.is_dir():
        return _describe_folder(path)
    if path.is_file():
        return _describe_file(path)
    return "the archive does not exist" if path.name.endswith(ARCHIVE_SUFFIXES) else ""


def _describe_file(path: Path) -> str:
    if path.suffix.lower() == ".war":
        return "a workflow archive, which is not served; give the .mar of each of its models"
    if path.suffix.lower() in MODEL_SUFFIXES:
        command = f"make new NAME=my-model FROM={shlex.quote(str(path))}"
        return f"a model without an archive; {command} writes a folder that serves it"
    return f"expected a folder with a {ENTRY}, or an archive ({', '.join(ARCHIVE_SUFFIXES)})"


def _describe_folder(path: Path) -> str:
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    archives = [file for file in files if file.name.lower().endswith(ARCHIVE_SUFFIXES)]
    archives += [file.parent.parent for file in sorted(path.glob(f"*/{MANIFEST}"))]
    if archives:
        shown = ", ".join(shlex.quote(str(each)) for each in archives[:3])
        return f"a folder with an archive in it; give the archive: {shown}"
    if (path / "config.json").is_file() and any(file.suffix in MODEL_SUFFIXES for file in files):
        command = f"make new NAME=my-model FROM={shlex.quote(str(path))}"
        return f"a Hugging Face folder; {command} writes a folder that serves it"
    return ""


def _describe_choices(names: list[str], path: Path | None = None) -> str:
    if path:
        found = f"{path} has no {ENTRY}" if path.is_dir() else f"no folder {path}"
        return f"{found}; {_describe_choices(names)}"
    if not names:
        example = "make new NAME=flowers FROM=tabular"
        return f"there is no model in model/: {example} writes one; or set {VARIABLE} to a folder with a {ENTRY}"
    known = f"the models are {', '.join(names)}"
    return f"{known}; set {VARIABLE} to one of them, or to a folder with a {ENTRY} (make new writes one)"
