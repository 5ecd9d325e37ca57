"""Which packages the image has, which package provides a module, and what a requirements.txt lists."""

import functools
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from serving.stock.contents import Contents, Finding

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "serve.lock"
TORCH_MODULES = ("torch", "torchgen", "functorch")
SAME_NAME = (
    "accelerate",
    "albumentations",
    "captum",
    "catboost",
    "datasets",
    "diffusers",
    "easyocr",
    "einops",
    "fastapi",
    "fasttext",
    "gensim",
    "imageio",
    "joblib",
    "kornia",
    "librosa",
    "lightgbm",
    "matplotlib",
    "monai",
    "nltk",
    "numba",
    "nvgpu",
    "onnx",
    "onnxruntime",
    "pandas",
    "peft",
    "pyarrow",
    "pydantic",
    "scipy",
    "sentencepiece",
    "shap",
    "soundfile",
    "spacy",
    "statsmodels",
    "tensorflow",
    "tiktoken",
    "timm",
    "tokenizers",
    "torchaudio",
    "torchmetrics",
    "torchvision",
    "tqdm",
    "transformers",
    "ultralytics",
    "wandb",
    "webcolors",
    "xgboost",
)
DISCONTINUED = {"torchtext": "its last version needs torch 2.3"}
PACKAGE_NAMES = {
    **{name: name for name in SAME_NAME},
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "Crypto": "pycryptodome",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "efficientnet_pytorch": "efficientnet-pytorch",
    "facenet_pytorch": "facenet-pytorch",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "google.cloud.aiplatform": "google-cloud-aiplatform",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.firestore": "google-cloud-firestore",
    "google.cloud.logging": "google-cloud-logging",
    "google.cloud.pubsub_v1": "google-cloud-pubsub",
    "google.cloud.secretmanager": "google-cloud-secret-manager",
    "google.cloud.vision": "google-cloud-vision",
    "pkg_resources": "setuptools<81",
    "jwt": "pyjwt",
    "pytorch_lightning": "pytorch-lightning",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "sentence_transformers": "sentence-transformers",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    **{name: name for name in DISCONTINUED},
    "whisper": "openai-whisper",
    "torch.utils.tensorboard": "tensorboard",
    "torch_geometric": "torch-geometric",
}
"""The package of a module. The package of any other module is not known: its name may be another's."""
SAME_MODULES = {
    "opencv-python": "opencv-python-headless",
    "opencv-contrib-python": "opencv-contrib-python-headless",
    "sklearn": "scikit-learn",
}
"""The package to install in place of one that needs libGL, or that only has another's name."""
BUILT_FOR_TORCH = ("torchvision", "torchaudio")
"""Packages of which each version needs one version of torch, so that an archive's pin does not apply."""
FIRST_BUILDS = {
    "numba": "0.57.0",
    "numpy": "1.23.2",
    "pandas": "1.5.1",
    "scikit-learn": "1.1.3",
    "scipy": "1.9.2",
}
"""The first version of a compiled package with a wheel for Python 3.11."""
SERVER_PACKAGES = ("torch-model-archiver", "torch-workflow-archiver")
IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""The environment for markers."""
REPOSITORY = re.compile(r"(?:\S+\s*@\s*)?(?:git|hg|svn|bzr)\+|git@")
ADDRESS = re.compile(r"(?:\S+\s*@\s*)?(?:https?|gs|file)://")


class Line(NamedTuple):
    """One line of a requirements file, with the lines that continue it."""

    place: str
    """FILE:LINE."""
    text: str
    """Without comments and hashes."""
    requirement: Requirement | None
    """None for an option of pip, an address or a path."""

    @property
    def name(self) -> str:
        """The normalized name of the package; "" for another kind of line."""
        return canonicalize_name(self.requirement.name) if self.requirement else ""


def is_installed(module: str) -> bool:
    """Whether a module, such as `google.cloud.storage`, can be imported in the image."""
    if module.startswith("torch.utils.tensorboard"):
        return False  # a module of torch that imports a package which torch does not require
    modules, packages = _image_modules()
    parts = module.split(".")
    prefixes = {".".join(parts[: n + 1]) for n in range(len(parts))}
    return module in modules or bool(prefixes & packages)


def is_namespace(module: str) -> bool:
    """Whether a module of the image is only a folder, whose modules are other packages' too."""
    modules, _ = _image_modules()
    return not is_installed(module) or modules.get(module, False)


@functools.cache
def _image_modules() -> tuple[dict[str, bool], set[str]]:
    """Return all modules of the image's packages, with whether one is only a folder; and those with files."""
    modules: dict[str, bool] = {}
    packages = set(TORCH_MODULES)
    for name in list_locked():
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            packages.add(name.replace("-", "_"))
            continue
        for file in files:
            if file.suffix not in (".py", ".so") or file.parts[0] == "..":
                continue
            *folders, last = file.parts
            stem = last.split(".", 1)[0]
            if stem != "__init__":
                packages.add(".".join([*folders, stem]))
            elif folders:
                packages.add(".".join(folders))
            for count in range(1, len(folders) + 1):
                modules.setdefault(".".join(folders[:count]), True)
    modules |= dict.fromkeys(packages, False)
    return modules, packages


@functools.cache
def list_locked() -> frozenset[str]:
    """Return the names of the packages in the image, without torch."""
    return frozenset(re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==", LOCK.read_text()))


def find_package(module: str) -> str:
    """Return the package that provides a module; "" if that is not known."""
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        if name := PACKAGE_NAMES.get(".".join(parts[:count])):
            return name
    return ""


def read_requirements(contents: Contents) -> list[Line]:
    """Return the lines of the archive's requirements file that have an effect in the image."""
    file = contents.manifest.requirements_file or ""
    lines: list[Line] = []
    text, start = "", 0
    for number, line in enumerate(contents.text(file).splitlines(), 1):
        start = start if text else number
        text += re.sub(r"(^|\s)#.*", "", line).strip()
        if text.endswith("\\"):
            text = text[:-1] + " "
            continue
        stripped = " ".join(re.sub(r"\s--(?:hash|config-settings)[= ]\S+", "", text).split())
        text = ""
        if not stripped:
            continue
        try:
            requirement = None if REPOSITORY.match(stripped) else Requirement(stripped)
        except InvalidRequirement:
            requirement = None
        if requirement and requirement.marker and not requirement.marker.evaluate(IMAGE):
            continue
        lines.append(Line(f"{file}:{start}", stripped, requirement))
    return lines


def pin(package: str, contents: Contents) -> str:
    """Return the requirement of a package, with the version that the archive was made with if that is known."""
    name, version = _find_version(package, contents)
    if package in BUILT_FOR_TORCH or not package:
        return package
    if find_old_pin(package, contents):
        return f"{package}>={FIRST_BUILDS[package]}"
    return name + version


def find_old_pin(package: str, contents: Contents) -> str:
    """Return the requirement of the archive if it has no build for Python 3.11; "" otherwise."""
    name, version = _find_version(package, contents)
    first = FIRST_BUILDS.get(package)
    is_old = first and version.startswith("==") and Version(version[2:]) < Version(first)
    return name + version if is_old else ""


def _find_version(package: str, contents: Contents) -> tuple[str, str]:
    """Return the name of a package with its extras, and its specifier, as the archive has them."""
    for line in read_requirements(contents):
        name = SAME_MODULES.get(line.name, line.name)
        if line.requirement and package in (line.name, name):
            extras = ",".join(sorted(line.requirement.extras))
            return f"{name}[{extras}]" if extras else name, str(line.requirement.specifier)
    version = contents.versions.get(package)
    return package, f"=={version}" if version else ""


def check_requirements(contents: Contents, reported: set[str]) -> Iterator[Finding]:
    """Yield the findings about the lines, except for those of packages that are `reported` already."""
    lines = read_requirements(contents)
    imported = {canonicalize_name(Requirement(text).name) for text in reported}
    for line in lines:
        if line.requirement is None:
            yield _describe_other(line)
        elif line.name == "ts":
            yield Finding(
                None,
                f"{line.place}: ts is another project's package on PyPI",
                "remove the line: TorchServe is in the image",
            )
        elif line.name in ("torch", *list_locked()):
            yield from _compare_version(line, contents)
        elif line.name in DISCONTINUED:
            yield Finding(
                None, f"{line.place}: {line.text}: {DISCONTINUED[line.name]}", "remove it"
            )
        elif line.name not in SERVER_PACKAGES and not imported & {
            line.name,
            SAME_MODULES.get(line.name, line.name),
        }:
            yield Finding(
                None,
                f"{line.place}: {line.text}: not in the image, and no file that is read imports it",
                f"if the handler needs it: {contents.build_command}",
                pin(line.name, contents),
            )


def _describe_other(line: Line) -> Finding:
    """Describe a line that is no package's name."""
    text = f"{line.place}: {line.text}"
    if REPOSITORY.match(line.text) or re.match(r"(-e|--editable)\b", line.text):
        hint = "put its modules into the archive, or write a released version of the package"
        return Finding(False, f"{text}: a source repository, which the image does not have", hint)
    if ADDRESS.match(line.text):
        return Finding(None, f"{text}: an address: not in the image", "", line.text)
    if re.match(r"(-r|-c|--requirement|--constraint)\b", line.text):
        return Finding(None, f"{text}: another file", "write the lines of that file here")
    if line.text.startswith("-"):
        hint = "it has an effect only if make build installs the packages"
        return Finding(None, f"{text}: an option of pip", hint)
    if re.search(r"[/\\]|\.(whl|zip|gz)$", line.text):
        hint = "put its modules into the archive, or write a released version of the package"
        return Finding(False, f"{text}: a file of the machine where the archive was made", hint)
    return Finding(None, f"{text}: not a requirement that pip reads", "write NAME==VERSION")


def _compare_version(line: Line, contents: Contents) -> Iterator[Finding]:
    assert line.requirement is not None
    version = importlib.metadata.version(line.name).split("+")[0]
    if line.requirement.specifier.contains(version, prereleases=True):
        return
    hint = f"write a requirements.txt beside the archive without this line, then {contents.build_command}"
    if line.name != "torch":
        hint = f"check its answers with {version}; {contents.build_command} installs what this line lists"
    yield Finding(None, f"{line.place}: {line.text}; the image has {line.name} {version}", hint)
