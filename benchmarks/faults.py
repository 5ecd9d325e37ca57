"""Inject faults into a running container under load, and print the effect of each.

Each fault gets a new container that is restarted when it exits, as on Vertex AI. Eight clients send
requests without a pause, each on a persistent connection, from before the fault until the container
has been healthy for a while. They are clients of this program, because load generators such as wrk
do not record when each failed request started and ended.
"""

import argparse
import collections
import contextlib
import http.client
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

from benchmarks import image
from benchmarks.errors import BenchmarkError
from benchmarks.image import PORT, PREDICT, PYTHON, Server
from benchmarks.load import Client
from benchmarks.results import describe_cpu
from contract.docker import DockerError
from project.model_folder import Model
from serving import archive

WARM_UP_S, SETTLE_S, MIN_S, MAX_S = 3.0, 5.0, 15.0, 150.0
"""Seconds: the load before a fault, the health that ends the observation, and its minimum and maximum."""
CLIENTS = 8
KILLS, KILL_INTERVAL_S = 20, 4.0
"""The kills in a row, and the time that a new worker has to load the model."""
SLOW_READERS, STREAMS = 50, 8
LIMIT_S = 5
"""RESPONSE_TIMEOUT_S where a request hangs."""
WORKER = "python model_service_worker.py"
"""The command line of a worker; Java's launchers have another."""
PATHS = ("direct", "torchserve")
RESOURCE_OPTIONS = ("--memory", "2g", "--memory-swap", "2g", "--tmpfs", "/tmp:size=96m")
SANDBOX_OPTIONS = ("--restart", "on-failure", "--read-only", "--cap-drop", "ALL")
EXIT_REASON = "cannot serve: "
"""The prefix of the last log line of a container that exits; the reason follows."""
TABLE = """\
| fault | sent | failed | last failure after | health not 200 for | slowest request | restarts | notes |
|---|---|---|---|---|---|---|---|"""
KILL_SCRIPT = """
import os, pathlib, sys
for entry in sorted(pathlib.Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
    command = (entry / "cmdline").read_bytes().decode().replace(chr(0), " ")
    if sys.argv[1] in command and int(entry.name) not in (1, os.getpid()):
        os.kill(int(entry.name), 9)
        print("killed", entry.name)
        break
"""
FILL_SCRIPT = """
import os, time
deadline = time.monotonic() + 10
with open("/tmp/fill", "wb", buffering=0) as file:
    while time.monotonic() < deadline:  # also fills what other processes free meanwhile
        try:
            file.write(bytes(1 << 16))
        except OSError:
            time.sleep(0.01)
os.unlink("/tmp/fill")
"""


class Outcome(NamedTuple):
    """The result of one request."""

    started: float
    """Time of the monotonic clock in seconds."""
    ended: float
    result: int | str
    """The status, or the reason if there is no response."""


class Fault(NamedTuple):
    """A fault and the requests that are sent during it."""

    name: str
    inject: Callable[[Server], object]
    """Causes the fault; a text that it returns is noted in the table."""
    instance: Callable[[int], Any] = lambda index: index
    """Returns the instance of a request by its number."""
    padding: int = 0
    """Additional bytes of each request; nginx buffers large requests in /tmp."""
    limit_s: int | None = None
    """The container's RESPONSE_TIMEOUT_S; None: its default."""
    path: str = ""
    """The only request path that has this fault; empty: both."""


@contextlib.contextmanager
def run_load(url: str, fault: Fault) -> Iterator[list[Outcome]]:
    """Send requests without a pause while the block runs; yield the growing list of outcomes."""
    outcomes: list[Outcome] = []
    stop = Event()

    def send(number: int) -> None:
        client = Client(url, 90)
        while not stop.is_set():
            body = _body(fault.instance(number)) + b" " * fault.padding
            started = time.monotonic()
            result = client.send(PREDICT, body)
            outcomes.append(Outcome(started, time.monotonic(), result))
            number += CLIENTS
            if result == 503 or isinstance(result, str):
                time.sleep(0.1)  # like a client that respects Retry-After

    with ThreadPoolExecutor(CLIENTS) as clients:
        futures = clients.map(send, range(CLIENTS))
        try:
            yield outcomes
        finally:
            stop.set()
        list(futures)  # raises a client's exception


def _body(instance: Any, **parameters: Any) -> bytes:
    return json.dumps({"instances": [instance], "parameters": parameters}).encode()


def _run(program: str, server: Server, *arguments: str) -> None:
    server.container.exec(PYTHON, "-c", program, *arguments, detach=True)


def _kill(command: str) -> Callable[[Server], None]:
    def kill(server: Server) -> None:
        if not server.container.exec(PYTHON, "-c", KILL_SCRIPT, command):
            raise BenchmarkError(f"no process to kill: {command}")

    return kill


def _send(instance: str) -> Callable[[Server], None]:
    def send(server: Server) -> None:
        args = (PREDICT, _body(instance))
        Thread(target=Client(server.base_url, 90).send, args=args, daemon=True).start()

    return send


def _connect(server: Server, body: bytes) -> socket.socket:
    """Send a request on a connection with a small buffer, and return the connection."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    connection.settimeout(30)
    connection.connect((server.host, PORT))
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def _read_nothing(body: bytes) -> Callable[[Server], None]:
    connections: list[socket.socket] = []  # open until this program ends

    def read_nothing(server: Server) -> None:
        connections.extend(_connect(server, body) for _ in range(SLOW_READERS))

    return read_nothing


def _cut_streams(server: Server) -> str:
    """Kill two workers while clients read streams without an end; return how the streams ended."""

    def read_stream(_: int) -> str:
        with _connect(server, _body(1, stream=True)) as connection:
            response = http.client.HTTPResponse(connection)
            response.begin()
            deadline = time.monotonic() + SETTLE_S
            try:
                while time.monotonic() < deadline:
                    if not response.read(1 << 12):
                        return "ended as complete"
            except (http.client.IncompleteRead, ConnectionError):
                return "incomplete"
            return "continued"

    with ThreadPoolExecutor(STREAMS) as clients:
        results = clients.map(read_stream, range(STREAMS))
        time.sleep(1)
        for _ in range(2):
            _kill(WORKER)(server)
        counts = collections.Counter(results)
    return "streams: " + ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))


FAULTS = [
    Fault("kill -9 one worker", _kill(WORKER)),
    Fault("kill -9 the JVM", _kill("org.pytorch.serve.ModelServer")),
    Fault("kill -9 nginx", _kill("nginx: master")),
    Fault("kill -9 nginx's worker process", _kill("nginx: worker")),
    Fault("/tmp is full for 10 s", partial(_run, FILL_SCRIPT)),
    Fault("/tmp is full for 10 s, requests of 900 kB", partial(_run, FILL_SCRIPT), padding=900_000),
    Fault("a request that exhausts the memory of a 2 GB cgroup", _send("hog")),
    Fault("one instance in fifty raises", lambda _: None, lambda n: n if n % 50 else "raise"),
    Fault("a request that hangs in Python, limit 5 s", _send("hang"), limit_s=LIMIT_S),
    Fault("a request that hangs in native code, limit 5 s", _send("lock"), limit_s=LIMIT_S),
    Fault("50 clients that do not read responses of 8 MB", _read_nothing(_body("large"))),
    Fault(
        "50 clients that do not read a stream",
        _read_nothing(_body(1, stream=True)),
        path="direct",
    ),
    Fault("kill -9 both workers while they stream", _cut_streams, path="direct"),
]


def measure_kills(server: Server, fault: Fault) -> str:
    """Kill one worker after another under load; return the lines of a table with the effect of each."""
    with run_load(server.base_url, fault) as outcomes:
        time.sleep(WARM_UP_S)
        kills = []
        for _ in range(KILLS):
            kills.append(time.monotonic())
            fault.inject(server)
            time.sleep(KILL_INTERVAL_S)
    rows = [["kill"], ["---"], ["failed"], ["slowest failure"], ["slowest request"]]
    for number, killed in enumerate(kills, 1):
        end = kills[number] if number < KILLS else killed + KILL_INTERVAL_S
        during = [each for each in outcomes if killed < each.ended <= end]
        failed = [each for each in during if each.result != 200]
        slowest_failure_s, slowest_s = (
            max((each.ended - each.started for each in some), default=0.0)
            for some in (failed, during)
        )
        cells = (number, "---", len(failed), f"{slowest_failure_s:.2f} s", f"{slowest_s:.2f} s")
        for row, cell in zip(rows, cells, strict=True):
            row.append(str(cell))
    results = collections.Counter(str(each.result) for each in outcomes)
    statuses = ", ".join(f"{count} x {result}" for result, count in sorted(results.items()))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"{len(outcomes)} requests in all: {statuses}."])


def start_options(models: Path, path: str, fault: Fault) -> list[str]:
    """Return the options of `docker run` for a fault."""
    environ = {"AIP_STORAGE_URI": "/mnt/models", "REQUEST_PATH": path}
    if fault.limit_s:
        environ["RESPONSE_TIMEOUT_S"] = str(fault.limit_s)
    variables = [f"--env={name}={value}" for name, value in environ.items()]
    return [*RESOURCE_OPTIONS, *SANDBOX_OPTIONS, f"--volume={models}:/mnt/models:ro", *variables]


def measure(docker: str, tag: str, options: list[str], fault: Fault) -> str:
    """Start a container, inject a fault under load, wait until it is healthy; return a line of the table.

    Requests count from the fault on; those without predictions have failed. Restarts and the last exit
    reason are the container's.
    """
    with image.running(docker, tag, *options) as server:
        with run_load(server.base_url, fault) as outcomes:
            time.sleep(WARM_UP_S)
            injected = time.monotonic()
            note = str(fault.inject(server) or "")
            unhealthy_s = _wait_until_recovered(server, outcomes, injected)
        restarts = server.container.inspect("{{.RestartCount}}")
        reasons = [line for line in server.container.logs().splitlines() if EXIT_REASON in line]
    outcomes = [each for each in outcomes if each.ended > injected]
    failed = [each for each in outcomes if each.result != 200]
    results = collections.Counter(str(each.result) for each in failed)
    last_failure_s = max((each.ended - injected for each in failed), default=0.0)
    slowest_s = max((each.ended - each.started for each in outcomes), default=0.0)
    cells = [
        fault.name,
        str(len(outcomes)),
        ", ".join(f"{count} x {result}" for result, count in sorted(results.items())) or "0",
        *(f"{seconds:.1f} s" for seconds in (last_failure_s, unhealthy_s, slowest_s)),
        restarts,
        reasons[-1].split(EXIT_REASON)[1] if reasons else note,
    ]
    return f"| {' | '.join(cells)} |"


def _wait_until_recovered(server: Server, outcomes: list[Outcome], injected: float) -> float:
    """Return the seconds without health, after SETTLE_S without failures or after MAX_S."""
    recovered, unhealthy_s, last_check = time.monotonic(), 0.0, time.monotonic()
    while True:
        healthy = server.is_healthy()
        now = time.monotonic()
        failed = [o for o in outcomes[-200:] if o.result != 200 and o.ended > last_check]
        if not healthy:
            unhealthy_s += now - last_check
        # Failures that the requests themselves cause occur throughout, and do not count.
        if not healthy or (failed and outcomes[-1].result != 200):
            recovered = now
        responding = outcomes and now - max(o.ended for o in outcomes[-50:]) < 1
        settled = now - recovered > SETTLE_S and now - injected > MIN_S and responding
        if settled or now - injected > MAX_S:
            return unhealthy_s
        last_check = now
        time.sleep(0.1)


def main() -> None:
    """Parse the options, inject the faults, and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    add = parser.add_argument
    add("image", help="the image to test")
    add("--docker", default="docker", help="the Docker client (default: %(default)s)")
    add("--only", default="", help="only faults whose name contains this")
    add("--path", choices=PATHS, default="direct", help="REQUEST_PATH (default: %(default)s)")
    args = parser.parse_args()
    faults = [
        fault for fault in FAULTS if args.only in fault.name and fault.path in ("", args.path)
    ]
    kills = Fault(f"{KILLS} kills of workers in a row", _kill(WORKER))
    with_kills = args.only in kills.name
    if not faults and not with_kills:
        names = ", ".join(fault.name for fault in (*FAULTS, kills))
        parser.error(f"--only: no fault's name contains {args.only}; the faults are {names}")
    heading = f"{TABLE}\n"
    try:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            models = _build_archive(Path(folder))
            for fault in faults:
                options = start_options(models, args.path, fault)
                print(heading + measure(args.docker, args.image, options, fault), flush=True)
                heading = ""
            if with_kills:
                options = start_options(models, args.path, kills)
                with image.running(args.docker, args.image, *options) as server:
                    print(f"\n{kills.name}:\n\n{measure_kills(server, kills)}", flush=True)
    except (BenchmarkError, DockerError) as error:
        sys.exit(f"benchmarks.faults: {error}")
    print(f"\n{describe_cpu()}, shared by the clients and the container.")


def _build_archive(folder: Path) -> Path:
    """Build the archive of the model that fails on request; return its folder."""
    model = Model(path=Path(__file__).with_name("faulty"), name="faulty", output=folder)
    archive.build(model)
    for path, mode in ((folder, 0o755), (model.build, 0o755), (model.archive, 0o644)):
        path.chmod(mode)  # for the container's user
    return model.build


if __name__ == "__main__":
    main()
