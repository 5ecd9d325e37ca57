"""The container's first process: AIP_* variables -> settings; start, watch, stop.

It starts nginx (the front door) and TorchServe (behind it, on a unix socket), keeps the
file `ready` for as long as the model answers its golden request, and ends the container
with the reason as its last line when the model cannot be served any more.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving import java, machine, probe
from serving.torchserve import NoTorchServe, Server, Settings

NGINX = "/usr/sbin/nginx"
NGINX_TEMPLATE = Path(__file__).with_name("nginx.conf")
ARCHIVES = Path(os.environ.get("MODEL_STORE", "/opt/model-store"))
"""The folder of the one archive that is baked in."""
NATIVE = Path("/opt/netty")
"""Netty's native library, unpacked when the image was built: /tmp may be mounted noexec."""
TRIES = 3
"""Workers that may die at their start, one after another, before the container gives up."""
START_S = 1200
"""How long a model may take to answer for the first time."""
PATIENCE_S = 120
"""How long a model that did answer may stay silent before the container gives up."""
PROBE_S = 5
"""Between two golden requests."""
DRAIN_S = 20
"""How long requests under way may take once the container is told to stop."""


class CannotServe(Exception):
    """Why the container ends; its last line."""


@dataclass(frozen=True)
class Config:
    """What the environment says, in the order: AIP_* variable, then default."""

    port: int
    health: str
    predict: str
    largest_request: int
    """Bytes."""

    @classmethod
    def read(cls, environ: Mapping[str, str], model: str) -> "Config":
        """Take the settings out of the environment; raise CannotServe and name the variable."""
        if uri := environ.get("AIP_STORAGE_URI"):
            raise CannotServe(
                f"AIP_STORAGE_URI={uri}: this image serves the archive it was built with; "
                "upload the model without an artifact URI"
            )
        endpoint, deployed = environ.get("AIP_ENDPOINT_ID"), environ.get("AIP_DEPLOYED_MODEL_ID")
        health, predict = "/ping", f"/predictions/{model}"
        if endpoint and deployed:  # what Vertex itself takes where a model names no routes
            health = f"/v1/endpoints/{endpoint}/deployedModels/{deployed}"
            predict = f"{health}:predict"
        config = cls(
            port=_number(environ, "AIP_HTTP_PORT", 8080, most=65535),
            health=_route(environ, "AIP_HEALTH_ROUTE", health),
            predict=_route(environ, "AIP_PREDICT_ROUTE", predict),
            largest_request=_number(environ, "MAX_REQUEST_BYTES", 10 << 20, most=1 << 30),
        )
        if config.health == config.predict:
            raise CannotServe(f"AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE are both {config.health}")
        return config


def _number(environ: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise CannotServe(f"{name}={text}: expected a whole number from 1 to {most}")
    return int(text)


def _route(environ: Mapping[str, str], name: str, default: str) -> str:
    # It becomes a part of nginx's configuration: only what a path is made of may pass.
    text = environ.get(name) or default
    if not re.fullmatch(r"/[A-Za-z0-9._~:@!*+,=/-]*", text):
        raise CannotServe(f"{name}={text}: expected a path that starts with / and has no spaces")
    return text


def nginx_settings(template: str, config: Config, settings: Settings, socket: Path) -> str:
    """Fill in the template of nginx's configuration."""
    values = {
        "RUN": settings.run,
        "SOCKET": socket,
        "PORT": config.port,
        "HEALTH": config.health,
        "PREDICT": config.predict,
        "MODEL": settings.model,
        "LARGEST_REQUEST": config.largest_request,
        "MOST_AT_ONCE": settings.queue * 3 // 4,
        "TIMEOUT": settings.response_timeout_s + 5,
    }
    return re.sub(r"@([A-Z_]+)@", lambda match: str(values[match[1]]), template)


def baked_in(folder: Path) -> Path:
    """Return the one archive in a folder; raise CannotServe."""
    archives = sorted(folder.glob("*.mar"))
    if len(archives) != 1:
        raise CannotServe(f"{folder}: expected one .mar, found {len(archives)}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", archives[0].stem):
        raise CannotServe(f"{archives[0].name}: expected a name of letters, digits, - and _")
    return archives[0]


class Container:
    """nginx and TorchServe, started together, watched, and ended together."""

    def __init__(self, config: Config, settings: Settings, socket: Path) -> None:
        self.settings = settings
        self.request = probe.golden_request(settings.archive)
        self.stopping = threading.Event()
        self.ready = settings.run / "ready"
        front = settings.run / "nginx.conf"
        front.write_text(nginx_settings(NGINX_TEMPLATE.read_text(), config, settings, socket))
        # The front door first: Vertex wants the port open within 40 s, and 503 until ready.
        self.nginx = subprocess.Popen([NGINX, "-e", "stderr", "-c", str(front)])
        self.server = Server(settings, java.find(), say)

    def watch(self) -> None:
        """Keep `ready` true until told to stop; raise CannotServe when there is no more hope."""
        began = answered = time.monotonic()
        patience, silent = START_S, 0
        while not self.stopping.wait(PROBE_S if self.ready.exists() else 0.25):
            self._raise_what_ended()
            answer = probe.ask(self.settings.address, self.settings.model, self.request, 10)
            now = time.monotonic()
            if answer.healthy:
                if not self.ready.exists():
                    say(f"ready after {now - began:.1f} s")
                    self.ready.touch()
                self.server.failures.forget()
                answered, patience, silent = now, PATIENCE_S, 0
                continue
            silent += 1
            # One probe may be lost in a crowd; two say that clients are not answered either.
            if silent > 1 and self.ready.exists():
                self.ready.unlink()
                began = now
                say(f"not ready: {answer.detail}")
            self._raise_what_failed(now - answered, patience)

    def _raise_what_ended(self) -> None:
        if self.nginx.poll() is not None:
            raise CannotServe(f"nginx ended with exit code {self.nginx.returncode}")
        if self.server.process.poll() is not None:
            code, reason = self.server.process.returncode, self.server.failures.reason
            raise CannotServe(f"TorchServe ended with exit code {code}: {reason}")

    def _raise_what_failed(self, silent_s: float, patience_s: float) -> None:
        if self.server.failures.count >= TRIES:
            raise CannotServe(f"the model cannot be loaded: {self.server.failures.reason}")
        if silent_s > patience_s:
            raise CannotServe(f"the model has not answered for {silent_s:.0f} s")

    def stop(self) -> None:
        """Answer what is under way, then end both."""
        self.ready.unlink(missing_ok=True)
        self.nginx.send_signal(signal.SIGQUIT)
        try:
            self.nginx.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            self.nginx.kill()
        self.server.stop(grace_s=5)


def say(line: str) -> None:
    """Write one line to the container's log."""
    print(line, flush=True)


def run() -> None:
    """Serve until told to stop; raise CannotServe and its kin with the reason for an end."""
    archive = baked_in(ARCHIVES)
    config = Config.read(os.environ, archive.stem)
    folder = Path(tempfile.mkdtemp(prefix="serving-"))
    socket = folder / "torchserve.sock"
    layout = machine.layout(machine.cores(), machine.memory())
    settings = Settings(
        archive, folder, layout, f"unix:{socket}", config.largest_request, native=NATIVE
    )
    say(f"{archive.name}: {config}, {layout}")
    container = Container(config, settings, socket)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: container.stopping.set())
    try:
        container.watch()
        say("told to stop")
    finally:
        container.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run, and end with the reason as the last line."""
    try:
        run()
    except (CannotServe, java.NoJava, NoTorchServe, probe.NotServable) as error:
        say(f"cannot serve: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
