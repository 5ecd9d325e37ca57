"""The Python that a model runs with on this machine: .venv, and the packages of the model's requirements.txt.

A model with packages of its own has an environment in build/NAME/venv that also sees the packages of .venv, so that
two models in one checkout may need different versions.
"""

import argparse
import codecs
import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from project import cli
from project.locks import hold_lock
from project.model_folder import MANIFEST, REQUIREMENTS, Model, add_model_option, find_model

STOCK_KEY = "stock"
"""The key of a stock archive's manifest in the built archive."""
WHEEL = ".whl"
INSTALL_TIMEOUT_S = 1800
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
"""Wheels of torch without CUDA, for packages that depend on torch."""


class InstallError(cli.ProjectError):
    """The packages of a model cannot be installed. The text says why."""


def copy_packages(model: Model) -> Path:
    """Copy requirements.txt and the wheels beside it to build/NAME/packages; return that folder.

    Those of an archive are in it, unless there is a requirements.txt beside it; lines of a stock one that do not apply
    to the image are left out. A model without a requirements.txt
    gets an empty one. Raises InstallError.
    """
    if model.folder_archives:
        return model.packages  # `make archive` joins those of the archives
    with (
        hold_lock(model.build / "packages.lock"),
        tempfile.TemporaryDirectory(dir=model.build, prefix="packages-") as scratch,
    ):
        new = Path(scratch) / "packages"
        new.mkdir()
        sentences = _collect_packages(model, new)
        # Another program may read the folder: it is replaced only by other contents.
        if not (model.packages / REQUIREMENTS).is_file() or _hash(new) != _hash(model.packages):
            print(*sentences, sep="\n", end="\n" if sentences else "", file=sys.stderr)
            shutil.rmtree(model.packages, ignore_errors=True)
            new.rename(model.packages)
    return model.packages


def _collect_packages(model: Model, target: Path) -> list[str]:
    """Copy the packages; return a sentence for each requirement of a stock archive that is changed."""
    file = target / REQUIREMENTS
    file.touch()
    if not model.is_archive:
        _copy_packages(model.path, model.path.rglob(f"*{WHEEL}"), target)
        file.write_text(_decode(file.read_bytes()), "utf-8")
        return []
    beside = model.path.with_name(REQUIREMENTS)
    own = _extract_packages(model, target)
    if beside.is_file():
        print(f"packages: {beside}", file=sys.stderr)
        _copy_packages(beside.parent, beside.parent.glob(f"*{WHEEL}"), target)
    text = _decode(file.read_bytes())
    sentences: list[str] = []
    if own is not None:
        # It needs `packaging`, which not every program that imports this module has.
        from project.requirements import adapt  # noqa: PLC0415

        name = str(beside) if beside.is_file() else own
        text, sentences = adapt(text, name, is_own=not beside.is_file())
    file.write_text(text, "utf-8")
    return sentences


def _copy_packages(folder: Path, wheels: Iterable[Path], target: Path) -> None:
    for path in (folder / REQUIREMENTS, *wheels):
        relative = path.relative_to(folder)
        if path.is_file() and not relative.parts[0].startswith("."):
            copy = target / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _extract_packages(model: Model, target: Path) -> str | None:
    """Extract the packages of an archive; return the name of a stock one's requirements file, None for another."""
    if not model.archive.is_file():
        raise InstallError(f"{model.archive} does not exist; run: make archive")
    with zipfile.ZipFile(model.archive) as archive:
        manifest = json.loads(archive.read(str(MANIFEST)))["model"]
        own = manifest.get("requirementsFile") or REQUIREMENTS
        for name in archive.namelist():
            if name.endswith(WHEEL):
                archive.extract(name, target)
            elif name == own:
                (target / REQUIREMENTS).write_bytes(archive.read(name))
    return own if STOCK_KEY in manifest else None


def _decode(data: bytes) -> str:
    """Decode a text file, which Windows may have written as UTF-16 or with a byte order mark."""
    is_utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_utf_16 else "utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n")


def find_python(model: Model) -> Path:
    """Return the Python that has the model's packages; install them if needed. Raise InstallError."""
    packages = copy_packages(model)
    lines = (packages / REQUIREMENTS).read_text().splitlines()
    if not any(line.strip() and not line.lstrip().startswith("#") for line in lines):
        return Path(sys.executable)
    venv = model.venv.absolute()
    python, ready, state = venv / "bin" / "python", venv / "ready", _hash(packages)
    if Path(sys.prefix).resolve() == venv.resolve():
        return python
    with hold_lock(venv.with_name("venv.lock")):
        if not ready.is_file() or ready.read_text() != state:
            action = f"Installing {REQUIREMENTS} of {model.name} into {model.venv}"
            print(action, file=sys.stderr, flush=True)
            create_environment(venv, packages)
            ready.write_text(state)
    return python


def create_environment(venv: Path, packages: Path) -> Path:
    """Create an environment with the packages of this Python and those of PACKAGES/requirements.txt; return its Python.

    Raises InstallError.
    """
    python = venv / "bin" / "python"
    shutil.rmtree(venv, ignore_errors=True)
    _run([sys.executable, "-m", "venv", "--without-pip", str(venv)], packages)
    site = next((venv / "lib").glob("python*")) / "site-packages"
    (site / "base.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    # Packages that depend on torch must not replace it.
    constraints = venv / "constraints.txt"
    constraints.write_text(f"torch=={metadata.version('torch')}\n")
    _run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install"),
            *("--quiet", "--no-compile", "--disable-pip-version-check", "--extra-index-url"),
            *(TORCH_INDEX, "--constraint", str(constraints), "--requirement", REQUIREMENTS),
        ],
        packages,
    )
    return python


def _hash(packages: Path) -> str:
    total = hashlib.sha256(sys.executable.encode() + sysconfig.get_path("purelib").encode())
    for file in sorted(filter(Path.is_file, packages.rglob("*"))):
        total.update(
            f"{file.relative_to(packages)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode()
        )
    return total.hexdigest()


def _run(command: list[str], cwd: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise InstallError(
            f"{REQUIREMENTS} was not installed within {INSTALL_TIMEOUT_S} s"
        ) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = "; ".join(lines) or done.stderr.strip().rpartition("\n")[2]
        raise InstallError(f"{REQUIREMENTS} cannot be installed: {reason}")


def main() -> None:
    """Print the path of the Python; exit with the error if there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m project.environment", description=__doc__.splitlines()[0]
    )
    add_model_option(parser)
    args = parser.parse_args()
    cli.run("project.environment", lambda: print(find_python(find_model(args.model))))


if __name__ == "__main__":
    main()
