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

from emulator import containers, functions, processes
from emulator.config import EmulatorConfig
from emulator.errors import EmulatorError
from emulator.server import FAULTS, serve
from emulator.state import State

HOST, CA_BUNDLE = "127.0.0.1", "authorities.pem"
APIS = "AIPLATFORM CLOUDBUILD ARTIFACTREGISTRY CLOUDRESOURCEMANAGER LOGGING CLOUDFUNCTIONS RUN SERVICEUSAGE"
STEP_VARIABLES = ("DEPLOY_API_ENDPOINT", "DEPLOY_REGISTRY", "STORAGE_EMULATOR_HOST")
"""Variables of the environment that the steps of a build get as well."""
START_TIMEOUT_S = 30
BUILDER = "gcr.io/cloud-builders/docker"


class MissingProgramError(EmulatorError):
    """A program that the emulator needs is not installed or does not start."""


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
    """Temporary folder with gcloud's configuration."""

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
    config: EmulatorConfig, *, port: int = 0, report: Callable[[str], None] = print
) -> Iterator[Stack]:
    """Start the emulator; afterwards stop it and remove every container that it started.

    `report` gets one line per server with its address.

    Raises:
        MissingProgramError: a program is not installed or does not start.

    """
    _require_programs(config.docker)
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="emulator-")))
        registry = cleanup.enter_context(_registry(folder))
        report(f"registry        {registry}")
        storage_url = cleanup.enter_context(_storage(_reachable_address(config)))
        report(f"storage         {storage_url}")
        builder = _build_builder(config, folder)
        cleanup.callback(config.engine, "image", "rm", "--force", builder)
        images = {BUILDER: builder, **config.images}
        config = replace(config, registry=registry, storage_url=storage_url, images=images)
        state = State(config)
        cleanup.callback(containers.remove_all, config, state.pools.values())
        cleanup.callback(functions.stop_all, state)
        server = serve(state, HOST, port)
        cleanup.callback(server.shutdown)
        state.url = f"http://{HOST}:{server.port}"
        report(f"control plane   {state.url}")
        dedicated = serve(state, HOST, 0, dedicated=True, ssl_context=_create_tls(folder))
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
    return config.engine("build", "--quiet", label, str(context), timeout_s=300)


def _reachable_address(config: EmulatorConfig) -> str:
    """Return an address of this machine that containers can reach."""
    address = containers.bridge_address(config)
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:  # Docker Desktop: the bridge is inside its virtual machine
            return "host.docker.internal"
    return address


@contextlib.contextmanager
def _registry(folder: Path) -> Iterator[str]:
    """Run a registry; yield its host:port."""
    port = processes.free_port(HOST)
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
def _storage(host: str) -> Iterator[str]:
    """Run a storage emulator at an address; yield its URL."""
    address = HOST if host == "host.docker.internal" else host
    port = processes.free_port(address)
    program = str(Path(sys.executable).with_name("gcp-storage-emulator"))
    command = [program, "start", "--in-memory", f"--host={address}", f"--port={port}"]
    with _process(command, address, port, Path(os.devnull)):
        yield f"http://{host}:{port}"


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
