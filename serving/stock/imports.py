"""Follow the imports of a stock archive from its handler and its model file, without running them."""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from project.requirements import DISCONTINUED
from serving import torchserve
from serving.stock import packages
from serving.stock.contents import Contents, Finding

OWN_FOLDER = "ts/torch_handler"
"""Where TorchServe's own handlers are."""


class Import(NamedTuple):
    """One module that a statement imports."""

    module: str
    names: tuple[str, ...]
    """What `from module import …` names: attributes, or modules themselves."""
    level: int
    """The leading dots of a relative import."""
    line: int
    is_required: bool
    """Whether it runs when the file is imported, with nothing that catches its failure."""


class Missing(NamedTuple):
    """An import that neither the archive nor the image provides."""

    module: str
    names: tuple[str, ...]
    place: str
    """FILE:LINE."""
    is_required: bool


class Code:
    """The files that are imported from the handler and the model file."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.trees: dict[str, ast.Module] = {}
        """The parsed files, by name; those of TorchServe's own begin with ts/."""
        self.missing: list[Missing] = []
        self.problems: list[Finding] = []
        self._folders = [""]  # of the archive, on sys.path
        self._required: set[str] = set()
        self._visited: set[tuple[str, bool]] = set()
        self._follow()

    @property
    def handler(self) -> str:
        """The name of the handler's file, which is the archive's own or TorchServe's."""
        file = handler_file(self.contents.manifest.handler)
        return file if file in self.contents.sources else f"{OWN_FOLDER}/{file}"

    @property
    def own_trees(self) -> dict[str, ast.Module]:
        """The parsed files of the archive."""
        return {name: tree for name, tree in self.trees.items() if not _is_own(name)}

    def _follow(self) -> None:
        model_file = self.contents.manifest.model_file
        queue = [(name, True) for name in (self.handler, model_file) if name]
        while queue:
            name, is_required = queue.pop()
            if (name, is_required) in self._visited or (name, True) in self._visited:
                continue
            self._visited.add((name, is_required))
            tree = self._parse(name, is_required)
            if tree is None:
                continue
            self._folders += [f for f in self._find_folders(tree) if f not in self._folders]
            for found in list_imports(tree):
                required = is_required and found.is_required
                if _is_own(name) and not found.is_required:
                    continue
                queue += [(file, required) for file in self._resolve(name, found, required)]

    def _parse(self, name: str, is_required: bool) -> ast.Module | None:
        if name in self.trees:
            return self.trees[name]
        source = self.contents.sources.get(name)
        if source is None and _is_own(name):
            file = torchserve.find_package_dir() / name.removeprefix("ts/")
            source = file.read_bytes() if file.is_file() else None
        if source is None:
            return None
        try:
            self.trees[name] = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            place = f"{name}:{line}" if line else name
            reason = f"{place} is not valid Python 3.11: {getattr(error, 'msg', error)}"
            self.problems.append(Finding(False if is_required else None, reason))
            return None
        return self.trees[name]

    def _find_folders(self, tree: ast.Module) -> Iterator[str]:
        """Yield the folders of the archive that a file puts on sys.path."""
        folders = {f"{parent}/" for n in self.contents.names for parent in PurePosixPath(n).parents}
        for node in ast.walk(tree):
            text = (
                ast.unparse(node) if isinstance(node, (ast.Call, ast.AugAssign, ast.Assign)) else ""
            )
            if not text.startswith(("sys.path", "path.insert(", "path.append(")):
                continue
            parts = [
                child.value.strip("./")
                for child in ast.walk(node)
                if isinstance(child, ast.Constant) and isinstance(child.value, str)
            ]
            path = "/".join(part for part in parts if part)
            named = [folder for folder in folders if path and folder == f"{path}/"]
            # Of a path that is computed elsewhere, any folder may be meant.
            yield from named or sorted(folders - {"./"})

    def _resolve(self, name: str, found: Import, is_required: bool) -> Iterator[str]:
        """Yield the files that an import runs; note what is missing."""
        module = found.module
        place = f"{name}:{found.line}"
        if found.level:
            folder = PurePosixPath(name).parent
            if not _is_own(name) and f"{folder}/".replace("./", "") in self._folders:
                hint = f"write: from {module or '.'.join(found.names)} import …"
                if not module:
                    hint = f"write: import {', '.join(found.names)}"
                reason = (
                    f"{place} imports {'.' * found.level}{module}: TorchServe imports the file "
                    "outside of a package"
                )
                self.problems.append(Finding(False if is_required else None, reason, hint))
                return
            parts = folder.parts[: len(folder.parts) - found.level + 1]
            module = ".".join([*parts, *([module] if module else [])])
            if _is_own(name):
                yield from _own_files(module, found.names)
                return
            yield from self._files_of(module, found.names)
            return
        top = module.split(".")[0]
        if self.locate(top) is not None and not _is_own(name):
            if self.locate(module) is None:
                self.missing.append(Missing(module, found.names, place, is_required))
            yield from self._files_of(module, found.names)
        elif top in sys.stdlib_module_names:
            return
        elif packages.is_installed(module):
            yield from _own_files(module, found.names)
            for each in found.names:
                if packages.is_namespace(module) and not packages.is_installed(f"{module}.{each}"):
                    self.missing.append(Missing(f"{module}.{each}", (), place, is_required))
        elif is_required or top not in self.contents.zipped:
            full = f"{module}.{found.names[0]}" if len(found.names) == 1 else module
            find = packages.find_package
            if not find(module, self.contents) and find(full, self.contents):
                module = full
            self.missing.append(Missing(module, found.names, place, is_required))

    def _files_of(self, module: str, names: Iterable[str]) -> Iterator[str]:
        """Yield the files of a module of the archive, of its packages, and of its modules among `names`."""
        parts = module.split(".")
        modules = [".".join(parts[: n + 1]) for n in range(len(parts))]
        for each in [*modules, *(f"{module}.{name}" for name in names)]:
            if file := self.locate(each):
                yield file

    def locate(self, module: str) -> str | None:
        """Return the file of a module in the archive; "" for a folder or a compiled one; None without one."""
        names = self.contents.names
        for folder in self._folders:
            path = folder + module.replace(".", "/")
            for file in (f"{path}/__init__.py", f"{path}.py"):
                if file in self.contents.sources:
                    return file
            if any(
                name.startswith(f"{path}/")
                or (name.startswith(f"{path}.") and name.endswith(".so"))
                for name in names
            ):
                return ""
        return None


def handler_file(handler: str) -> str:
    """Return the file name of a handler given as FILE, FILE.py or FILE.py:FUNCTION."""
    name = handler.split(":", 1)[0].rsplit("/", 1)[-1]
    return name if name.endswith(".py") else f"{name}.py"


def list_imports(tree: ast.Module) -> Iterator[Import]:
    """Yield the imports of a file, without those for type checkers and those that may fail."""
    yield from _visit(tree.body, True)


def _visit(body: Iterable[ast.stmt], is_required: bool) -> Iterator[Import]:
    for node in body:
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(alias.name, (), 0, node.lineno, is_required)
            case ast.ImportFrom():
                names = tuple(alias.name for alias in node.names if alias.name != "*")
                yield Import(node.module or "", names, node.level, node.lineno, is_required)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.For() | ast.While():
                yield from _visit(node.body, False)
            case ast.ClassDef() | ast.With():
                yield from _visit(node.body, is_required)
            case ast.If():
                test = ast.unparse(node.test)
                if "TYPE_CHECKING" not in test and "__name__" not in test:
                    yield from _visit(node.body, False)
                yield from _visit(node.orelse, is_required and "TYPE_CHECKING" in test)
            case ast.Try():
                caught = " ".join(
                    ast.unparse(each.type) if each.type else "" for each in node.handlers
                )
                is_caught = (
                    not caught or "Import" in caught or "Module" in caught or "Exception" in caught
                )
                is_raised = any(
                    isinstance(n, ast.Raise) for each in node.handlers for n in ast.walk(each)
                )
                if not (node.handlers and is_caught) or is_raised:
                    yield from _visit(node.body, is_required and not is_caught)
                yield from _visit([*node.orelse, *node.finalbody], is_required)


def check_imports(code: Code) -> Iterator[Finding]:
    """Yield the modules that are missing, one finding for each package."""
    yield from code.problems
    groups: dict[tuple[str, str], list[Missing]] = {}
    for missing in code.missing:
        top = missing.module.split(".")[0]
        package = packages.find_package(missing.module, code.contents)
        groups.setdefault((package, package or top), []).append(missing)
    for (package, _), group in sorted(groups.items()):
        yield _describe_missing(code, package, group, packages.pin(package, code.contents))


def _describe_missing(code: Code, package: str, group: list[Missing], requirement: str) -> Finding:
    """Describe the imports of one package; `package` and `requirement` are "" if it is not known."""
    first = group[0]
    top = first.module.split(".")[0]
    # What is imported within a function or in some cases only may not be needed.
    works = False if any(each.is_required for each in group) else None
    places = ", ".join(sorted({each.place for each in group}))
    module = first.module if top in ("google", "torch") else top
    text = f"import {module} ({places})"
    if flattened := _find_flattened(code.contents, first):
        return Finding(
            works,
            f"import {first.module} ({places}): {flattened} is at the top of the archive, because "
            "--extra-files copies the files of a folder without the folder",
            f"give --extra-files the folder that contains {top}/, or write: import {flattened[:-3]}",
        )
    if code.locate(top) is not None:
        return Finding(works, f"import {first.module} ({places}): not among the files of {top}/")
    text += (
        ": not in the image"
        if works is False
        else ", in a function or a condition: not in the image"
    )
    if package in DISCONTINUED:
        hint = f"{DISCONTINUED[package]}: write a handler that does not import it"
        return Finding(works, text, hint)
    name = requirement or f"the package that provides {top}"
    build = code.contents.build_command
    file, _ = code.contents.requirements
    hint = f"write {name} in requirements.txt beside the archive, then {build}"
    if package and packages.is_listed(package, code.contents):
        hint = f"{build} installs {name}, which {file} lists"
    if old := packages.find_old_pin(package, code.contents):
        hint += f" ({old} has no build for Python 3.11)"
    return Finding(works, text, hint, requirement)


def _find_flattened(contents: Contents, missing: Missing) -> str:
    """Return the file at the top of the archive that belongs into the folder of a missing package."""
    for name in [*missing.module.split(".")[1:], *missing.names]:
        if f"{name}.py" in contents.sources:
            return f"{name}.py"
    return ""


def _is_own(name: str) -> bool:
    """Whether a file is TorchServe's."""
    return name.startswith("ts/")


def _own_files(module: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the files that a module of TorchServe may have, and those of its modules among `names`."""
    if module.startswith("ts."):
        for each in [module, *(f"{module}.{name}" for name in names)]:
            yield f"{each.replace('.', '/')}.py"
