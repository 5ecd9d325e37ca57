"""The function of a model is made from its archive: code to deploy, and files for a bucket."""

import os
import zipfile
from pathlib import Path

import pytest

from deploy.errors import UserError
from functions.model_archive import choose_size, create_function, extract_files, merge_requirements
from functions.packaging import assemble
from functions.registry import COMMON
from project.model_folder import Model

CODE = ("model.py", "network.py", "layers/attention.py")
FILES = ("requests.json", "tokenizer/vocab.txt", "weights.pt")
OF_TORCHSERVE = ("MAR-INF/MANIFEST.json", "vertex_handler.py", "handler/batch.py", "task/images.py")
GENERATED = ("golden-request.json", "schema.json", "requirements.txt", "wheels/words-1.0.whl")


def pack(folder: Path, name: str, *entries: str, own: str = "") -> Model:
    """Return a model with an archive, in which each file contains its own name, and requirements."""
    model = Model(path=folder / name, name=name, output=folder / "build")
    (model.packages / "wheels").mkdir(parents=True, exist_ok=True)
    (model.packages / "requirements.txt").write_text(own)
    (model.packages / "wheels" / "words-1.0.whl").touch()
    with zipfile.ZipFile(model.archive, "w") as archive:
        for entry in entries:
            archive.writestr(entry, f"{name}: {entry}")
    return model


def test_code_is_deployed_and_all_other_files_are_fetched(tmp_path: Path) -> None:
    entries = (*CODE, *FILES, *OF_TORCHSERVE, *GENERATED)
    model = pack(tmp_path, "my-text", *entries, own="./wheels/words-1.0.whl\n")
    function = create_function(model)
    assert function.files == FILES
    assert function.entry_point.isidentifier()
    source = assemble(function, tmp_path / "functions")
    assert source == tmp_path / "functions" / "my-text"
    paths = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    shared = ("handler/", "task/", "storage/", *COMMON)
    assert {path for path in paths if not path.startswith(shared)} == {
        *("main.py", "requirements.txt", "files.json", "wheels/words-1.0.whl"),
        *(f"archive/{name}" for name in CODE),
    }
    assert (source / "requirements.txt").read_text().endswith("\n./wheels/words-1.0.whl\n")
    assert (source / "archive" / "network.py").read_text() == "my-text: network.py"


def test_sources_and_files_of_two_models_are_apart(tmp_path: Path) -> None:
    models = [pack(tmp_path, name, *CODE, *FILES) for name in ("first", "second")]
    for model in [*models, models[0]]:
        function = create_function(model)
        extract_files(function, model)
        assemble(function, tmp_path / "functions")
    for name in ("first", "second"):
        code = tmp_path / "functions" / name / "archive" / "model.py"
        assert code.read_text() == f"{name}: model.py"
        vocabulary = tmp_path / "build" / name / "function" / "tokenizer" / "vocab.txt"
        assert vocabulary.read_text() == f"{name}: tokenizer/vocab.txt"


def test_files_are_extracted_again_if_the_archive_is_newer(tmp_path: Path) -> None:
    model = pack(tmp_path, "text", *CODE, *FILES)
    function = create_function(model)
    file = function.files_folder / "weights.pt"
    extract_files(function, model)
    written = file.stat().st_mtime_ns
    extract_files(function, model)
    assert file.stat().st_mtime_ns == written
    later = file.stat().st_mtime + 1
    os.utime(model.archive, (later, later))
    extract_files(function, model)
    assert file.stat().st_mtime_ns != written


@pytest.mark.parametrize(
    ("own", "added", "removed"),
    [
        ("", [], []),
        ("transformers==5.0\n", ["transformers==5.0"], []),
        ("Pillow>=11  # older\n", ["Pillow>=11  # older"], ["pillow==13.0.0"]),
        ("./wheels/numpy-2.0-cp311.whl\n", ["./wheels/numpy-2.0-cp311.whl"], ["numpy==2.4.6"]),
        # The torch of the function is the one of the image.
        ("torch>=2\n", ["torch==2.13.0+cpu", "torch>=2"], []),
        (
            "--index-url https://example.com\nwords==1 \\\n    --hash=sha256:ab \\\n    --hash=sha256:cd\n",
            ["--index-url https://example.com", "words==1"],
            [],
        ),
    ],
)
def test_requirements_of_the_model_are_added_to_those_of_the_function(
    own: str, added: list[str], removed: list[str]
) -> None:
    file = Path("functions/model/requirements.txt")
    base = (Path(__file__).parents[2] / file).read_text()
    lines = merge_requirements(base, own).splitlines()
    assert set(base.splitlines()) - set(lines) == set(removed)
    assert set(lines) >= set(added)
    assert "--hash" not in "".join(lines)


@pytest.mark.parametrize(
    ("files_mib", "memory_gib", "cpu"),
    [(1, 2, "1"), (150, 2, "1"), (500, 4, "1"), (2000, 8, "2"), (4000, 16, "4"), (10_000, 32, "8")],
)
def test_memory_follows_from_the_size_of_the_files(
    files_mib: int, memory_gib: int, cpu: str
) -> None:
    assert choose_size(files_mib << 20) == (memory_gib, cpu)


def test_model_that_is_too_large_for_a_function_is_rejected() -> None:
    with pytest.raises(UserError, match=r"11\.7 GiB need 37 GiB of memory; .* at most 32 GiB"):
        choose_size(12_000 << 20)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["mnist.py", "mnist.pt"], r"text\.mar has no model\.py"),
        ([*CODE, "storage.py"], "the name storage is used by a module of the function"),
        ([*CODE, "functions/__init__.py"], "the name functions is used"),
        ([*CODE, "../outside.txt"], r"\.\./outside\.txt is outside of the archive"),
    ],
)
def test_archive_that_cannot_be_a_function_is_rejected(
    tmp_path: Path, entries: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        create_function(pack(tmp_path, "text", *entries))
