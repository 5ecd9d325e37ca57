"""Run TorchServe as one Java process: its properties, command line, environment, log and end.

Java is started directly. The `torchserve` command would add a Python process that forwards no
signals and discards Java's exit code.
"""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from serving import bytecode_patches, logs, resources
from serving.errors import ServingError
from serving.gpu import VISIBLE_VARIABLE
from serving.java import Java
from serving.layout import GPU_GATHER_MS
from serving.logs import LogRecord
from serving.torchserve_config import TorchServeConfig
from serving.worker_failures import WorkerFailures

LOG_CONFIG = Path(__file__).with_name("log4j2.xml")
PATCHED_WORKER_HOME = Path(__file__).with_name("worker")
"""Java starts each worker as ts/model_service_worker.py in this folder, in place of TorchServe's."""
PATCHES_VARIABLE = "TORCHSERVE_PATCHES"
"""The environment variable that turns all patches on or off: docs/decisions.md."""
STOCK_VARIABLES = {"SERVICE_ENVELOPE": ("json", "none"), "WRAP_INSTANCES": ("data",)}
"""The environment variables that the handler of stock archives reads in the workers, and their values."""
CLASS_DATA = "classes.jsa"
"""Java's archive of the classes that TorchServe loads, beside its jars in the image."""
JOB_QUEUE_SIZE = 256
"""Requests that may wait for a worker of TorchServe's Java, which rejects more."""
INTERRUPT_TIMEOUT_S = 10
"""How much longer than a worker Java waits: the worker ends a batch itself."""


class TorchServeError(ServingError):
    """TorchServe is not installed."""


def render_properties(config: TorchServeConfig) -> str:
    """Return the text of config.properties; only the prediction address is reachable from outside."""
    layout = config.layout
    model = {
        "defaultVersion": True,
        "marName": config.archive.name,
        "minWorkers": layout.workers,
        "maxWorkers": layout.workers,
        "batchSize": layout.batch_size,
        "maxBatchDelay": max(layout.batch_delay_ms, 1),
        "responseTimeout": config.response_timeout_s + INTERRUPT_TIMEOUT_S * config.patched,
        "startupTimeout": 600,
        "maxRetryTimeoutInSec": config.retry_timeout_s,
    }
    properties: dict[str, object] = {
        "inference_address": config.address,
        "management_address": config.management_address,
        "metrics_address": f"unix:{config.run_dir}/metrics.sock",
        "model_store": config.archive.parent.resolve(),
        "load_models": config.archive.name,
        "models": json.dumps({config.model_name: {"1.0": model}}),
        "max_request_size": config.max_request_bytes,
        # For all responses of a batch together; the handler limits each one.
        "max_response_size": config.heap_bytes // 2,
        "allowed_urls": "file://none.*",
        "disable_token_authorization": "true",
        "enable_model_api": "false",
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
        "disable_system_metrics": "true",
        "metrics_config": find_package_dir() / "configs/metrics.yaml",
        "number_of_netty_threads": 1,
        "netty_client_threads": 1,
        "job_queue_size": JOB_QUEUE_SIZE,
        # The handler parses the body itself: TorchServe's worker accepts NaN and logs bodies that
        # are not JSON. (TS_DECODE_INPUT_REQUEST has no effect: Java sets it from this property.)
        "decode_input_request": "false",
    }
    if config.gpus is not None:
        properties["number_of_gpu"] = 0 if config.patched else len(set(config.gpus))
    if not config.patched:  # the gRPC servers' default ports may be in use
        for server in ("inference", "management"):
            properties[f"grpc_{server}_port"] = find_free_port()
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def build_command(config: TorchServeConfig, java: Java, properties_file: Path) -> list[str]:
    """Return Java's command line, and write the patched classes that it names.

    Raises TorchServeError and UnsupportedTorchServeError.
    """
    jar_dir = config.jar_dir or find_package_dir() / "frontend"
    class_path = list_jars(jar_dir)
    class_data = jar_dir / CLASS_DATA
    if patches := _select_patches(config, jar_dir / "model-server.jar"):
        classes = config.run_dir / "classes"
        bytecode_patches.write_classes(jar_dir / "model-server.jar", classes, patches)
        class_path.insert(0, classes)
    worker_home = PATCHED_WORKER_HOME if config.patched else find_package_dir().parent
    return [
        java.executable,
        # The smallest collector: one thread produces garbage, and little of it survives.
        "-XX:+UseSerialGC",
        f"-Xmx{config.heap_bytes}",
        # Without this, Java continues after an OutOfMemoryError and answers only some requests.
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dmodel_server_home={worker_home}",
        f"-Djava.io.tmpdir={config.run_dir}",
        *(
            [f"-Djava.library.path={config.native_library_dir}"]
            if config.native_library_dir
            else []
        ),
        f"-Dlog4j.configurationFile=file://{LOG_CONFIG}",
        # They only cost time at the start: log4j's management beans, and counters for jstat.
        *("-Dlog4j2.disableJmx=true", "-XX:-UsePerfData"),
        # Java that only watches workers runs too little to be worth the time of the second compiler.
        *(["-XX:TieredStopAtLevel=1"] if config.listener_socket else []),
        *(["-Dlevel=info"] if config.verbose else []),
        *([f"-XX:SharedArchiveFile={class_data}"] if class_data.exists() else []),
        *("-cp", ":".join(map(str, class_path)), "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable),
        *("-f", str(properties_file), "-s", str(config.archive.parent.resolve())),
        *("-ncs", "--disable-token-auth"),
    ]


def list_jars(folder: Path) -> list[Path]:
    """Return TorchServe's jars in a fixed order, which Java compares with that of its class data archive."""
    return sorted(folder.glob("*.jar"))


def _select_patches(config: TorchServeConfig, jar: Path) -> list[bytecode_patches.Patch]:
    # The image's jar has no gRPC classes, and was patched when it was built.
    return [bytecode_patches.NO_GRPC] if config.patched and bytecode_patches.has_grpc(jar) else []


def find_package_dir() -> Path:
    """Return the folder of the package `ts`; raise TorchServeError."""
    package = importlib.util.find_spec("ts")
    if package is None or not package.submodule_search_locations:
        raise TorchServeError("TorchServe is not installed; run: pip install torchserve")
    return Path(package.submodule_search_locations[0])


def build_environment(config: TorchServeConfig) -> dict[str, str]:
    """Return the environment of Java and of the workers that it starts."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TS_", "PYTHONPATH"))}
    return inherited | {
        "OMP_NUM_THREADS": str(config.layout.threads),
        # An idle thread of OpenMP polls for some 0.05 ms, not some ms: the next request may need its core.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
        "PYTHONUNBUFFERED": "1",
        # Progress bars, such as those of transformers, would be warnings in the log.
        "TQDM_DISABLE": os.environ.get("TQDM_DISABLE", "1"),
        "WORKER_LOG_LEVEL": "DEBUG" if config.verbose else "INFO",
        "LOG_LOCATION": str(config.run_dir),
        "METRICS_LOCATION": str(config.run_dir),
        "TELEMETRY_DIR": str(config.container_dir) if config.has_telemetry else "",
        "TELEMETRY_PORT": str(config.telemetry_port or ""),
        "FORK_SERVER": str(config.fork_server_socket),
        "LISTENER_SOCKET": str(config.listener_socket or ""),
        "BATCH_DELAY_MS": str(config.layout.batch_delay_ms),
        "RESPONSE_TIMEOUT_S": str(config.response_timeout_s),
        **_build_core_variables(config),
        **_build_gpu_variables(config),
    }


def _build_core_variables(config: TorchServeConfig) -> dict[str, str]:
    """Return the variables for workers that have more threads together than there are cores."""
    workers, cores = config.layout.workers, resources.cores()
    if not config.shared_workers and workers * config.layout.threads <= cores:
        return {"SHARED_CORES_FILE": ""}
    return {
        "SHARED_CORES_FILE": str(config.container_dir / "shared-cores"),
        "SHARED_CORES": str(cores),
        "WORKERS": str(config.shared_workers or workers),
    }


def _build_gpu_variables(config: TorchServeConfig) -> dict[str, str]:
    """Return the variables for workers that use a GPU.

    The worker of this project selects its GPU itself, because TorchServe's Java takes numbers only, starts with the
    second GPU, does not know about the other TorchServes in the container, and runs nvidia-smi for each GPU that it
    assigns. Java counts what CUDA_VISIBLE_DEVICES lists; without it, it runs nvidia-smi.
    """
    if not config.gpus:
        return {}
    workers = config.shared_gpu_workers or -(-config.layout.workers // len(config.gpus))
    variables = {
        "GPU_WORKERS": str(workers * config.gpu_clients),
        "BATCH_GATHER_MS": str(GPU_GATHER_MS),
    }
    if config.patched:
        # A selector may contain commas.
        selectors = ";".join(gpu.selector for gpu in config.gpus)
        return variables | {"WORKER_GPUS": selectors, VISIBLE_VARIABLE: "0"}
    if visible := ",".join(sorted({gpu.selector for gpu in config.gpus})):
        variables[VISIBLE_VARIABLE] = visible
    return variables


class Server:
    """A running TorchServe; its workers share its process group and end with it."""

    def __init__(
        self, config: TorchServeConfig, java: Java, on_record: Callable[[LogRecord], None]
    ) -> None:
        """Start it and pass each of its log records to `on_record`.

        Raises TorchServeError and UnsupportedTorchServeError.
        """
        properties_file = config.run_dir / "config.properties"
        properties_file.write_text(render_properties(config))
        self.failures = WorkerFailures()
        self._on_record = on_record
        self.process = subprocess.Popen(
            build_command(config, java, properties_file),
            env=build_environment(config),
            cwd=config.run_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as log:
            for line in log:
                record = logs.parse_line(line.rstrip("\n"))
                self.failures.record(record)
                self._on_record(record)

    def stop(self, grace_s: float = 20) -> int:
        """Stop TorchServe and its workers, by SIGKILL after `grace_s`; return Java's exit code."""
        self.process.terminate()
        wait_or_kill(self.process, grace_s)
        with contextlib.suppress(ProcessLookupError):  # the usual case: no worker is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self._reader.join(1)
        return self.process.returncode


def wait_or_kill(process: subprocess.Popen[str], timeout_s: float) -> None:
    """Wait until a process that was asked to stop has ended; kill it after `timeout_s`."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def find_free_port() -> int:
    """Return a TCP port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
