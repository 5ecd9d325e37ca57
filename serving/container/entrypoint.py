"""The container's first process: AIP_* variables -> settings; start, watch, stop.

It opens the port (nginx), fetches the model where it is not baked in, starts TorchServe behind
nginx on a unix socket, lets predictions in for as long as the model answers, and ends the
container with the reason as its last line when the model cannot be served any more.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import storage
from serving import artifact, java, probe, resources
from serving.artifact import Artifact
from serving.container import config
from serving.container.config import Config
from serving.container.nginx import Front
from serving.container.telemetry import Telemetry
from serving.errors import ArchiveError
from serving.logs import Log
from serving.stock import manifest
from serving.torchserve import Server, Settings, TorchServeError
from storage import files
from storage.files import Say

ARCHIVES = Path(os.environ.get("MODEL_STORE", "/opt/model-store"))
"""The folder of the one archive that is baked in."""
JARS = Path("/opt/torchserve")
"""TorchServe's Java, and Netty's native library: /tmp, where Java would unpack it, may be noexec."""
TRIES = 3
"""Workers that may die at their start, one after another, before the container gives up."""
START_S = 1200
"""How long a model may take to answer for the first time."""
PATIENCE_S = 120
"""How long a model that did answer may stay silent before the container gives up."""
PROBE_S = 5
"""Between two probes; one may take twice as long."""
LEAVE_S = 5
"""How long a container that was told to stop lets requests in while its health says 503: those
who send them need a moment to see it."""
DRAIN_S = 15
"""How long requests under way may take after that."""
GRACE_S = 3
"""How long TorchServe may take to end."""
LAST_S = 1
"""How long the last metrics may take after that."""


class StartupError(Exception):
    """Why the container ends; its last line."""


class ShutdownRequested(BaseException):
    """A signal to stop; its argument is the number."""


@dataclass
class Container:
    """nginx and TorchServe, watched together and ended together."""

    front: Front
    server: Server
    ask: Callable[[float], probe.Answer]
    """Is given seconds and tells whether the model answers within them."""
    say: Say
    telemetry: Telemetry | None

    def watch(self) -> None:
        """Keep the doors open for as long as the model answers; raise CannotServe at the end."""
        began = answered = time.monotonic()
        patience, silent = START_S, 0
        while True:
            self._raise_what_ended()
            answer = self.ask(2 * PROBE_S)
            now = time.monotonic()
            if answer.healthy:
                if not self.front.is_open:
                    self.say(f"ready after {now - began:.1f} s")
                    self.front.open()
                self.server.failures.forget()
                answered, patience, silent = now, PATIENCE_S, 0
            else:
                silent += 1
                # One probe may be lost in a crowd; two say that clients are not answered either.
                if silent > 1 and self.front.is_open:
                    self.front.close()
                    began = now
                    self.say(f"not ready: {answer.detail}")
                self._raise_what_failed(now - answered, patience)
            self._wait(PROBE_S if self.front.is_open else 0.25)

    def _wait(self, seconds: float) -> None:
        """Wait for the next probe; a process that ends is noticed at once."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self._raise_what_ended()
            if self.telemetry:
                self.telemetry.see()
            time.sleep(0.1)

    def _raise_what_ended(self) -> None:
        if self.front.process.poll() is not None:
            raise StartupError(f"nginx {_ended(self.front.process.returncode)}")
        if self.server.process.poll() is not None:
            code, word = self.server.process.returncode, self.server.failures.word
            raise StartupError(
                _with_memory(f"TorchServe {_ended(code)}{f': {word}' if word else ''}")
            )

    def _raise_what_failed(self, silent_s: float, patience_s: float) -> None:
        if self.server.failures.count >= TRIES:
            reason = _with_memory(self.server.failures.reason)
            raise StartupError(f"the model cannot be loaded: {reason}")
        if silent_s > patience_s:
            raise StartupError(f"the model has not answered for {silent_s:.0f} s")


def _ended(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended by itself with exit code {code}"


def _with_memory(reason: str) -> str:
    """Add what a process cannot say itself: that there was no memory left for it."""
    if not (killed := resources.oom_kills()):
        return reason
    limit = (resources.memory_limit() or 0) >> 20
    return f"{reason}; processes ended for want of memory: {killed} (limit {limit} MiB)"


def run(log: Log) -> None:
    """Serve until told to stop; raise CannotServe and its kin with the reason for an end."""
    baked = artifact.baked_in(ARCHIVES)
    chosen = config.read(os.environ, baked.path.stem)
    log.configure(human=chosen.log_text, level=chosen.log_level, labels=dict(chosen.labels))
    say = log.info
    folder = _folder()
    front = server = telemetry = None
    try:
        if chosen.telemetry:
            telemetry = Telemetry(chosen, log)
        store = folder / "store"
        path = store / artifact.NAME if chosen.storage else baked.path
        settings = _settings(path, folder, chosen, telemetry.port if telemetry else None)
        say(f"{settings.model}: {chosen}")
        # The front door first: Vertex wants the port open within 40 s, and 503 until ready.
        front = Front(chosen, settings, folder / "torchserve.sock", log)
        served = baked
        if chosen.storage:
            say(f"fetching the model from {chosen.storage}")
            there = storage.open_storage(chosen.storage, say)
            served = artifact.fetch(there, baked.path, store, chosen.archive_sha256)
            say(f"{chosen.storage}: {_kind(served)}")
        settings = artifact.with_layout(settings, served)
        say(f"TorchServe starts with {settings.layout}")
        if telemetry:
            telemetry.start(settings, manifest.read_manifest(served.path).version)
        server = Server(settings, java.find(), log.forward)
        ask = probe.asking(settings, served.golden_request)
        Container(front, server, ask, say, telemetry).watch()
    except ShutdownRequested as told:
        _ignore_signals()
        say("told to stop")
        if front and server and front.is_open and told.args[0] == signal.SIGTERM:
            front.take_leave()
            time.sleep(LEAVE_S)
    finally:
        _ignore_signals()
        if front:
            front.stop(DRAIN_S)
        if telemetry:
            telemetry.tell_to_stop()
        if server:
            server.stop(GRACE_S)
        if telemetry:
            telemetry.stop(LAST_S)
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="serving-"))
    except OSError as error:
        raise StartupError(
            f"no folder to write to, mount one with --tmpfs /tmp: {error}"
        ) from error


def _settings(path: Path, folder: Path, chosen: Config, telemetry: int | None) -> Settings:
    memory = resources.memory_limit()
    settings = Settings(
        path,
        folder,
        resources.layout(resources.cores(), memory),
        f"unix:{folder}/torchserve.sock",
        chosen.largest_request,
        heap=resources.heap_bytes(memory),
        verbose=chosen.log_level == "DEBUG",
        native=JARS,
        jars=JARS,
        telemetry=telemetry,
    )
    if settings.room_for(chosen.largest_request) < 1:
        raise StartupError(
            f"MAX_REQUEST_BYTES={chosen.largest_request}: Java's heap of {settings.heap} bytes, a "
            "quarter of the container's memory, must hold three of it and have room left"
        )
    return settings


def _kind(served: Artifact) -> str:
    if not served.stock:
        return "an archive or weights of this project's"
    asked = "its golden request" if served.golden_request else "its workers: no golden request"
    return f"a stock archive; health follows {asked}"


def _raise_told(number: int, _frame: FrameType | None) -> None:
    raise ShutdownRequested(number)


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Run, and end with the reason as the last line."""
    log = Log(human=(os.environ.get("LOG_FORMAT") or config.default_format()) == "text")
    log.install_excepthook("entrypoint")
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _raise_told)
        run(log)
    except ShutdownRequested:
        log.info("told to stop")
    except (
        StartupError,
        config.ConfigError,
        ArchiveError,
        files.StorageError,
        java.JavaNotFoundError,
        TorchServeError,
    ) as error:
        log.write("CRITICAL", f"cannot serve: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
