"""Serve an archive with TorchServe on this machine, in the foreground, until Ctrl-C."""

import argparse
import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import storage
from project.model_folder import Model, ModelFolderError, add_model_option, find_model
from serving import artifact, gpu, java, probe, resources
from serving.artifact import Artifact
from serving.errors import ServingError
from serving.gpu import Gpu, NoDriverError, NoGpuError
from serving.ignored_settings import describe_ignored_settings
from serving.layout import MAX_BATCH_REQUESTS, Layout, choose_cpu_layout
from serving.torchserve import PATCHES_VARIABLE, STOCK_VARIABLES, Server
from serving.torchserve_config import TorchServeConfig
from storage import files
from storage.files import LogFunction

STARTUP_TIMEOUT_S = 600
"""The time for loading a model, as long as no worker fails."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServerError(ServingError):
    """The server could not start, or has ended."""


ERRORS = (ServingError, files.StorageError, ModelFolderError)
"""All errors that are reported as one line."""


def main() -> None:
    """Serve until Ctrl-C; exit with the error if serving is not possible."""
    parser = argparse.ArgumentParser(prog="python -m serving.local", description=__doc__)
    add = parser.add_argument
    add_model_option(parser)
    add(
        "--archive", type=Path, help="the .mar to serve (default: build/NAME/NAME.mar of the model)"
    )
    text = (
        "serve the weights or the .mar in gs://BUCKET/FOLDER or a folder, in place of the archive"
    )
    add("--storage", metavar="URI", help=text)
    text = (
        "such as 2x1,32,0 (default: the result of make tune; without it, a layout for these cores)"
    )
    add("--layout", type=parse_layout, metavar="WORKERSxTHREADS[,BATCH[,DELAY_MS]]", help=text)
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8080, help="port to listen on (default: %(default)s)")
    args = parser.parse_args()
    # SIGTERM and a closed terminal stop the program as Ctrl-C does. Ctrl-C's own signal is set
    # too, because a shell starts its background jobs with it ignored.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    run_dir = Path(tempfile.mkdtemp(prefix="torchserve-"))
    try:
        patched = parse_patches(os.environ.get(PATCHES_VARIABLE))
        check_stock_variables(os.environ)
        _check_port_is_free(args.host, args.port)
        archive = args.archive or _get_archive(find_model(args.model))
        served = _get_artifact(archive, args.storage, run_dir)
        gpus = find_gpus(print)
        config = configure(served, f"http://{args.host}:{args.port}", run_dir, gpus)
        for line in describe_ignored_settings(served, os.environ):
            print(f"Warning: {line}")
        config = dataclasses.replace(config, layout=args.layout or config.layout, patched=patched)
        serve(config, served.golden_request)
    except ERRORS as error:
        sys.exit(f"serving.local: {error}")
    except KeyboardInterrupt:
        print("\nstopped")
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


def parse_layout(text: str) -> Layout:
    """Parse WORKERSxTHREADS[,BATCH[,DELAY_MS]]; raise ArgumentTypeError."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)(?:,([1-9]\d*)(?:,(\d+))?)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text}: expected WORKERSxTHREADS, such as 2x1,32,0")
    workers, threads, batch, delay = match.groups()
    batch_size = int(batch or MAX_BATCH_REQUESTS)
    return Layout(int(workers), int(threads), batch_size, int(delay or 0), "--layout")


def parse_patches(value: str | None) -> bool:
    """Return whether the value of TORCHSERVE_PATCHES turns the patches on; raise ServerError."""
    if value not in (None, "", "on", "off"):
        raise ServerError(f"{PATCHES_VARIABLE}={value}: expected on or off")
    return value != "off"


def check_stock_variables(environ: Mapping[str, str]) -> None:
    """Raise ServerError unless the variables for stock archives have known values."""
    for name, values in STOCK_VARIABLES.items():
        if (value := environ.get(name)) and value not in values:
            raise ServerError(f"{name}={value}: expected {' or '.join(values)}")


def _get_archive(model: Model) -> Path:
    if len(model.archives) > 1:
        raise ServerError(
            f"{model.path} has several archives; only the image serves them together: make build and make run with "
            f"MODEL={model.path}, or here one of them: MODEL={model.folder_archives[0]}"
        )
    return model.archives[0]


def _get_artifact(archive: Path, uri: str | None, run_dir: Path) -> Artifact:
    if uri is None:
        return artifact.open_archive(archive.resolve())
    if "://" not in uri:
        uri = str(Path(uri).resolve())
    source = storage.open_storage(uri, print)
    return artifact.fetch(source, archive, run_dir / "store", log=print)


def find_gpus(log: LogFunction) -> list[Gpu] | None:
    """Return the GPUs that torch can use, and log them, or why there is none; None if torch is built without CUDA."""
    torch_cuda = gpu.find_torch_cuda()
    if torch_cuda is None:
        return None
    try:
        gpus, description = gpu.find_gpus(os.environ, torch_cuda)
    except NoDriverError:  # the usual case: a machine without a GPU
        return []
    except NoGpuError as error:
        log(f"serving on the CPU: {error}")
        return []
    log(description)
    return gpus


def configure(
    served: Artifact, address: str, run_dir: Path, gpus: Sequence[Gpu] | None = None
) -> TorchServeConfig:
    """Return the configuration for an artifact on this machine; raise ArchiveError and LayoutError."""
    config = TorchServeConfig(
        archive=served.path,
        run_dir=run_dir,
        layout=choose_cpu_layout(resources.cores(), resources.memory_limit()),
        address=address,
        gpus=gpus,
    )
    return artifact.apply_model_config(config, served)


def serve(config: TorchServeConfig, golden_request: bytes | None) -> None:
    """Serve until interrupted; raise ServingError if the server does not start, or ends."""
    with start_server(config, golden_request) as server:
        _print_usage(config, golden_request)
        raise ServerError(f"TorchServe ended with exit code {server.process.wait()}")


@contextlib.contextmanager
def start_server(
    config: TorchServeConfig, golden_request: bytes | None, log: LogFunction = print
) -> Iterator[Server]:
    """Run TorchServe during the block, which begins once the model answers; raise ServingError.

    `log` receives each line of TorchServe's log.
    """
    runtime = java.find()
    log(f"Java {runtime.version} from {runtime.source}: {runtime.executable}")
    log(f"Starting TorchServe: {config.summary}")
    server = None
    try:
        with _signals_deferred():
            server = Server(config, runtime, lambda record: log(f"  {record}"))
        wait_until_ready(server, probe.create_probe(config, golden_request))
        yield server
    finally:
        # A second Ctrl-C must not interrupt the stop of Java and its workers.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if server:
            server.stop()


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Deliver stop signals only after the block.

    The block starts Java: a signal in the middle of it would leave a process that nothing stops.
    """
    received: list[int] = []
    handlers = {
        stop: signal.signal(stop, lambda number, _frame: received.append(number))
        for stop in STOP_SIGNALS
    }
    try:
        yield
    finally:
        for stop, handler in handlers.items():
            signal.signal(stop, handler)
    for number in received:
        signal.raise_signal(number)


def _check_port_is_free(host: str, port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", error)
            raise ServerError(
                f"cannot listen on port {port} of {host}: {reason}; choose another with PORT="
            ) from None


def wait_until_ready(server: Server, send_probe: Callable[[float], probe.ProbeResult]) -> None:
    """Return once the model answers; raise ServerError if it cannot."""
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while not send_probe(30).healthy:
        if server.process.poll() is not None:
            raise ServerError(f"TorchServe ended with exit code {server.process.returncode}")
        if server.failures.are_final:
            raise ServerError(f"the model cannot be loaded: {server.failures.reason}")
        if time.monotonic() > deadline:
            reason = f": {server.failures.cause}" if server.failures.cause else ""
            raise ServerError(f"the model was not ready within {STARTUP_TIMEOUT_S} s{reason}")
        time.sleep(0.2)


def _print_usage(config: TorchServeConfig, request: bytes | None) -> None:
    url = f"{config.address}/predictions/{config.model_name}"
    body = """'{"instances": [...]}'"""
    if request is not None:
        sample = Path("build") / config.model_name / "request.json"
        sample.parent.mkdir(parents=True, exist_ok=True)
        sample.write_bytes(request)
        body = f"@{sample}"
    print(f"\n{config.model_name} is ready. In another terminal, run:\n")
    print(f"  curl -H 'Content-Type: application/json' -d {body} {url}")
    model = f"MODEL={shlex.quote(os.environ['MODEL'])} " if os.environ.get("MODEL") else ""
    print(f"  make predict {model}URL={url}")
    print(f"  make page {model}PORT={urlsplit(url).port}   # in a browser")
    print("\nPress Ctrl-C to stop.", flush=True)


if __name__ == "__main__":
    main()
