"""Everything that a rehearsal needs on one machine: a registry, a storage emulator, the stand-in."""

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
from emulator.server import serve
from emulator.state import State

HOST, AUTHORITIES = "127.0.0.1", "authorities.pem"
APIS = "AIPLATFORM CLOUDBUILD ARTIFACTREGISTRY CLOUDRESOURCEMANAGER LOGGING CLOUDFUNCTIONS RUN SERVICEUSAGE"
START_S = 30
BUILDER = "gcr.io/cloud-builders/docker"


class MissingProgramError(Exception):
    """A program that the rehearsal needs and this machine lacks; the text says where it comes from."""


@dataclass(frozen=True)
class Stack:
    """A rehearsal that answers."""

    url: str
    """Of the control plane, no slash at its end."""
    registry: str
    """host:port"""
    storage: str
    state: State
    folder: Path
    """gcloud's configuration and other scratch."""

    def environment(self, project: str) -> dict[str, str]:
        """Return the variables with which gcloud, the SDK and python -m deploy come here."""
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
            "STORAGE_EMULATOR_HOST": self.storage,
            # Dedicated endpoints are TLS: whoever uses requests trusts this stage beside the public authorities.
            "REQUESTS_CA_BUNDLE": str(self.folder / AUTHORITIES),
            "DEPLOY_API_ENDPOINT": self.url,
            "DEPLOY_REGISTRY": self.registry,
        }

    def fault(self, kind: str, rpc: str, detail: str = "", *, times: int = 1) -> None:
        """Order a failure of one of Google's methods."""
        wanted = {"kind": kind, "rpc": rpc, "detail": detail, "times": times}
        processes.send_request(
            "POST", f"{self.url}/rehearsal/faults", 10, json=wanted
        ).raise_for_status()

    def clear_faults(self) -> None:
        """Take all failures back."""
        processes.send_request("DELETE", f"{self.url}/rehearsal/faults", 10).raise_for_status()


@contextlib.contextmanager
def running(
    config: EmulatorConfig, *, port: int = 0, say: Callable[[str], None] = print
) -> Iterator[Stack]:
    """Start all of it; end all of it, and every container, afterwards. Raise Missing."""
    _require(config.docker)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rehearsal-")))
        registry = stack.enter_context(_registry(folder))
        say(f"registry        {registry}")
        storage = stack.enter_context(_storage(_bridge(config)))
        say(f"storage         {storage}")
        builder = _builder(config, folder)
        stack.callback(config.engine, "image", "rm", "--force", builder)
        images = {BUILDER: builder, **config.images}
        config = replace(config, registry=registry, storage=storage, images=images)
        state = State(config)
        stack.callback(containers.remove_all, config)
        stack.callback(functions.stop_all, state)
        server = serve(state, HOST, port)
        stack.callback(server.shutdown)
        state.url = f"http://{HOST}:{server.port}"
        say(f"control plane   {state.url}")
        door = serve(state, HOST, 0, dedicated=True, context=_certified(folder))
        stack.callback(door.shutdown)
        state.dedicated_host = f"{HOST}:{door.port}"
        say(f"dedicated       https://{state.dedicated_host}")
        (folder / "gcloud").mkdir()
        stage = Stack(state.url, registry, storage, state, folder)
        here = ("DEPLOY_API_ENDPOINT", "DEPLOY_REGISTRY", "STORAGE_EMULATOR_HOST")
        state.step_env = tuple(f"{name}={stage.environment('')[name]}" for name in here)
        yield stage


def _certified(folder: Path) -> ssl.SSLContext:
    """Return TLS for the dedicated endpoints' address, and write down who vouches for it."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    (folder / AUTHORITIES).write_bytes(Path(certifi.where()).read_bytes())
    authority.cert_pem.write_to_path(str(folder / AUTHORITIES), append=True)
    return context


def _require(docker: str) -> None:
    sources = {
        docker: "https://docs.docker.com/engine/install",
        "docker-registry": "Debian's package docker-registry",
        "gcloud": "Google's Cloud SDK, https://cloud.google.com/sdk",
    }
    for program, source in sources.items():
        if shutil.which(program) is None:
            raise MissingProgramError(f"{program} is not on this machine; it comes from {source}")


def _builder(config: EmulatorConfig, folder: Path) -> str:
    """Build an image with this machine's own Docker client, for Cloud Build's builder of that name."""
    context = folder / "builder"
    context.mkdir()
    shutil.copy(Path(shutil.which(config.docker) or config.docker), context / "docker")
    (context / "Dockerfile").write_text(
        'FROM debian:bookworm-slim\nCOPY docker /usr/bin/docker\nENTRYPOINT ["/usr/bin/docker"]\n'
    )
    label = f"--label={containers.LABEL}"  # no other rehearsal has an image of this ID
    return config.engine("build", "--quiet", label, str(context), timeout_s=300)


def _bridge(config: EmulatorConfig) -> str:
    """Return an address of this machine that containers reach too."""
    address = containers.bridge_address(config)
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:  # Docker Desktop: the bridge is inside its virtual machine
            return "host.docker.internal"
    return address


@contextlib.contextmanager
def _registry(folder: Path) -> Iterator[str]:
    port = processes.free_port(HOST)
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "registry")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"{HOST}:{port}"},
    }
    file = folder / "registry.yml"
    file.write_text(json.dumps(settings))
    with _running(["docker-registry", "serve", str(file)], HOST, port, folder / "registry.log"):
        yield f"{HOST}:{port}"


@contextlib.contextmanager
def _storage(host: str) -> Iterator[str]:
    bound = HOST if host == "host.docker.internal" else host
    port = processes.free_port(bound)
    program = str(Path(sys.executable).with_name("gcp-storage-emulator"))
    command = [program, "start", "--in-memory", f"--host={bound}", f"--port={port}"]
    with _running(command, bound, port, Path(os.devnull)):
        yield f"http://{host}:{port}"


@contextlib.contextmanager
def _running(command: list[str], host: str, port: int, log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        if not processes.wait_for_port(process, host, port, START_S):
            raise MissingProgramError(f"{command[0]} does not start: {log.read_text()[-500:]}")
        yield
    finally:
        processes.terminate(process)
