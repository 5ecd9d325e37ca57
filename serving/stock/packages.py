"""Which packages the image has, which package provides a module, and what a requirements.txt lists."""

import functools
import importlib.metadata
import os
import re
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from project import requirements
from project.requirements import (
    DISCONTINUED,
    REPOSITORY,
    SAME_MODULES,
    SERVER_PACKAGES,
    Change,
    Line,
    list_versions,
)
from serving.stock.contents import Contents, Finding

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
ADDRESS = re.compile(r"(?:\S+\s*@\s*)?(?:https?|gs|file)://")


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


def list_locked() -> frozenset[str]:
    """Return the names of the packages in the image, without torch."""
    return frozenset(list_versions()) - {"torch"}


def find_package(module: str, contents: Contents) -> str:
    """Return the package that provides a module: a known one, or a listed one of its name; "" if there is none."""
    name = canonicalize_name(module.split(".", maxsplit=1)[0])
    return _find_known(module) or (name if is_listed(name, contents) else "")


def _find_known(module: str) -> str:
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        if name := PACKAGE_NAMES.get(".".join(parts[:count])):
            return name
    return ""


def read_requirements(contents: Contents) -> list[Line]:
    """Return the lines that `make build` installs: those of the file beside the archive, else of its own."""
    file, text = contents.requirements
    return list(requirements.read_lines(text, file))


def pin(package: str, contents: Contents) -> str:
    """Return the requirement of a package, with the version that the archive was made with if that is known."""
    if line := _find_line(package, contents):
        return requirements.pin(line)
    version = contents.versions.get(package)
    return f"{package}=={version}" if version else package


def find_old_pin(package: str, contents: Contents) -> str:
    """Return the requirement of the archive if it has no build for Python 3.11; "" otherwise."""
    line = _find_line(package, contents)
    return (requirements.find_old_pin(line) or "") if line else ""


def is_listed(package: str, contents: Contents) -> bool:
    """Whether `make build` installs a package without further lines."""
    return _find_line(package, contents) is not None


def _find_line(package: str, contents: Contents) -> Line | None:
    for line in read_requirements(contents):
        if line.name and package in (line.name, SAME_MODULES.get(line.name)):
            return line
    return None


def check_requirements(contents: Contents, reported: set[str]) -> Iterator[Finding]:
    """Yield the findings about the lines, except for those of packages that are `reported` already."""
    imported = {canonicalize_name(Requirement(text).name) for text in reported}
    for line in read_requirements(contents):
        if line.requirement is None:
            yield from _describe_other(line, contents)
            continue
        change = requirements.find_change(line)
        if change and not change.text:
            yield from _describe_left_out(line, change)
        elif not imported & {line.name, SAME_MODULES.get(line.name, line.name)}:
            yield Finding(
                None,
                f"{line.place}: {line.text}: not in the image, and no file that is read imports it",
                f"if the handler needs it: {contents.build_command}",
                requirements.pin(line),
            )


def _describe_left_out(line: Line, change: Change) -> Iterator[Finding]:
    """Describe a line that make build leaves out, unless it has no effect."""
    assert line.requirement is not None
    version = list_versions().get(line.name)
    if line.name in SERVER_PACKAGES or (
        version and line.requirement.specifier.contains(version, prereleases=True)
    ):
        return
    hint = ""
    if version and line.name not in ("torch", "torchserve"):
        hint = (
            f"check its answers with {version}; a requirements.txt beside the archive may list "
            "another version"
        )
    yield Finding(None, f"{line.place}: {line.text}: {change.reason}", hint)


def _describe_other(line: Line, contents: Contents) -> Iterator[Finding]:
    """Describe a line that is no package's name."""
    text = f"{line.place}: {line.text}"
    if REPOSITORY.match(line.text):
        hint = "make build fetches it; without a network there, put its modules into the archive"
        change = requirements.find_change(line)
        address = change.text if change else line.text
        yield Finding(None, f"{text}: a source repository: not in the image", hint, address)
    elif ADDRESS.match(line.text):
        yield Finding(None, f"{text}: an address: not in the image", "", line.text)
    elif re.match(r"(-r|-c|--requirement|--constraint)\b", line.text):
        yield Finding(None, f"{text}: another file", "write the lines of that file here")
    elif line.text.startswith("-"):
        hint = "it has an effect only if make build installs the packages"
        yield Finding(None, f"{text}: an option of pip", hint)
    elif re.search(r"[/\\]|\.(whl|zip|gz)$", line.text):
        if os.path.normpath(line.text) not in contents.names:
            hint = "put its modules into the archive, or write a released version of the package"
            yield Finding(False, f"{text}: a file of the machine where the archive was made", hint)
    else:
        yield Finding(None, f"{text}: not a requirement that pip reads", "write NAME==VERSION")
