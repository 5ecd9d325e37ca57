"""Serve an archive with TorchServe on this machine, in the foreground, until Ctrl-C."""

import argparse
import contextlib
import dataclasses
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import storage
from serving import artifact, java, probe, resources
from serving.artifact import Artifact
from serving.errors import ArchiveError
from serving.layout import MAX_BATCH_REQUESTS, Layout, choose_layout
from serving.torchserve import Server, TorchServeConfig, TorchServeError
from storage import files
from storage.files import Say

START_S = 600
"""How long a model may take to load, as long as no worker dies of it."""
SAMPLE = Path("build/request.json")
"""A request to try, written where the program is started."""
TRIES = 3
"""Workers that may die at their start before the archive is given up."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServeError(Exception):
    """Why there is no server; for people."""


FAULTS = (
    ServeError,
    java.JavaNotFoundError,
    TorchServeError,
    ArchiveError,
    files.StorageError,
)
"""All that can be in the way."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.local", description=__doc__)
    parser.add_argument("--archive", type=Path, default="build/model-store/digits.mar")
    parser.add_argument(
        "--storage", help="serve what gs://BUCKET/FOLDER or /FOLDER holds: weights, or any .mar"
    )
    parser.add_argument(
        "--layout",
        type=parse_layout,
        metavar="WORKERSxTHREADS[,BATCH[,DELAY_MS]]",
        help="in place of what make tune found, or of the default for these cores: 2x1,32,0",
    )
    parser.add_argument("--host", default="127.0.0.1", help="(%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="(%(default)s)")
    args = parser.parse_args()
    # A closed terminal or `kill` ends it as Ctrl-C does: through the clean-up. Ctrl-C's own
    # signal is among them because a shell starts its background jobs deaf to it.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    run = Path(tempfile.mkdtemp(prefix="torchserve-"))
    try:
        _see_that_it_is_free(args.host, args.port)
        served = _artifact(args.archive, args.storage, run)
        serve(served, args.host, args.port, run, args.layout)
    except FAULTS as error:
        sys.exit(f"serving.local: {error}")
    except KeyboardInterrupt:
        print("\nstopped")
    finally:
        shutil.rmtree(run, ignore_errors=True)


def parse_layout(text: str) -> Layout:
    """Read 2x1,32,0: workers x threads, batch size, batch delay in ms; raise ArgumentTypeError."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)(?:,([1-9]\d*)(?:,(\d+))?)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text}: expected WORKERSxTHREADS, such as 2x1,32,0")
    workers, threads, batch, delay = match.groups()
    return Layout(
        int(workers), int(threads), int(batch or MAX_BATCH_REQUESTS), int(delay or 0), "--layout"
    )


def _artifact(archive: Path, uri: str | None, run: Path) -> Artifact:
    if uri is None:
        return Artifact(archive.resolve(), artifact.read_golden_request(archive))
    return artifact.fetch(storage.open_storage(uri, print), archive, run / "store")


def serve(served: Artifact, host: str, port: int, run: Path, layout: Layout | None = None) -> None:
    """Serve until interrupted; raise CannotServe where it does not come up or goes down."""
    address = f"http://{host}:{port}"
    with start_server(served, address, run, layout=layout) as (server, settings):
        _tell(settings, address, served.golden_request)
        raise ServeError(f"TorchServe ended by itself with exit code {server.process.wait()}")


@contextlib.contextmanager
def start_server(
    served: Artifact, address: str, run: Path, say: Say = print, layout: Layout | None = None
) -> Iterator[tuple[Server, TorchServeConfig]]:
    """Run TorchServe at http://HOST:PORT and give it once the model answers; raise CannotServe.

    `say` is told what TorchServe logs. `layout` takes the place of the artifact's own.
    """
    chosen = java.find()
    default = choose_layout(resources.cores(), resources.memory_limit())
    settings = artifact.with_layout(
        TorchServeConfig(archive=served.path, run_dir=run, layout=default, address=address), served
    )
    settings = dataclasses.replace(settings, layout=layout or settings.layout)
    say(f"Java {chosen.version} of {chosen.source}: {chosen.executable}")
    say(f"Starting TorchServe: {settings.summary}")
    server = None
    try:
        with _signals_deferred():
            server = Server(settings, chosen, lambda line: say(f"  {line}"))
        wait_until_ready(server, probe.create_probe(settings, served.golden_request))
        yield server, settings
    finally:
        # A second Ctrl-C must not cut the end of Java and its workers short.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if server:
            server.stop()


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Deliver the signals that stop the program only after the block.

    Java is started in the block: interrupted halfway, nobody would have its process to stop.
    """
    received: list[int] = []
    handlers = {
        each: signal.signal(each, lambda number, _frame: received.append(number))
        for each in STOP_SIGNALS
    }
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    for number in received:
        signal.raise_signal(number)


def _see_that_it_is_free(host: str, port: int) -> None:
    with socket.socket() as probed:
        probed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probed.bind((host, port))
        except OSError as error:
            raise ServeError(f"port {port} of {host}: {error.strerror}; choose PORT=...") from None


def wait_until_ready(server: Server, ask: Callable[[float], probe.ProbeResult]) -> None:
    """Return once the model answers; raise CannotServe where it never will."""
    deadline = time.monotonic() + START_S
    while not ask(30).healthy:
        if server.process.poll() is not None:
            raise ServeError(f"TorchServe ended with exit code {server.process.returncode}")
        if server.failures.count >= TRIES:
            raise ServeError(f"the model cannot be loaded: {server.failures.reason}")
        if time.monotonic() > deadline:
            raise ServeError(f"the model was not ready within {START_S} s")
        time.sleep(0.2)


def _tell(settings: TorchServeConfig, address: str, request: bytes | None) -> None:
    url, body = f"{address}/predictions/{settings.model_name}", """'{"instances": [...]}'"""
    if request is not None:
        SAMPLE.parent.mkdir(exist_ok=True)
        SAMPLE.write_bytes(request)
        body = f"@{SAMPLE}"
    print(f"\n{settings.model_name} answers. From another terminal:\n")
    print(f"  curl -H 'Content-Type: application/json' -d {body} {url}")
    print(f"  make predict URL={url}\n\nCtrl-C stops it.", flush=True)


if __name__ == "__main__":
    main()
