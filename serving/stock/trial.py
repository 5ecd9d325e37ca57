"""Serve a stock archive once, in the image or in the environment of the image, and send it a request.

As a program: serve an archive with the packages of this Python, and print the outcome as JSON.
"""

import argparse
import dataclasses
import json
import mimetypes
import os
import re
import shutil
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import storage
from contract.docker import Container, Docker, DockerError
from project.model_folder import ModelFolderError, find_model
from serving import artifact, java, local, torchserve
from serving.errors import ServingError
from serving.stock import inspect, request
from serving.stock.packages import list_locked

ROOT = Path(__file__).resolve().parents[2]
TITLE = "vertex-torchserve"
"""The label of the images of this project."""
LOAD_TIMEOUT_S = 600
BUILD_TIMEOUT_S = 1800
LOG_DELAY_S = 0.5
"""The time until a traceback is in the container's log."""
HERE = "on this machine, with only the packages of the image"
PORT = 8080
MOUNT = "/mnt/model"
ROUTE = f"/predictions/{artifact.MODEL_NAME}"
HEALTH = "/ping"
VARIABLES = ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "SERVICE_ENVELOPE", "WRAP_INSTANCES")
"""The variables for a stock archive that are passed to a container."""
COMPILERS = re.compile(
    r"(?:.*-)?(?:cc|gcc|g\+\+|c\+\+|c89|c99|cpp|clang(?:\+\+)?|nvcc)(?:-[\d.]+)?"
)
NETWORK_ERROR = re.compile(
    r"name resolution|Name or service not known|Network is unreachable|NameResolutionError|gaierror"
    r"|couldn't connect to|Max retries exceeded|offline mode|LocalEntryNotFoundError|URLError|huggingface\.co"
)


class TrialError(ServingError):
    """An archive could not be tried; it may work."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What happened when an archive was served."""

    startup_s: float | None = None
    """None: it was never ready."""
    error: str = ""
    """Why it was not ready."""
    response: dict[str, Any] | None = None
    """The response, see `request.send`; None: no request was sent."""
    log: str = ""
    """The log messages of the workers."""
    place: str = ""
    """Where it was served, for messages."""
    network: bool = True
    """Whether it had a network."""


def find_content_type(file: Path) -> str:
    """Return the content type of a request: JSON, unless the file has another content and a known suffix."""
    try:
        json.loads(file.read_bytes())
    except ValueError:
        return mimetypes.guess_type(file.name)[0] or "application/json"
    return "application/json"


def find_cause(outcome: Outcome, names: Iterable[str]) -> tuple[str, str]:
    """Return the last exception in the log and FILE:LINE of the archive that raised it; "" for none."""
    exception = location = ""
    for block in outcome.log.split("Traceback (most recent call last):")[1:]:
        for line in block.splitlines():
            if frame := re.match(r'\s+File "(.+)", line (\d+)', line):
                if name := _find_name(frame[1], names):
                    location = f"{name}:{frame[2]}"
            elif match := re.match(r"((?:\w+\.)*\w+)(?::|$)", line):
                exception = line.strip() if match[1] != "During" else exception
                break
    return exception, location


def _find_name(path: str, names: Iterable[str]) -> str:
    """Return the longest name of a file in the archive that a path ends with."""
    if "site-packages/" in path or "/lib/python3" in path:
        return ""
    found = [name for name in names if f"/{path}".endswith(f"/{name}")]
    return max(found, key=len, default="")


# In the image


def select_image(contents: inspect.Contents, docker: Docker) -> str | None:
    """Return the image that `make build MODEL=archive` made if the archive has requirements, or the default one.

    None: there is neither.
    """
    own = own_image(contents.path) if has_requirements(contents) else None
    for name in filter(None, (own, default_image())):
        if _read_title(docker, name) == TITLE:
            return name
    return None


def own_image(archive: Path) -> str | None:
    """Return the image of `make build MODEL=archive`; None if the archive's name is not one of a model."""
    try:
        return f"{find_model(str(archive)).name}:latest"
    except ModelFolderError:
        return None


def describe_image(image: str) -> str:
    """Return the place of a trial in an image, for messages."""
    return f"in the image {image}"


def default_image() -> str:
    """Return the image of the model that make builds without MODEL."""
    return f"{find_model(None, ROOT).name}:latest"


def _read_title(docker: Docker, image: str) -> str | None:
    template = '{{index .Config.Labels "org.opencontainers.image.title"}}'
    try:
        return docker("image", "inspect", "--format", template, image)
    except DockerError:
        return None


def has_image(docker: Docker, image: str) -> bool:
    """Return whether the engine has an image."""
    return _read_title(docker, image) is not None


def build_image(docker: Docker, image: str) -> None:
    """Run `make build`; raise TrialError."""
    ours = ("MODEL", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "IMAGE")
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    command = ["make", "build", f"IMAGE={image}", f"DOCKER={docker.program}"]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise TrialError(f"make build IMAGE={image}: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()][-3:]
        raise TrialError(f"make build IMAGE={image} failed: {' '.join(' '.join(lines).split())}")


def try_in_image(
    archive: Path, request_file: Path | None, image: str, docker: Docker, network: str = "none"
) -> Outcome:
    """Serve an archive in a container, as `make run STORAGE=` does; raise TrialError."""
    with tempfile.TemporaryDirectory(prefix="migrate-") as folder:
        target = MOUNT if archive.is_dir() else f"{MOUNT}/{_storage_name(archive)}"
        mounts = [f"--volume={archive.resolve()}:{target}:ro"]
        arguments = [str(PORT), HEALTH, ROUTE, str(LOAD_TIMEOUT_S)]
        if request_file:
            copy = Path(folder) / "request"
            shutil.copyfile(request_file, copy)
            copy.chmod(0o644)
            mounts.append(f"--volume={copy}:/mnt/request:ro")
            arguments += [find_content_type(request_file), "/mnt/request"]
        try:
            container = docker.start(
                image,
                *mounts,
                *("--read-only", "--tmpfs=/tmp:size=1g", "--cap-drop=ALL", "--pids-limit=256"),
                *(
                    "--security-opt=no-new-privileges",
                    f"--network={network}",
                    "--hostname=localhost",
                ),
                env=_container_variables(os.environ),
            )
        except DockerError as error:
            raise TrialError(str(error)) from error
        try:
            outcome = _run_request(container, arguments)
        except DockerError as error:
            raise TrialError(str(error)) from error
        finally:
            container.remove()
    return dataclasses.replace(outcome, place=describe_image(image), network=network != "none")


def _storage_name(archive: Path) -> str:
    """Return the name of an archive in the storage; its suffix is that of its format."""
    suffix = ".tar.gz" if archive.name.lower().endswith(".tar.gz") else archive.suffix
    return f"{artifact.MODEL_NAME}{suffix}"


def _container_variables(environ: Mapping[str, str]) -> dict[str, str]:
    passed = {name: environ[name] for name in VARIABLES if environ.get(name)}
    return passed | {
        "AIP_HTTP_PORT": str(PORT),
        "AIP_HEALTH_ROUTE": HEALTH,
        "AIP_PREDICT_ROUTE": ROUTE,
        "AIP_STORAGE_URI": MOUNT,
        "LOG_FORMAT": "json",
    }


def _run_request(container: Container, arguments: list[str]) -> Outcome:
    """Send the request in the container; raise DockerError."""
    command = ("exec", container.name, "/opt/venv/bin/python", "-c")
    program = Path(request.__file__).read_text()
    timeout_s = LOAD_TIMEOUT_S + request.REQUEST_TIMEOUT_S + 30
    result: dict[str, Any] = {}
    failure = ""
    try:
        result = json.loads(container.docker(*command, program, *arguments, timeout_s=timeout_s))
        if (result.get("response") or {}).get("status", 0) >= 500:
            time.sleep(LOG_DELAY_S)
    except DockerError as error:
        failure = str(error).splitlines()[-1]
        deadline = time.monotonic() + 10
        while container.is_running and time.monotonic() < deadline:
            time.sleep(0.1)
    records = [json.loads(line) for line in container.logs().splitlines() if line.startswith("{")]
    log = "\n".join(record["message"] for record in records if _read_process(record) == "worker")
    if failure:
        if not container.is_running and records:
            failure = str(records[-1]["message"]).removeprefix("cannot serve: ")
        return Outcome(error=failure, log=log)
    return Outcome(result["startup_s"], response=result.get("response"), log=log)


def _read_process(record: Mapping[str, Any]) -> str:
    return str(record.get("logging.googleapis.com/labels", {}).get("process"))


# On this machine


def try_here(archive: Path, request_file: Path | None, packages: Path | None) -> Outcome:
    """Serve an archive on this machine, with the packages and programs that the image has; raise TrialError.

    `packages` is a folder with the packages of the archive's requirements.txt.
    """
    with tempfile.TemporaryDirectory(prefix="migrate-") as folder:
        scratch = Path(folder)
        try:
            java_home = Path(java.find().executable).resolve().parent.parent
        except ServingError as error:
            raise TrialError(str(error)) from error
        python = build_environment(scratch / "venv", packages)
        home = scratch / "home"
        home.mkdir()
        hidden = ("CC", "CXX", "PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
        environ = {name: value for name, value in os.environ.items() if name not in hidden} | {
            "HOME": str(home),
            "PATH": str(link_programs(scratch / "bin")),
            "JAVA_HOME": str(java_home),
            "PYTHONPATH": str(ROOT),
        }
        command = [str(python), "-m", "serving.stock.trial", str(archive.resolve())]
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


def build_environment(folder: Path, packages: Path | None = None) -> Path:
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


def link_programs(folder: Path) -> Path:
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
            (source / _storage_name(archive)).symlink_to(archive.resolve())
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


def find_packages(archive: Path) -> Path | None:
    """Return the folder with the packages that `make serve MODEL=archive` installed; None if there is none."""
    try:
        folder = ROOT / find_model(str(archive)).venv
    except ModelFolderError:
        return None
    return next(folder.glob("lib/python*/site-packages"), None)


def run_trial(
    contents: inspect.Contents,
    request_file: Path | None,
    docker: Docker,
    image: str | None,
    log: Callable[[str], None],
) -> Outcome:
    """Try an archive in the image if a Docker engine responds, else on this machine; raise TrialError."""
    try:
        if docker.is_available():
            return _try_with_docker(contents, request_file, docker, image, log)
        reason = f"no Docker engine responds to {docker.program}"
    except TrialError as error:
        reason = str(error)
    log(f"{reason}; trying it {HERE}")
    packages = find_packages(contents.path) if has_requirements(contents) else None
    return try_here(contents.path, request_file, packages)


def _try_with_docker(
    contents: inspect.Contents,
    request_file: Path | None,
    docker: Docker,
    image: str | None,
    log: Callable[[str], None],
) -> Outcome:
    image = image or select_image(contents, docker) or default_image()
    if not has_image(docker, image):
        log(f"building the image {image}, which takes some three minutes")
        started = time.monotonic()
        build_image(docker, image)
        log(f"built in {time.monotonic() - started:.0f} s")
    log(f"trying it {describe_image(image)}, without a network")
    outcome = try_in_image(contents.path, request_file, image, docker)
    exception, _ = find_cause(outcome, contents.names)
    if NETWORK_ERROR.search(f"{outcome.error} {exception}"):
        log("it needs a network: trying it again with one")
        return try_in_image(contents.path, request_file, image, docker, "bridge")
    return outcome


def has_requirements(contents: inspect.Contents) -> bool:
    """Return whether `make build MODEL=archive` adds packages to the image."""
    name = "requirements.txt"
    return contents.path.with_name(name).is_file() or name in contents.names


def main() -> None:
    """Print the outcome as JSON in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.stock.trial", description=__doc__.splitlines()[-1]
    )
    parser.add_argument("archive", type=Path, help="the .mar")
    parser.add_argument("--request", type=Path, help="a file with the body of a request to send")
    args = parser.parse_args()
    outcome = dataclasses.asdict(_serve_once(args.archive, args.request))
    del outcome["place"]
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
