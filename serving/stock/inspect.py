"""Find what a stock archive needs by reading its files; none of its code is run."""

import ast
import importlib.metadata
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement

from serving import torchserve
from serving.errors import ArchiveError
from serving.stock.manifest import Manifest, read_manifest
from serving.unpacking import unpack

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "serve.lock"
PACKAGE_NAMES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "google.cloud.storage": "google-cloud-storage",
    "ts": "torchserve",
    **{
        name: name
        for name in ("captum", "onnxruntime", "pandas", "scipy", "sentencepiece", "spacy")
    },
    **{name: name for name in ("timm", "tokenizers", "torchaudio", "torchvision", "transformers")},
}
"""The package of a module. The package of any other module is not known: its name may be another's."""
ADVICE = "in requirements.txt beside the archive, then"


class Finding(NamedTuple):
    """One property of the archive."""

    works: bool | None
    """True: it works. False: it does not. None: it works, but may behave differently."""
    description: str
    hint: str = ""
    """What to do about it."""
    requirement: str = ""
    """The line of requirements.txt that adds the missing package."""


class Contents(NamedTuple):
    """The files of an archive."""

    names: list[str]
    sources: dict[str, str]
    """The text of Python, YAML and requirements files, by name."""
    manifest: Manifest
    path: Path

    @property
    def build_command(self) -> str:
        """The command that puts the archive and its packages into an image."""
        return f"make build MODEL={shlex.quote(str(self.path))}"


def read_archive(archive: Path) -> Contents:
    """Unpack and read an archive; raise ArchiveError if that fails or it has no manifest."""
    if not archive.is_file():
        raise ArchiveError(f"{archive} does not exist")
    with tempfile.TemporaryDirectory(prefix="migrate-") as scratch:
        folder = Path(scratch)
        unpack(archive, folder)
        manifest = read_manifest(archive)
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        names = [str(file.relative_to(folder)) for file in files]
        texts = {
            name: file.read_text(errors="replace")
            for name, file in zip(names, files, strict=True)
            if file.suffix in (".py", ".yaml", ".yml") or name == manifest.requirements_file
        }
    return Contents(names, texts, manifest, archive)


def inspect_archive(contents: Contents) -> Iterator[Finding]:
    """Yield the findings about an archive."""
    yield from _check_handler(contents)
    yield from _check_imports(contents)
    yield from _check_requirements(contents)
    yield from _check_batching(contents)
    for name in contents.names:
        if name.endswith((".so", ".pyd")) and "cpython-311-x86_64" not in name:
            yield Finding(None, f"{name} is compiled", "build it for Python 3.11 on x86-64 Linux")


def _check_handler(contents: Contents) -> Iterator[Finding]:
    manifest = contents.manifest
    file = _handler_file(manifest.handler)
    if file in contents.sources:
        yield Finding(True, f"handler {manifest.handler}: runs unchanged behind the JSON envelope")
    elif _default_handler(manifest.handler):
        yield Finding(True, f"handler {manifest.handler}: TorchServe's own, included in the image")
    else:
        reason = f"handler {manifest.handler}: neither in the archive nor TorchServe's own"
        yield Finding(False, reason, "build the archive again with --handler FILE.py")
    if manifest.serialized_file and manifest.serialized_file not in contents.names:
        missing = f"{manifest.serialized_file}: named in the manifest but missing in the archive"
        yield Finding(False, missing)
    if manifest.config_file:
        text = contents.sources.get(manifest.config_file, "")
        batch = re.search(r"(?m)^\s*batchSize:\s*(\d+)", text)
        if batch and int(batch[1]) > 1:
            hint = "check that the handler returns one answer for each row of a batch"
            yield Finding(None, f"{manifest.config_file}: batchSize {batch[1]} applies", hint)


def _handler_file(handler: str) -> str:
    """Return the file name of a handler given as FILE, FILE.py or FILE.py:FUNCTION."""
    name = handler.split(":", 1)[0].rsplit("/", 1)[-1]
    return name if name.endswith(".py") else f"{name}.py"


def _default_handler(handler: str) -> Path | None:
    file = torchserve.find_package_dir() / "torch_handler" / f"{handler}.py"
    return file if file.is_file() else None


def _check_imports(contents: Contents) -> Iterator[Finding]:
    installed = _list_installed()
    in_archive = {name.split("/", 1)[0].removesuffix(".py") for name in contents.names}
    for module, files in sorted(_find_imports(contents).items()):
        top = module.split(".")[0]
        name = PACKAGE_NAMES.get(module) or PACKAGE_NAMES.get(top)
        is_installed = (name or top.replace("_", "-").lower()) in installed
        if top in in_archive or top in sys.stdlib_module_names or is_installed:
            continue
        hint = (
            f"write {name or f'the package that provides {top}'} {ADVICE} {contents.build_command}"
        )
        yield Finding(False, f"import {top} ({', '.join(sorted(files))}): not in the image", hint)


def _find_imports(contents: Contents) -> dict[str, set[str]]:
    """Return the modules imported at startup, each with the files that import it.

    Imports of TorchServe's own handlers are followed into their files.
    """
    sources = {name: text for name, text in contents.sources.items() if name.endswith(".py")}
    default = _default_handler(contents.manifest.handler)
    if default and _handler_file(contents.manifest.handler) not in sources:
        sources[f"ts/torch_handler/{default.name}"] = default.read_text()
    imports: dict[str, set[str]] = {}
    while sources:
        name, text = sources.popitem()
        for module in _top_level_imports(text, name):
            users = imports.setdefault(module, set())
            if not users and module.startswith("ts.torch_handler."):
                file = _default_handler(module.rsplit(".", 1)[1])
                if file:
                    sources[f"ts/torch_handler/{file.name}"] = file.read_text()
            users.add(name)
    return imports


def _top_level_imports(text: str, name: str) -> Iterator[str]:
    """Yield the modules that a file requires at import."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ArchiveError(f"{name} is not valid Python 3.11: {error}") from error
    package = "ts.torch_handler" if name.startswith("ts/") else ""
    for node in _run_at_import(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        elif isinstance(node, ast.ImportFrom) and package and node.level == 1:
            yield f"{package}.{node.module}" if node.module else package


def _run_at_import(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.With)):
            yield from _run_at_import(node.body)
        # Imports in a `try` are optional.


def _list_installed() -> set[str]:
    locked = re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==", LOCK.read_text())
    return {"torch", *locked}


def _check_requirements(contents: Contents) -> Iterator[Finding]:
    file = contents.manifest.requirements_file
    if file is None:
        return
    installed = _list_installed()
    missing = []
    for line in contents.sources.get(file, "").splitlines():
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            hint = "it has no effect: nothing is installed"
            yield Finding(None, f"{file}: {text!r} is an option of pip", hint)
            continue
        name = requirement.name.lower().replace("_", "-")
        if name not in installed:
            missing.append(text)
        elif not requirement.specifier.contains(_version(name), prereleases=True):
            hint = f"check that the archive loads below, or write another version {ADVICE} {contents.build_command}"
            yield Finding(None, f"{file}: {text}; the image has {name} {_version(name)}", hint)
    if missing:
        yield Finding(
            False,
            f"{file}: {', '.join(missing)}: not in the image, and nothing is installed at startup",
            f"{contents.build_command} installs it, for the archive in the image",
        )


def _version(name: str) -> str:
    return importlib.metadata.version(name).split("+")[0]


def _check_batching(contents: Contents) -> Iterator[Finding]:
    """Yield what in a handler works, but may behave differently than expected."""
    file = _handler_file(contents.manifest.handler)
    text = contents.sources.get(file)
    if text is None:
        return
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef) or len(function.args.args) < 2:
            continue
        if function.name not in ("handle", "preprocess"):
            continue
        data = function.args.args[1].arg
        for node in ast.walk(function):
            if isinstance(node, ast.Subscript) and ast.unparse(node) == f"{data}[0]":
                yield Finding(
                    None,
                    f"{file}:{node.lineno} reads {data}[0]: only the first instance of a "
                    "request is answered, as on Google's image",
                    "process every element",
                )
                break
        if '"instances"' in ast.unparse(function).replace("'", '"'):
            yield Finding(
                None,
                f'{file}:{function.lineno} reads "instances": the JSON envelope passes the instances themselves',
                "read the rows directly",
            )
    if re.search(r"\beval\(|\bpickle\.loads?\(", text):
        hint = "never apply it to the contents of a request"
        yield Finding(None, f"{file} uses eval or pickle", hint)
