"""The emulator and the programs that it needs: a registry and a storage emulator, on one machine."""

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import certifi
import trustme

from contract.docker import DockerError
from emulator import containers, processes, shutdown, storage_proxy
from emulator.config import EmulatorConfig
from emulator.errors import EmulatorError
from emulator.server import FAULTS, serve
from emulator.state import State

HOST, CA_BUNDLE = "127.0.0.1", "authorities.pem"
APIS = "AIPLATFORM CLOUDBUILD ARTIFACTREGISTRY CLOUDRESOURCEMANAGER LOGGING CLOUDFUNCTIONS RUN SERVICEUSAGE"
STEP_VARIABLES = ("DEPLOY_API_ENDPOINT", "DEPLOY_REGISTRY", "STORAGE_EMULATOR_HOST")
"""Variables of the environment that the steps of a build get as well."""
START_TIMEOUT_S = 30
DOCKER_DESKTOP = "host.docker.internal"
"""The name by which containers of Docker Desktop reach this machine."""
BUILDER = "gcr.io/cloud-builders/docker"


class MissingProgramError(EmulatorError):
    """A program that the emulator needs is not installed or does not start."""


class PortInUseError(EmulatorError):
    """Another program listens on a port of the emulator."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The running emulator."""

    url: str
    """URL of the control plane, without a final slash."""
    registry: str
    """host:port"""
    storage_url: str
    state: State
    folder: Path
    """Folder with gcloud's configuration and the authority of the dedicated endpoints."""

    def environment(self, project: str) -> dict[str, str]:
        """Return the variables that direct gcloud, the SDK and python -m deploy to the emulator."""
        return {
            **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api}": f"{self.url}/" for api in APIS.split()},
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{self.url}/storage/v1/",
            "CLOUDSDK_CONFIG": str(self.folder / "gcloud"),
            "CLOUDSDK_CORE_PROJECT": project,
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true",
            "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "STORAGE_EMULATOR_HOST": self.storage_url,
            # Dedicated endpoints use TLS: clients must trust the emulator's authority beside the public ones.
            "REQUESTS_CA_BUNDLE": str(self.folder / CA_BUNDLE),
            "DEPLOY_API_ENDPOINT": self.url,
            "DEPLOY_REGISTRY": self.registry,
        }

    def inject_fault(self, kind: str, rpc: str, detail: str = "", *, times: int = 1) -> None:
        """Let the next `times` requests to a method fail; see faults.Fault for the arguments."""
        content = {"kind": kind, "rpc": rpc, "detail": detail, "times": times}
        url = f"{self.url}{FAULTS}"
        processes.send_request("POST", url, 10, json=content).raise_for_status()

    def clear_faults(self) -> None:
        """Remove all injected faults."""
        processes.send_request("DELETE", f"{self.url}{FAULTS}", 10).raise_for_status()


@contextlib.contextmanager
def running(
    config: EmulatorConfig,
    *,
    port: int = 0,
    folder: Path | None = None,
    report: Callable[[str], None] = print,
) -> Iterator[Stack]:
    """Start the emulator; afterwards stop it and remove all that it and its builds started or wrote.

    With a port the control plane listens on it, and the dedicated endpoints, the registry and the storage on the
    next three; by default each has a free port. `folder` is created, and deleted at the end; by default it is a
    temporary one. `report` gets one line per server with its address.

    Raises:
        MissingProgramError: a program is not installed or does not start.
        PortInUseError: another program listens on one of the ports.

    """
    _require_programs(config.docker)
    ports = range(port, port + 4) if port else (0,) * 4
    address = _reachable_address(config)
    for each, host in zip(ports, (HOST, HOST, HOST, _bindable(address)), strict=True):
        _require_free(each, host)
    with contextlib.ExitStack() as cleanup:
        folder = cleanup.enter_context(_folder(folder))
        registry = cleanup.enter_context(_registry(folder, ports[2]))
        report(f"registry        {registry}")
        backend = cleanup.enter_context(_storage())
        proxy = storage_proxy.serve(_bindable(address), ports[3], backend)
        cleanup.callback(proxy.shutdown)
        storage_url = f"http://{address}:{proxy.port}"
        report(f"storage         {storage_url}")
        builder = _build_builder(config, folder)
        cleanup.callback(config.engine, "image", "rm", "--force", builder)
        images = {BUILDER: builder, **config.images}
        config = replace(config, registry=registry, storage_url=storage_url, images=images)
        state = State(config)
        cleanup.callback(shutdown.remove_all, state)
        server = serve(state, HOST, ports[0])
        cleanup.callback(server.shutdown)
        state.url = f"http://{HOST}:{server.port}"
        report(f"control plane   {state.url}")
        tls = _create_tls(folder)
        dedicated = serve(state, HOST, ports[1], dedicated=True, ssl_context=tls)
        cleanup.callback(dedicated.shutdown)
        state.dedicated_host = f"{HOST}:{dedicated.port}"
        report(f"dedicated       https://{state.dedicated_host}")
        (folder / "gcloud").mkdir()
        stack = Stack(
            url=state.url, registry=registry, storage_url=storage_url, state=state, folder=folder
        )
        env = stack.environment("")
        state.step_env = tuple(f"{name}={env[name]}" for name in STEP_VARIABLES)
        yield stack


@contextlib.contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    """Create a folder, empty, and delete it at the end."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="emulator-") as name:
            yield Path(name)
        return
    shutil.rmtree(folder, ignore_errors=True)  # left by an emulator that was killed
    folder.mkdir(parents=True)
    try:
        yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_free(port: int, host: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUseError(
                f"port {port} of {host}: {error.strerror}; stop the program that uses it (another emulator?), "
                "or choose the first of four free ports with --port"
            ) from None


def _create_tls(folder: Path) -> ssl.SSLContext:
    """Return the TLS context of the dedicated endpoints, and write the CA bundle for clients."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    (folder / CA_BUNDLE).write_bytes(Path(certifi.where()).read_bytes())
    authority.cert_pem.write_to_path(str(folder / CA_BUNDLE), append=True)
    return context


def _require_programs(docker: str) -> None:
    sources = {
        docker: "https://docs.docker.com/engine/install",
        "docker-registry": "Debian's package docker-registry",
        "gcloud": "Google's Cloud SDK, https://cloud.google.com/sdk",
    }
    for program, source in sources.items():
        if shutil.which(program) is None:
            raise MissingProgramError(f"{program} not found: install it ({source})")


def _build_builder(config: EmulatorConfig, folder: Path) -> str:
    """Build a replacement for Cloud Build's docker builder, with the local client; return its ID."""
    context = folder / "builder"
    context.mkdir()
    shutil.copy(Path(shutil.which(config.docker) or config.docker), context / "docker")
    (context / "Dockerfile").write_text(
        'FROM debian:bookworm-slim\nCOPY docker /usr/bin/docker\nENTRYPOINT ["/usr/bin/docker"]\n'
    )
    label = f"--label={containers.LABEL}"  # gives the image an ID that no other process removes
    command = ["build", "--quiet", label, str(context)]
    try:
        return config.engine(*command, timeout_s=300)
    except DockerError:  # a cached layer was removed meanwhile, with the image of another emulator
        return config.engine(*command, "--no-cache", timeout_s=300)


def _reachable_address(config: EmulatorConfig) -> str:
    """Return an address of this machine that containers can reach."""
    address = containers.bridge_address(config)
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:  # Docker Desktop: the bridge is inside its virtual machine
            return DOCKER_DESKTOP
    return address


def _bindable(address: str) -> str:
    """Return the address on which a server that containers reach listens."""
    return HOST if address == DOCKER_DESKTOP else address


@contextlib.contextmanager
def _registry(folder: Path, port: int) -> Iterator[str]:
    """Run a registry, on a free port if `port` is 0; yield its host:port."""
    port = port or processes.free_port(HOST)
    configuration: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {
            "filesystem": {"rootdirectory": f"{folder}/registry"},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"{HOST}:{port}"},
    }
    file = folder / "registry.yml"
    file.write_text(json.dumps(configuration))
    with _process(["docker-registry", "serve", str(file)], HOST, port, folder / "registry.log"):
        yield f"{HOST}:{port}"


@contextlib.contextmanager
def _storage() -> Iterator[str]:
    """Run a storage emulator; yield its URL, which only the proxy uses."""
    port = processes.free_port(HOST)
    program = str(Path(sys.executable).with_name("gcp-storage-emulator"))
    command = [program, "start", "--in-memory", f"--host={HOST}", f"--port={port}"]
    with _process(command, HOST, port, Path(os.devnull)):
        yield f"http://{HOST}:{port}"


@contextlib.contextmanager
def _process(command: list[str], host: str, port: int, log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        if not processes.wait_for_port(process, host, port, START_TIMEOUT_S):
            raise MissingProgramError(f"{command[0]} does not start: {log.read_text()[-500:]}")
        yield
    finally:
        processes.terminate(process)
