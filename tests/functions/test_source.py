"""What is deployed: complete by itself, pinned to what is tested here, and one text of everything."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from functions import source
from functions.catalogue import FUNCTIONS, Function
from tests import bucket, wire
from tests.functions.conftest import framework
from tests.functions.test_digits import FILES
from tests.pictures import ROOT

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
    folder = source.lay_out(function, tmp_path)
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


@functions
def test_there_is_one_text_of_what_functions_share(function: Function, tmp_path: Path) -> None:
    links = [path for path in function.folder.iterdir() if path.is_symlink()]
    assert links
    assert all(path.resolve().is_relative_to(ROOT) for path in links)
    # gcloud passes over links to folders: what is laid out has none.
    laid_out = source.lay_out(function, tmp_path)
    assert not [path for path in laid_out.rglob("*") if path.is_symlink()]


def test_digits_leaves_at_home_what_only_training_and_torchserve_need(tmp_path: Path) -> None:
    laid_out = source.lay_out(FUNCTIONS["digits"], tmp_path)
    names = {path.name for path in laid_out.rglob("*")}
    assert names >= {"main.py", "batch.py", "envelope.py", "task.py", "requirements.txt"}
    assert not names & {"train", "export", "vertex_handler.py", "README.md", "__pycache__"}


def test_the_laid_out_digits_answers_far_from_this_repository(
    emulator: str, tmp_path: Path
) -> None:
    laid_out = source.lay_out(FUNCTIONS["digits"], tmp_path)
    uri = bucket.filled(emulator, "far-from-here", "digits", *FILES)
    environ = {"STORAGE_URI": uri, "STORAGE_EMULATOR_HOST": emulator}
    with framework(laid_out / "main.py", "digits", tmp_path, **environ) as endpoint:
        answer = endpoint.post(wire.CASES[0].body)
    wire.check(wire.CASES[0], answer.code, answer.body)


def test_each_function_s_folder_says_how_it_is_run_deployed_and_asked() -> None:
    for name, function in FUNCTIONS.items():
        text = (function.folder / "README.md").read_text()
        assert f"make function-{name}" in text
        assert f"make deploy-function NAME={name}" in text
        assert "curl" in text
