"""What a stock archive needs, read from its files alone; nothing in it is run."""

import ast
import importlib.metadata
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement

from serving import artifact, torchserve
from serving.errors import ArchiveError
from serving.stock.manifest import Manifest, read_manifest

LOCK = Path(__file__).resolve().parents[2] / "requirements" / "serve.lock"
OTHER_NAMES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "google.cloud.storage": "google-cloud-storage",
    "ts": "torchserve",
}
"""Of packages that are imported by another name than they are installed by."""


class Finding(NamedTuple):
    """One thing that was found."""

    works: bool | None
    """True: it will. False: it will not. None: it does, but look at it."""
    what: str
    to_do: str = ""


class Contents(NamedTuple):
    """An archive's files."""

    names: list[str]
    sources: dict[str, str]
    """The text of the files that are Python or requirements."""
    manifest: Manifest


def read_archive(archive: Path) -> Contents:
    """Read an archive; raise ArchiveError where it cannot be unpacked or has no manifest."""
    if not archive.is_file():
        raise ArchiveError(f"{archive} does not exist")
    with tempfile.TemporaryDirectory(prefix="migrate-") as made:
        folder = Path(made)
        artifact.unpack(archive, folder)
        manifest = read_manifest(archive)
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        names = [str(file.relative_to(folder)) for file in files]
        texts = {
            name: file.read_text(errors="replace")
            for name, file in zip(names, files, strict=True)
            if file.suffix in (".py", ".yaml", ".yml") or name == manifest.requirements_file
        }
    return Contents(names, texts, manifest)


def inspect_archive(contents: Contents) -> Iterator[Finding]:
    """Give all that there is to say of an archive."""
    yield from _handler(contents)
    yield from _imports(contents)
    yield from _requirements(contents)
    yield from _habits(contents)
    for name in contents.names:
        if name.endswith((".so", ".pyd")) and "cpython-311-x86_64" not in name:
            yield Finding(None, f"{name} is compiled", "it must fit Python 3.11 on x86-64 Linux")


def _handler(contents: Contents) -> Iterator[Finding]:
    manifest = contents.manifest
    file = _file(manifest.handler)
    if file in contents.sources:
        yield Finding(True, f"handler {manifest.handler}: runs unchanged behind the JSON envelope")
    elif _default_handler(manifest.handler):
        yield Finding(True, f"handler {manifest.handler}: one of TorchServe's own, and it is here")
    else:
        yield Finding(
            False,
            f"handler {manifest.handler}: neither in the archive nor one of TorchServe's",
            "pack it anew with --handler FILE.py",
        )
    if manifest.serialized_file and manifest.serialized_file not in contents.names:
        yield Finding(False, f"{manifest.serialized_file}: in the manifest, not in the archive")
    if manifest.config_file:
        text = contents.sources.get(manifest.config_file, "")
        batch = re.search(r"(?m)^\s*batchSize:\s*(\d+)", text)
        if batch and int(batch[1]) > 1:
            yield Finding(
                None,
                f"{manifest.config_file}: batchSize {batch[1]} is followed",
                "each request of a batch gets its own answer only from a handler that answers "
                "every row it is given",
            )


def _file(handler: str) -> str:
    """Return the file of FILE, FILE.py or FILE.py:FUNCTION."""
    name = handler.split(":", 1)[0].rsplit("/", 1)[-1]
    return name if name.endswith(".py") else f"{name}.py"


def _default_handler(handler: str) -> Path | None:
    file = torchserve.find_package_dir() / "torch_handler" / f"{handler}.py"
    return file if file.is_file() else None


def _imports(contents: Contents) -> Iterator[Finding]:
    here = _in_the_image()
    own = {name.split("/", 1)[0].removesuffix(".py") for name in contents.names}
    for module, needed_by in sorted(_needed(contents).items()):
        top = module.split(".")[0]
        name = OTHER_NAMES.get(module) or OTHER_NAMES.get(top, top.replace("_", "-").lower())
        if top in own or top in sys.stdlib_module_names or name in here:
            continue
        yield Finding(
            False,
            f"import {top} ({', '.join(sorted(needed_by))}): not in the image",
            f'make build EXTRAS="{name}"',
        )


def _needed(contents: Contents) -> dict[str, set[str]]:
    """Return the modules that are imported at once, and by which files; TorchServe's followed."""
    sources = {name: text for name, text in contents.sources.items() if name.endswith(".py")}
    default = _default_handler(contents.manifest.handler)
    if default and _file(contents.manifest.handler) not in sources:
        sources[f"ts/torch_handler/{default.name}"] = default.read_text()
    needed: dict[str, set[str]] = {}
    while sources:
        name, text = sources.popitem()
        for module in _top_level_imports(text, name):
            users = needed.setdefault(module, set())
            if not users and module.startswith("ts.torch_handler."):
                file = _default_handler(module.rsplit(".", 1)[1])
                if file:
                    sources[f"ts/torch_handler/{file.name}"] = file.read_text()
            users.add(name)
    return needed


def _top_level_imports(text: str, name: str) -> Iterator[str]:
    """Give the modules that a file imports when it is itself imported, and cannot do without."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ArchiveError(f"{name} is no Python 3.11: {error}") from error
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
        # What stands in a `try` can be done without, or it would not stand there.


def _in_the_image() -> set[str]:
    locked = re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==", LOCK.read_text())
    return {"torch", *locked}


def _requirements(contents: Contents) -> Iterator[Finding]:
    file = contents.manifest.requirements_file
    if file is None:
        return
    here = _in_the_image()
    lacking = []
    for line in contents.sources.get(file, "").splitlines():
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            yield Finding(None, f"{file}: {text!r} is an option of pip's", "nothing is installed")
            continue
        name = requirement.name.lower().replace("_", "-")
        if name not in here:
            lacking.append(text)
        elif not requirement.specifier.contains(_version(name), prereleases=True):
            yield Finding(
                None,
                f"{file}: {text}; the image has {name} {_version(name)}",
                "see that the trial below loads, or pin it by EXTRAS",
            )
    if lacking:
        yield Finding(
            False,
            f"{file}: {', '.join(lacking)}: an image never installs anything at its start",
            f'make build EXTRAS="{" ".join(lacking)}"',
        )


def _version(name: str) -> str:
    return importlib.metadata.version(name).split("+")[0]


def _habits(contents: Contents) -> Iterator[Finding]:
    """Give what in a handler works, but not as its author may think."""
    file = _file(contents.manifest.handler)
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
                    f"{file}:{node.lineno} reads {data}[0]: of several instances in a "
                    "request only the first is answered, as it is now",
                    "go through all of them",
                )
                break
        if '"instances"' in ast.unparse(function).replace("'", '"'):
            yield Finding(
                None,
                f'{file}:{function.lineno} looks for "instances": the envelope has '
                "taken them out by then",
                "see that it takes the rows themselves",
            )
    if re.search(r"\beval\(|\bpickle\.loads?\(", text):
        yield Finding(None, f"{file} evaluates or unpickles", "never what a request brought")
