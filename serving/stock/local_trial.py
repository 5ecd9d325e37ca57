"""Serve a stock archive once on this machine, with only what the image has, and send it a request.

As a program: serve an archive with the packages of this Python, and print the outcome as JSON.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import tempfile
import time
import venv
from importlib import metadata
from pathlib import Path

import storage
from project.model_folder import ModelFolderError, find_model
from serving import artifact, java, local, torchserve
from serving.errors import ServingError
from serving.stock import request
from serving.stock.contents import Contents
from serving.stock.outcome import (
    LOAD_TIMEOUT_S,
    ROOT,
    ROUTE,
    Outcome,
    TrialError,
    find_content_type,
    name_in_storage,
)
from serving.stock.packages import list_locked

HERE = "on this machine, with only the packages of the image"
COMPILERS = re.compile(
    r"(?:.*-)?(?:cc|gcc|g\+\+|c\+\+|c89|c99|cpp|clang(?:\+\+)?|nvcc)(?:-[\d.]+)?"
)


def run_here(contents: Contents, request_file: Path | None) -> Outcome:
    """Serve an archive on this machine, with the packages and programs that the image has; raise TrialError."""
    packages = _find_packages(contents.path) if contents.has_requirements else None
    with tempfile.TemporaryDirectory(prefix="migrate-") as folder:
        scratch = Path(folder)
        try:
            java_home = Path(java.find().executable).resolve().parent.parent
        except ServingError as error:
            raise TrialError(str(error)) from error
        python = _build_environment(scratch / "venv", packages)
        home = scratch / "home"
        home.mkdir()
        hidden = ("CC", "CXX", "PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
        environ = {name: value for name, value in os.environ.items() if name not in hidden} | {
            "HOME": str(home),
            "PATH": str(_link_programs(scratch / "bin")),
            "JAVA_HOME": str(java_home),
            "PYTHONPATH": str(ROOT),
        }
        command = [str(python), "-m", "serving.stock.local_trial", str(contents.path.resolve())]
        if request_file:
            command += ["--request", str(request_file.resolve())]
        timeout_s = LOAD_TIMEOUT_S + request.REQUEST_TIMEOUT_S + 60
        try:
            done = subprocess.run(
                command,
                env=environ,
                cwd=scratch,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TrialError(f"the trial did not end within {timeout_s} s") from None
    if done.returncode:
        raise TrialError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    return Outcome(
        **json.loads(done.stdout.splitlines()[-1]),
        place=HERE,
    )


def _build_environment(folder: Path, packages: Path | None = None) -> Path:
    """Create an environment with links to the packages that the image has; return its Python."""
    venv.EnvBuilder(symlinks=True).create(folder)
    site = next(folder.glob("lib/python*/site-packages"))
    names = {"torch", *list_locked()}
    for distribution in metadata.distributions():
        name = str(distribution.metadata["Name"]).lower().replace("_", "-")
        # The libraries of a torch for GPUs are packages of their own.
        if name in names or name.startswith(("nvidia-", "triton")):
            _link_distribution(distribution, site)
    if packages:
        (site / "packages.pth").write_text(f"{packages}\n")
    return folder / "bin" / "python"


def _link_distribution(distribution: metadata.Distribution, site: Path) -> None:
    """Link each package, module and metadata folder. Folders that several distributions share are created."""
    base, linked = Path(str(distribution.locate_file(""))), set()
    for file in distribution.files or ():
        if ".." in file.parts or "__pycache__" in file.parts[:1]:
            continue
        for depth in range(1, len(file.parts) + 1):
            part = Path(*file.parts[:depth])
            source = base / part
            if part in linked:
                break
            is_whole = part.suffix == ".dist-info" or (source / "__init__.py").is_file()
            if source.is_file() or is_whole:
                linked.add(part)
                (site / part).parent.mkdir(parents=True, exist_ok=True)
                if not (site / part).exists():
                    (site / part).symlink_to(source)
                break


def _link_programs(folder: Path) -> Path:
    """Link the programs in PATH that are no compilers into a folder; return it."""
    folder.mkdir()
    for directory in map(Path, os.get_exec_path()):
        if not directory.is_dir():
            continue
        for program in directory.iterdir():
            link = folder / program.name
            if not COMPILERS.fullmatch(program.name) and not os.path.lexists(link):
                link.symlink_to(program)
    return folder


def _serve_once(archive: Path, request_file: Path | None) -> Outcome:
    """Serve an archive with the packages of this Python."""
    messages: list[str] = []
    with tempfile.TemporaryDirectory(prefix="trial-") as folder:
        run_dir = Path(folder)
        source = archive.resolve()
        if archive.is_file():
            source = run_dir / "source"  # a folder with this archive only
            source.mkdir()
            (source / name_in_storage(archive)).symlink_to(archive.resolve())
        port = torchserve.find_free_port()
        started = time.monotonic()
        outcome = Outcome()
        try:
            files = storage.open_storage(str(source), messages.append)
            served = artifact.fetch(files, archive, run_dir / "store")
            config = local.configure(served, f"http://127.0.0.1:{port}", run_dir)
            with local.start_server(config, served.golden_request, messages.append):
                outcome = Outcome(time.monotonic() - started)
                if request_file:
                    content_type = find_content_type(request_file)
                    response = request.send(port, ROUTE, request_file.read_bytes(), content_type)
                    outcome = dataclasses.replace(outcome, response=response)
        except (*local.ERRORS, OSError) as error:
            outcome = Outcome(error=str(error))
    prefix = re.compile(r"^\s*[A-Z]+ worker: ")
    log = [prefix.sub("", message) for message in messages if prefix.match(message)]
    return dataclasses.replace(outcome, log="\n".join(log))


def _find_packages(archive: Path) -> Path | None:
    """Return the folder with the packages that `make serve MODEL=archive` installed; None if there is none."""
    try:
        folder = ROOT / find_model(str(archive)).venv
    except ModelFolderError:
        return None
    return next(folder.glob("lib/python*/site-packages"), None)


def main() -> None:
    """Print the outcome as JSON in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.stock.local_trial", description=__doc__.splitlines()[-1]
    )
    parser.add_argument("archive", type=Path, help="the .mar")
    parser.add_argument("--request", type=Path, help="a file with the body of a request to send")
    args = parser.parse_args()
    outcome = dataclasses.asdict(_serve_once(args.archive, args.request))
    del outcome["place"]
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
