"""The packaged source of a function is complete, and requires the tested versions."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from functions.packaging import assemble
from functions.registry import HELLO, Function
from tests.functions.conftest import EVERY, TOY
from tests.images import ROOT

PIN = re.compile(r"([a-z-]+)==([0-9.]+)(\+cpu)?")
functions = pytest.mark.parametrize("function", EVERY.values(), ids=EVERY)


def read_pins(file: Path) -> dict[str, str]:
    """Return versions by package of a requirements file or a lock."""
    matches = map(PIN.match, file.read_text().splitlines())
    return {match[1]: match[2] for match in matches if match}


@functions
def test_requirements_have_the_tested_versions(function: Function) -> None:
    tested = read_pins(ROOT / "requirements" / "dev.lock") | {
        "torch": importlib.metadata.version("torch").partition("+")[0]
    }
    pinned = read_pins(function.folder / "requirements.txt")
    assert pinned == {name: tested[name] for name in pinned}


@functions
def test_every_import_is_packaged_or_required(function: Function, tmp_path: Path) -> None:
    folder = assemble(function, tmp_path)
    required = read_pins(folder / "requirements.txt").keys()
    packages = importlib.metadata.packages_distributions()
    modules = [*folder.iterdir(), *(folder / "archive").glob("*")]
    packaged = {path.stem for path in modules} | sys.stdlib_module_names
    # Installed together with google-cloud-storage.
    indirect = {"google_crc32c", "requests"}
    for file in folder.rglob("*.py"):
        for name in list_imports(file) - packaged - indirect:
            assert {each.lower() for each in packages[name]} & required, (
                f"{file.relative_to(folder)} imports {name}"
            )


def list_imports(file: Path) -> set[str]:
    """Return the top-level names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_function_of_a_model_is_packaged_without_the_code_for_torchserve(tmp_path: Path) -> None:
    folder = assemble(TOY, tmp_path)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files >= {"main.py", "requirements.txt", "handler/batch.py", "archive/model.py"}
    unwanted = r".*/vertex_handler|functions/[a-z]+/main|.*(\.md|\.pyc|\.safetensors)$"
    assert not [file for file in files if re.match(unwanted, file)]


def test_assembling_again_writes_changed_files_only_and_deletes_others(tmp_path: Path) -> None:
    folder = assemble(HELLO, tmp_path)
    (folder / "main.py").write_text("changed")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "main.pyc").write_bytes(b"\0")
    unchanged = folder / "functions" / "http.py"
    before = unchanged.stat().st_ctime_ns
    assemble(HELLO, tmp_path)
    assert (folder / "main.py").read_text() != "changed"
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        "main.py",
        "requirements.txt",
        "__init__.py",
        "http.py",
    }
    assert unchanged.stat().st_ctime_ns == before
