"""Compare what a model imports with what its image has: the image's own packages, and requirements.txt.

The Python that runs this has the model's packages. Which distribution provides a module is read from what is
installed here; it is never guessed from the module's name.
"""

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
IMAGE_LOCKS = (ROOT / "requirements" / "serve.lock", ROOT / "requirements" / "torch.lock")
OWN_PACKAGES = ("handler", "task")
"""Packages of this project in every archive."""
IMPORT_ERRORS = ("ImportError", "ModuleNotFoundError", "Exception")


class DirectImports:
    """The top-level modules that a model's own files import, with the file and line of the first import."""

    def __init__(self, folder: Path) -> None:
        self.required: dict[str, str] = {}
        self.optional: dict[str, str] = {}
        """Imports whose failure the model handles."""
        own = {path.stem for path in folder.iterdir()}
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder)
            if name.parts[0] not in OWN_PACKAGES:
                self._file = str(name)
                self._visit(ast.parse(path.read_bytes()), self.required)
        for found in (self.required, self.optional):
            for module in [each for each in found if each in own or _is_standard(each)]:
                del found[module]

    def _visit(self, node: ast.AST, found: dict[str, str]) -> None:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module and not node.level else []
        else:
            names = []
        for name in names:
            found.setdefault(name.partition(".")[0], f"{self._file}:{getattr(node, 'lineno', 0)}")
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        is_guarded = isinstance(node, ast.Try) and any(map(_handles_import_error, node.handlers))
        for child in ast.iter_child_nodes(node):
            self._visit(child, self.optional if is_guarded else found)


def find_missing(
    folder: Path, loaded: Collection[str], image: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return failures and notes about the modules that an image with these packages does not have.

    `folder` has the contents of the archive, and `loaded` are the top-level modules that it imported.
    """
    direct = DirectImports(folder)
    available = set(image) | _close(_read_requirements(folder / "requirements.txt"))
    distributions = metadata.packages_distributions()

    def is_missing(module: str) -> bool:
        names = distributions.get(module, [])
        return not _is_standard(module) and available.isdisjoint(map(canonicalize_name, names))

    failures = [
        f"{place}: {module} is neither in the image nor in requirements.txt: {_advise(module, distributions)}"
        for module, place in direct.required.items()
        if is_missing(module)
    ]
    known = [*direct.required, *OWN_PACKAGES]
    others = sorted(
        {
            ", ".join(sorted(set(distributions.get(module, [module]))))
            for module in {*loaded, *direct.optional}
            if module not in known
            and is_missing(module)
            # Compiled parts of packages are loaded as modules of their own.
            and (module in distributions or not module.startswith("_"))
        }
    )
    notes = [
        f"imported here, but not in the image; the model has to work without: {', '.join(others)}"
    ]
    return failures, notes if others else []


def read_image_packages(locks: Collection[Path] = IMAGE_LOCKS) -> set[str]:
    """Return the names of the distributions in every image."""
    lines = [line for lock in locks for line in lock.read_text().splitlines()]
    matches = (re.match(r"([\w.-]+)==", line) for line in lines)
    return {canonicalize_name(match[1]) for match in matches if match}


def find_uninstalled(folder: Path) -> Iterator[str]:
    """Yield the lines of requirements.txt whose distribution is not installed here, or in another version."""
    for requirement in _read_requirements(folder / "requirements.txt"):
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement} is not installed"
        else:
            if not requirement.specifier.contains(version, prereleases=True):
                yield f"{requirement}: version {version} is installed"


def _advise(module: str, distributions: Mapping[str, list[str]]) -> str:
    names = sorted(set(distributions.get(module, [])))
    if len(names) == 1:
        return f"add {names[0]}=={metadata.version(names[0])}"
    if names:
        return f"add the one of {', '.join(names)} that the model uses"
    return f"add the package that provides {module}"


def _read_requirements(path: Path) -> list[Requirement]:
    """Return the requirements that apply here. Options, URLs and included files are left out."""
    found = []
    text = path.read_text().replace("\\\n", " ") if path.is_file() else ""
    for line in text.splitlines():
        stated = re.split(r"(?:^|\s)#|\s--", line)[0].strip()
        is_wheel = stated.endswith(".whl")
        try:
            requirement = Requirement(Path(stated).name.partition("-")[0] if is_wheel else stated)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            found.append(requirement)
    return found


def _close(requirements: list[Requirement]) -> set[str]:
    """Return the names of these distributions and of all that they require."""
    found: set[str] = set()
    pending = list(requirements)
    seen: set[str] = set()
    while pending:
        requirement = pending.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        found.add(canonicalize_name(requirement.name))
        try:
            lines = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue
        for each in map(Requirement, lines):
            extras = ["", *requirement.extras]
            if each.marker is None or any(
                each.marker.evaluate({"extra": extra}) for extra in extras
            ):
                pending.append(each)
    return found


def _is_standard(module: str) -> bool:
    return module in sys.stdlib_module_names or module == "__main__"


def _handles_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = [node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)]
    return any(name in IMPORT_ERRORS for name in names)
