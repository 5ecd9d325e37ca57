"""The environment of a model with a requirements.txt: which Python, which packages, when they are installed."""

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from project.environment import InstallError, copy_packages, find_python
from project.model_folder import Model
from tests.images import ROOT
from tests.wheels import sha256, write_wheel


def make_model(folder: Path, name: str, requirements: str | None = None) -> Model:
    (folder / name).mkdir()
    (folder / name / "model.py").touch()
    if requirements is not None:
        (folder / name / "requirements.txt").write_text(requirements)
    return Model(path=folder / name, name=name, output=folder / "build")


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder, in which build/ will be, without a package index."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


def read_versions(python: Path, *names: str) -> list[str]:
    """Return the versions of packages in an environment."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps([m.version(n) for n in sys.argv[1:]]))"
    done = subprocess.run(
        [str(python), "-c", code, *names], capture_output=True, text=True, timeout=60, check=True
    )
    versions: list[str] = json.loads(done.stdout)
    return versions


@pytest.mark.parametrize("requirements", [None, "", "# none\n\n"])
def test_model_without_requirements_uses_the_python_of_the_project(
    in_folder: Path, requirements: str | None
) -> None:
    assert find_python(make_model(in_folder, "plain", requirements)) == Path(sys.executable)
    assert not (in_folder / "build" / "plain" / "venv").exists()


def test_model_gets_its_wheel_and_the_packages_of_the_project(in_folder: Path) -> None:
    model = make_model(in_folder, "one", "./wheels/mine-1.0-py3-none-any.whl\n")
    (model.path / "wheels").mkdir()
    # A package that depends on torch gets the one that is installed.
    write_wheel(model.path / "wheels", "mine", "1.0", "torch>=2")
    python = find_python(model)
    torch = metadata.version("torch")
    assert read_versions(python, "mine", "torch", "numpy")[:2] == ["1.0", torch]
    listed = [path.name for path in (in_folder / "build/one/venv").rglob("torch*.dist-info")]
    assert listed == [], "torch was installed again"


def test_requirements_are_installed_again_only_when_they_change(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(in_folder, "one", "./mine-1.0-py3-none-any.whl\n")
    write_wheel(model.path, "mine", "1.0")
    python = find_python(model)
    assert "Installing requirements.txt of one" in capsys.readouterr().err
    assert find_python(model) == python
    assert capsys.readouterr().err == ""
    write_wheel(model.path, "mine", "2.0")
    (model.path / "requirements.txt").write_text("./mine-2.0-py3-none-any.whl\n")
    assert read_versions(find_python(model), "mine") == ["2.0"]


def test_two_programs_at_once_install_the_requirements_once(in_folder: Path) -> None:
    model = make_model(in_folder, "one", "./mine-1.0-py3-none-any.whl\n")
    write_wheel(model.path, "mine", "1.0")
    command = [sys.executable, "-m", "project.environment", "--model", "one"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    programs = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
        )
        for _ in range(2)
    ]
    outputs = [program.communicate(timeout=120) for program in programs]
    assert [program.returncode for program in programs] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sum("Installing requirements.txt" in error for _, error in outputs) == 1


def test_models_may_need_different_versions_of_a_package(in_folder: Path) -> None:
    """Even of one that the project has: the project's own stays as it is."""
    pythons = []
    before = metadata.version("filelock")
    for name, version in (("one", "0.1"), ("two", "0.2")):
        model = make_model(in_folder, name, f"./filelock-{version}-py3-none-any.whl\n")
        write_wheel(model.path, "filelock", version)
        pythons.append(find_python(model))
    assert [read_versions(python, "filelock") for python in pythons] == [["0.1"], ["0.2"]]
    assert read_versions(Path(sys.executable), "filelock") == [before]


def test_file_with_hashes_is_checked(in_folder: Path) -> None:
    model = make_model(in_folder, "one")
    wheel = write_wheel(model.path, "mine", "1.0", "torch")
    text = f"./mine-1.0-py3-none-any.whl --hash={sha256(wheel)}\n"
    torch = f"torch=={metadata.version('torch').partition('+')[0]} --hash=sha256:{'0' * 64}\n"
    (model.path / "requirements.txt").write_text(text + torch)
    assert read_versions(find_python(model), "mine") == ["1.0"]
    (model.path / "requirements.txt").write_text(text.replace("sha256:", f"sha256:{'0' * 64} #"))
    with pytest.raises(InstallError, match="DO NOT MATCH THE HASHES"):
        find_python(model)


@pytest.mark.parametrize("hashes", ["", f" --hash=sha256:{'0' * 64}"])
def test_requirements_cannot_replace_torch(in_folder: Path, hashes: str) -> None:
    model = make_model(in_folder, "one", f"torch==1.0{hashes}\n")
    with pytest.raises(InstallError, match=r"conflicting dependencies|torch==1\.0"):
        find_python(model)
    write_wheel(model.path, "mine", "1.0", "torch<2")
    (model.path / "requirements.txt").write_text("./mine-1.0-py3-none-any.whl\n")
    with pytest.raises(InstallError, match="conflicting dependencies"):
        find_python(model)


def test_wheels_of_an_archive_are_copied_too(in_folder: Path) -> None:
    model = make_model(in_folder, "one")
    wheel = write_wheel(model.path, "mine", "1.0")
    built = Model(path=in_folder / "one.mar", name="one", output=in_folder / "build")
    built.path.touch()
    built.build.mkdir(parents=True)
    with zipfile.ZipFile(built.archive, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", '{"model": {}}')
        archive.writestr("requirements.txt", f"./{wheel.name}")
        archive.write(wheel, wheel.name)
        archive.writestr("model.py", "")
    packages = copy_packages(built)
    assert sorted(path.name for path in packages.iterdir()) == [wheel.name, "requirements.txt"]


OWN_LINES = """\
torch==1.13.1+cu117  # as in training
ts
torchserve>=0.7
pillow
numpy==1.21.6
torch-model-archiver
--extra-index-url https://example.com/simple
nvidia-ml-py3; platform_machine=='arm64'
opencv-python==4.8.1.78
torchvision==0.14.1
torchtext==0.14.1
pandas==1.3.5
transformers[torch]==4.30.2
-e git+https://example.com/x.git
"""
ADAPTED_LINES = """\
--extra-index-url https://example.com/simple
opencv-python-headless==4.8.1.78
torchvision
pandas>=1.5.1
transformers[torch]==4.30.2
git+https://example.com/x.git
"""


@pytest.mark.parametrize("is_beside", [False, True])
def test_lines_of_a_stock_archive_that_do_not_apply_to_the_image_are_changed(
    in_folder: Path, capsys: pytest.CaptureFixture[str], is_beside: bool
) -> None:
    model = Model(path=in_folder / "old.mar", name="old", output=in_folder / "build")
    model.path.touch()
    model.build.mkdir(parents=True)
    with zipfile.ZipFile(model.archive, "w") as archive:
        manifest = {"model": {"stock": {}, "requirementsFile": "prod.txt"}}
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("prod.txt", "captum" if is_beside else OWN_LINES.replace("\n", "\r\n"))
    if is_beside:
        (in_folder / "requirements.txt").write_text("torch==1.13.1\nnumpy==1.26.4\npandas==1.3.5\n")
    packages = copy_packages(model) / "requirements.txt"
    said = capsys.readouterr().err.splitlines()
    if is_beside:  # the user wrote it for this image
        assert packages.read_text() == "numpy==1.26.4\npandas==1.3.5\n"
        assert len(said) == 2
    else:
        assert packages.read_text() == ADAPTED_LINES
        torch = metadata.version("torch").split("+")[0]
        assert said[0] == f"prod.txt:1: torch==1.13.1+cu117: left out: the image has torch {torch}"
        assert (
            "prod.txt:2: ts: left out: it is another project's package; the image has Torch"
            in said[1]
        )
        assert "installed in the version for the image's torch" in "\n".join(said)
        assert len(said) == 11


def test_archive_that_is_not_built_names_the_command(in_folder: Path) -> None:
    (in_folder / "x.mar").touch()
    with pytest.raises(InstallError, match=r"x\.mar does not exist; run: make archive"):
        copy_packages(Model(path=in_folder / "x.mar", name="x", output=in_folder / "build"))


def test_packages_that_are_the_same_are_not_written_again(in_folder: Path) -> None:
    """A build of an image may read them while a server starts."""
    model = make_model(in_folder, "one", "")
    before = copy_packages(model).stat().st_ino
    assert copy_packages(model).stat().st_ino == before
    write_wheel(model.path, "mine", "1.0")
    assert sorted(path.name for path in copy_packages(model).iterdir()) == [
        "mine-1.0-py3-none-any.whl",
        "requirements.txt",
    ]
    left = {path.name for path in model.build.iterdir()}
    assert left == {"packages", "packages.lock"}


def test_requirement_that_does_not_exist_is_named(in_folder: Path) -> None:
    model = make_model(in_folder, "one", "./none-1.0-py3-none-any.whl\n")
    with pytest.raises(
        InstallError, match=r"requirements\.txt cannot be installed: .*none-1\.0-py3"
    ):
        find_python(model)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_requirements_written_on_windows_are_read(in_folder: Path, encoding: str) -> None:
    model = make_model(in_folder, "one")
    (model.path / "requirements.txt").write_bytes("# none\r\n\r\n".encode(encoding))
    assert find_python(model) == Path(sys.executable)
    assert (copy_packages(model) / "requirements.txt").read_bytes() == b"# none\n\n"
