"""Find what behaves differently in this image than where the archive was made, by reading its files."""

import ast
import functools
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from serving.stock.contents import Finding
from serving.stock.handlers import read_config
from serving.stock.imports import OWN_FOLDER, Code

CHECKED_MODULES = (
    *("asyncio", "base64", "binascii", "collections", "fractions", "inspect", "math", "numpy"),
    *("PIL.Image", "platform", "random", "string", "time", "typing"),
)
"""Modules from which a release has removed names that handlers use."""
PACKAGES = {"numpy": "NumPy", "PIL": "Pillow"}
"""The package of a module that is not Python's own."""
PICKLE_VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"
UNRESTRICTED = ("safe_globals", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
"""What a handler names that allows classes in a pickle itself."""
DOWNLOADS = (
    *("from_pretrained", "hf_hub_download", "snapshot_download", "load_state_dict_from_url"),
    *("urlretrieve", "hub.load", "nltk.download", "SentenceTransformer"),
)
"""Functions that download what is named by a text, unless the archive has a file of that name."""
METRICS = (
    *("add_counter", "add_error", "add_metric", "add_metric_to_cache", "add_percent", "add_size"),
    "add_time",
)
"""The functions of TorchServe's `context.metrics`."""
NO_COMPILER = "needs a C++ compiler, which the image does not have"
TEXT_HANDLER = f"{OWN_FOLDER}/text_handler.py"
HOMES = ("~/", "/home/model-server/")
"""The home folder, and that of TorchServe's own image."""
MAX_NAMES = 3
"""How many classes of a pickle are named."""


def check_changes(code: Code) -> Iterator[Finding]:
    """Yield what depends on the versions of Python, NumPy and torch, on a compiler, a network or a home folder."""
    for name, tree in code.own_trees.items():
        yield from _check_removed(name, tree)
        yield from _check_calls(code, name, tree)
    yield from _check_metrics(code)
    yield from _check_pickles(code)
    yield from _check_config(code)
    for name in code.contents.names:
        if name.endswith((".so", ".pyd")) and "cpython-311-x86_64" not in name:
            yield Finding(None, f"{name} is compiled", "build it for Python 3.11 on x86-64 Linux")


def _check_removed(file: str, tree: ast.Module) -> Iterator[Finding]:
    """Yield the names that Python 3.11 or the image's NumPy no longer has."""
    aliases = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in CHECKED_MODULES
    } | {
        alias.asname or alias.name: f"PIL.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "PIL"
        for alias in node.names
        if alias.name == "Image"
    }
    found: dict[tuple[str, str], int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if module := aliases.get(node.value.id):
                found.setdefault((module, node.attr), node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module in CHECKED_MODULES and not node.level:
            for alias in node.names:
                found.setdefault((node.module, alias.name), node.lineno)
    for (module, name), line in found.items():
        if name != "*" and not _has(module, name):
            package = PACKAGES.get(module.partition(".")[0], "Python")
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            if package != "Python":
                version = importlib.metadata.version(package)
            yield Finding(
                None,
                f"{file}:{line}: {module}.{name} does not exist in {package} {version}, which the image has",
                "replace it, and build the archive again",
            )


@functools.cache
def _has(module: str, name: str) -> bool:
    """Whether a module has an attribute or a module of this name."""
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        return importlib.util.find_spec(f"{module}.{name}") is not None
    except ModuleNotFoundError:
        return False


def _check_calls(code: Code, file: str, tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        place = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            if function == "torch.compile" and _keyword(node, "backend") in (None, "inductor"):
                hint = 'remove it, or use backend="aot_eager"'
                yield Finding(None, f"{place}: torch.compile {NO_COMPILER}", hint)
            elif function == "yaml.load" and len(node.args) == 1 and not node.keywords:
                hint = "write yaml.safe_load in its place"
                yield Finding(None, f"{place}: yaml.load needs a Loader since PyYAML 6", hint)
            yield from _check_download(code, place, node, function)
            if names := list_installed(ast.unparse(node)):
                text = f"{place}: installs packages by pip, which the image does not have"
                hint = f"remove it, and add the packages by {code.contents.build_command}"
                for name in names:
                    yield Finding(False, f"{text}: {name}", hint, name)
        elif isinstance(node, ast.Constant) and repr(node.value).strip("'").startswith(HOMES):
            hint = (
                "include what it reads in the archive, and read it from the folder of the handler"
            )
            reason = f"{place}: {node.value!r}: the home folder is empty at each start"
            yield Finding(None, reason, hint)


def list_installed(call: str) -> list[str]:
    """Return the requirements in a call, or in an error, of `pip install`."""
    found = re.search(r"\bpip3?\b[\s'\",]+install\b(.*)", call)
    words = re.findall(r"[^\s'\"`,()\[\]]+(?:\[[\w,]+\])?", found[1] if found else "")
    requirements = []
    for word in words:
        try:
            requirements.append(str(Requirement(word)))
        except InvalidRequirement:
            if not word.startswith("-"):
                break
    return requirements


def _check_download(code: Code, place: str, call: ast.Call, function: str) -> Iterator[Finding]:
    argument = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    if isinstance(argument, str) and any(
        function == name or function.endswith(f".{name}") for name in DOWNLOADS
    ):
        name = argument.strip("./")
        if argument.startswith("/") or any(n.split("/")[0] == name for n in code.contents.names):
            return
        what = f"{function}({argument!r})"
    elif _keyword(call, "pretrained") is True:
        what = f"{function}(pretrained=True)"
    else:
        return
    hint = "include the files in the archive, and give the function the folder of the handler"
    yield Finding(None, f"{place}: {what} needs a network while the model loads", hint)


def _check_metrics(code: Code) -> Iterator[Finding]:
    """Yield the first call that adds a metric of the handler's own."""
    for file, tree in code.own_trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(METRICS):
                reason = f"{file}:{node.lineno}: {ast.unparse(node.func)}: metrics of a handler are not exported"
                yield Finding(None, reason, "log the values, and make log-based metrics of them")
                return


def _keyword(call: ast.Call, name: str) -> Any:
    """Return the constant value of a keyword argument; None if it is not given, "" if it is no constant."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else ""
    return None


def _check_pickles(code: Code) -> Iterator[Finding]:
    """Yield the files of the archive that torch.load refuses without weights_only=False."""
    manifest, weights = code.contents.manifest, code.contents.weights
    calls = [
        (f"{name}:{node.lineno}", node)
        for name, tree in code.trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        # BaseHandler calls it for eager models only.
        if not name.startswith(f"{OWN_FOLDER}/base_handler") or manifest.model_file
    ]
    # TorchServe's handlers for other kinds of input are followed too, where the archive imports them.
    strict = [place for place, node in calls if _keyword(node, "weights_only") in (None, True)]
    if not strict or any(_calls(code, name) for name in UNRESTRICTED):
        return
    own = [place for place in strict if not place.startswith(OWN_FOLDER)]
    hint = (
        f"set {PICKLE_VARIABLE} if the archive is trusted, or save the state_dict: "
        "torch.save(model.state_dict(), FILE)"
    )
    refused = False
    for file, found in weights.items():
        if found.is_torchscript and own:
            refused = True
            if len(weights) == 1 and not _calls(code, "torch.jit.load"):
                reason = (
                    f"{file} is TorchScript, which torch.load ({own[0]}) refuses since torch 2.6"
                )
                yield Finding(
                    False, reason, f"load it with torch.jit.load, or set {PICKLE_VARIABLE}"
                )
        elif found.refused:
            refused = True
            names = ", ".join(found.refused[:MAX_NAMES])
            names += ", …" if len(found.refused) > MAX_NAMES else ""
            reason = f"{file} contains {names}; torch.load ({(own or strict)[0]}) restores only tensors since torch 2.6"
            # text_handler loads the vocabulary, whose name the handler chooses.
            is_loaded = file == manifest.serialized_file or TEXT_HANDLER in code.trees
            works = False if is_loaded else None
            yield Finding(works, reason, hint)
    if own and not refused and not weights:
        reason = f"{own[0]}: torch.load restores only tensors and state_dicts since torch 2.6"
        yield Finding(None, reason, f"set {PICKLE_VARIABLE} if the file contains a whole model")


def _calls(code: Code, function: str) -> bool:
    """Whether a file of the archive names a function or variable."""
    return any(function in ast.unparse(tree) for tree in code.own_trees.values())


def _check_config(code: Code) -> Iterator[Finding]:
    """Yield the settings of the archive's own model-config that change what it answers."""
    file, config = code.contents.manifest.config_file, read_config(code.contents)
    batch = config.get("batchSize", 1)
    if isinstance(batch, int) and batch > 1:
        hint = "check that the handler returns one answer for each row of a batch"
        yield Finding(None, f"{file}: batchSize {batch} applies", hint)
    pt2 = config.get("pt2")
    options = {"backend": pt2} if isinstance(pt2, str) else pt2
    if isinstance(options, dict) and "compile" in options:
        options = options["compile"]
        options = options if isinstance(options, dict) and options.get("enable") is True else None
    if not isinstance(options, dict) or "export" in options:
        return
    backend = options.get("backend", "inductor")
    if backend == "inductor" and f"{OWN_FOLDER}/base_handler.py" in code.trees:
        reason = f"{file}: pt2: the backend inductor {NO_COMPILER}: each request gets a 500"
        yield Finding(False, reason, "remove pt2, or set its backend to aot_eager")
