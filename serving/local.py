"""Serve an archive with TorchServe on this machine, in the foreground, until Ctrl-C."""

import argparse
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from serving import artifact, java, machine, probe
from serving.torchserve import NoTorchServe, Server, Settings

START_S = 600
"""How long a model may take to load, as long as no worker dies of it."""
TRIES = 3
"""Workers that may die at their start before the archive is given up."""


class CannotServe(Exception):
    """Why there is no server; for people."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.local", description=__doc__)
    parser.add_argument("--archive", type=Path, default="build/model-store/digits.mar")
    parser.add_argument("--host", default="127.0.0.1", help="(%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="(%(default)s)")
    args = parser.parse_args()
    # A closed terminal or `kill` ends it as Ctrl-C does: through the clean-up. Ctrl-C's own
    # signal is among them because a shell starts its background jobs deaf to it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    run = Path(tempfile.mkdtemp(prefix="torchserve-"))
    try:
        serve(args.archive, args.host, args.port, run)
    except (CannotServe, java.NoJava, NoTorchServe, artifact.NotServable) as error:
        sys.exit(f"serving.local: {error}")
    except KeyboardInterrupt:
        print("\nstopped")
    finally:
        shutil.rmtree(run, ignore_errors=True)


def serve(archive: Path, host: str, port: int, run: Path) -> None:
    """Serve until interrupted; raise CannotServe where it does not come up or goes down."""
    request = artifact.golden_request(archive)
    _see_that_it_is_free(host, port)
    chosen = java.find()
    address = f"http://{host}:{port}"
    layout = machine.layout(machine.cores(), machine.memory())
    settings = Settings(archive.resolve(), run, layout, address)
    print(f"Java {chosen.version} of {chosen.source}: {chosen.executable}")
    print(f"TorchServe starts with {layout.workers} workers x {layout.threads} threads", flush=True)
    server = Server(settings, chosen, lambda line: print(f"  {line}", flush=True))
    try:
        wait_until_ready(server, settings, request)
        sample = archive.parent.parent / "request.json"
        sample.write_bytes(request)
        _tell(settings, address, sample)
        raise CannotServe(f"TorchServe ended by itself with exit code {server.process.wait()}")
    finally:
        # A second Ctrl-C must not cut the end of Java and its workers short.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        server.stop()


def _see_that_it_is_free(host: str, port: int) -> None:
    with socket.socket() as probed:
        probed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probed.bind((host, port))
        except OSError as error:
            raise CannotServe(f"port {port} of {host}: {error.strerror}; choose PORT=...") from None


def wait_until_ready(server: Server, settings: Settings, request: bytes) -> None:
    """Return once the golden request is answered; raise CannotServe where it never will be."""
    deadline = time.monotonic() + START_S
    while not probe.ask(settings.address, settings.model, request, timeout_s=30).healthy:
        if server.process.poll() is not None:
            raise CannotServe(f"TorchServe ended with exit code {server.process.returncode}")
        if server.failures.count >= TRIES:
            raise CannotServe(f"the model cannot be loaded: {server.failures.reason}")
        if time.monotonic() > deadline:
            raise CannotServe(f"the model was not ready within {START_S} s")
        time.sleep(0.2)


def _tell(settings: Settings, address: str, sample: Path) -> None:
    url = f"{address}/predictions/{settings.model}"
    print(f"\n{settings.model} answers. From another terminal:\n")
    print(f"  curl -H 'Content-Type: application/json' -d @{shlex.quote(str(sample))} {url}")
    print(f"  make predict URL={url}\n\nCtrl-C stops it.", flush=True)


if __name__ == "__main__":
    main()
