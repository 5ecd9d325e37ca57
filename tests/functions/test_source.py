"""What is run and deployed: complete by itself, pinned to what is tested here, nothing of elsewhere."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from functions import packaging
from functions.registry import FUNCTIONS, Function
from tests.images import ROOT

PIN = re.compile(r"([a-z-]+)==([0-9.]+)(\+cpu)?")
functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def pins(file: Path) -> dict[str, str]:
    """Return package → version of a requirements file, a lock or not."""
    found = map(PIN.match, file.read_text().splitlines())
    return {match[1]: match[2] for match in found if match}


@functions
def test_each_requirement_is_the_version_that_is_tested_here(function: Function) -> None:
    tested = pins(ROOT / "requirements" / "dev.lock") | {
        "torch": importlib.metadata.version("torch").partition("+")[0]
    }
    wanted = pins(function.folder / "requirements.txt")
    assert wanted == {name: tested[name] for name in wanted}


@functions
def test_all_that_is_imported_is_required_or_goes_along(function: Function, tmp_path: Path) -> None:
    folder = packaging.assemble(function, tmp_path)
    wanted = pins(folder / "requirements.txt").keys()
    provided = importlib.metadata.packages_distributions()
    along = {path.stem for path in folder.iterdir()} | sys.stdlib_module_names
    # What comes with a package that is named, as werkzeug does with flask, is no import of ours.
    with_it = {"google_crc32c", "requests"}
    for file in folder.rglob("*.py"):
        for name in imported(file) - along - with_it:
            assert {each.lower() for each in provided[name]} & wanted, (
                f"{file.relative_to(folder)} imports {name}"
            )


def imported(file: Path) -> set[str]:
    """Return the top-level names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_digits_leaves_at_home_what_only_training_and_torchserve_need(tmp_path: Path) -> None:
    laid_out = packaging.assemble(FUNCTIONS["digits"], tmp_path)
    files = {str(path.relative_to(laid_out)) for path in laid_out.rglob("*") if path.is_file()}
    assert files >= {"main.py", "requirements.txt", "handler/batch.py", "model/task.py"}
    unwanted = r"model/(train|export)|handler/vertex_handler|functions/[a-z]+/main|.*(\.md|\.pyc)$"
    assert not [file for file in files if re.match(unwanted, file)]


def test_laid_out_again_only_what_changed_is_written_and_nothing_else_stays(
    tmp_path: Path,
) -> None:
    laid_out = packaging.assemble(FUNCTIONS["hello"], tmp_path)
    (laid_out / "main.py").write_text("spoilt")
    (laid_out / "__pycache__").mkdir()
    (laid_out / "__pycache__" / "main.pyc").write_bytes(b"\0")
    same = laid_out / "functions" / "http.py"
    before = same.stat().st_ctime_ns
    packaging.assemble(FUNCTIONS["hello"], tmp_path)
    assert (laid_out / "main.py").read_text() != "spoilt"
    assert {path.name for path in laid_out.rglob("*") if path.is_file()} == {
        "main.py",
        "requirements.txt",
        "__init__.py",
        "http.py",
    }
    assert same.stat().st_ctime_ns == before
