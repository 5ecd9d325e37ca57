"""Break a running container in every known way, under load, and print what each fault cost.

Each fault gets a container of its own, as Vertex AI would run it: restarted when it ends. Eight
clients send requests without a pause, each on a connection that it keeps, from before the fault
until the container has been healthy for a while again. They are clients of this program, because
wrk and its like do not record when each failed request began and ended.
"""

import argparse
import collections
import contextlib
import json
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
from benchmarks.image import PREDICT, PYTHON, Client, Server
from benchmarks.results import machine
from contract.docker import DockerError
from serving import archive

BEFORE_S, AFTER_S, MIN_S, MAX_S = 3.0, 5.0, 15.0, 150.0
CLIENTS = 8
LIMITS = ("--memory", "2g", "--memory-swap", "2g", "--tmpfs", "/tmp:size=96m")
RIGHTS = ("--restart", "on-failure", "--read-only", "--cap-drop", "ALL")
REASON = "cannot serve: "
"""The last line of a container that ends begins with this, followed by the reason."""
TABLE = """\
| fault | sent | not answered | losses end after | health not 200 for | slowest request | restarts | last line |
|---|---|---|---|---|---|---|---|"""
KILL = """
import os, pathlib, sys
for entry in sorted(pathlib.Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
    words = (entry / "cmdline").read_bytes().decode()
    if sys.argv[1] in words and int(entry.name) not in (1, os.getpid()):
        os.kill(int(entry.name), 9)
        break
"""
FILL = """
import os, time
ends = time.monotonic() + 10
with open("/tmp/filled", "wb", buffering=0) as file:
    while time.monotonic() < ends:  # also takes what other processes free meanwhile
        try:
            file.write(bytes(1 << 16))
        except OSError:
            time.sleep(0.01)
os.unlink("/tmp/filled")
"""


class Outcome(NamedTuple):
    """The result of one request; times in seconds."""

    began: float
    ended: float
    result: int | str


class Fault(NamedTuple):
    """A way to break a container."""

    name: str
    inject: Callable[[Server], None]
    instance: Callable[[int], Any] = lambda index: index
    """The instance of the request of a number that rises."""
    padding: int = 0
    """Bytes that each request has more; nginx buffers large ones in /tmp."""


@contextlib.contextmanager
def load(host: str, fault: Fault) -> Iterator[list[Outcome]]:
    """Let clients send requests without a pause while the block runs; yield what came of them."""
    outcomes: list[Outcome] = []
    stop = Event()

    def send(number: int) -> None:
        client = Client(host, 90)
        while not stop.is_set():
            body = _body(fault.instance(number)) + b" " * fault.padding
            began = time.monotonic()
            result = client.send(PREDICT, body)
            outcomes.append(Outcome(began, time.monotonic(), result))
            number += CLIENTS
            if result == 503 or isinstance(result, str):
                time.sleep(0.1)  # as a client that was told to try again

    with ThreadPoolExecutor(CLIENTS) as clients:
        sending = clients.map(send, range(CLIENTS))
        try:
            yield outcomes
        finally:
            stop.set()
        list(sending)  # raises what a client raised


def _body(instance: Any) -> bytes:
    return json.dumps({"instances": [instance]}).encode()


def _run(program: str, server: Server, *arguments: str) -> None:
    server.container.exec(PYTHON, "-c", program, *arguments, detach=True)


def _kill(what: str) -> Callable[[Server], None]:
    return lambda server: _run(KILL, server, what)


def _send(instance: str) -> Callable[[Server], None]:
    args = (PREDICT, _body(instance))
    return lambda server: Thread(
        target=Client(server.host, 90).send, args=args, daemon=True
    ).start()


FAULTS = [
    Fault("kill -9 one worker", _kill("model_service_worker")),
    Fault("kill -9 the JVM", _kill("org.pytorch.serve.ModelServer")),
    Fault("kill -9 nginx", _kill("nginx: master")),
    Fault("kill -9 nginx's worker process", _kill("nginx: worker")),
    Fault("/tmp is full for 10 s", partial(_run, FILL)),
    Fault("the same, requests of 900 kB", partial(_run, FILL), padding=900_000),
    Fault("a request that takes all memory of a 2 GB cgroup", _send("hog")),
    Fault("one instance in fifty raises", lambda _: None, lambda n: n if n % 50 else "raise"),
    Fault("a request that hangs", _send("hang")),
]


def measure(docker: str, tag: str, models: Path, fault: Fault) -> str:
    """Start a container, break it under load, and watch it until it is healthy again.

    Returns a line of the table. All but restarts and the container's last reason for its end count
    from the fault on; a request is lost that got no predictions.
    """
    model = ("--volume", f"{models}:/mnt/models:ro", "--env", "AIP_STORAGE_URI=/mnt/models")
    with image.running(docker, tag, *LIMITS, *RIGHTS, *model) as server:
        with load(server.host, fault) as outcomes:
            time.sleep(BEFORE_S)
            broken = time.monotonic()
            fault.inject(server)
            unhealthy_s = _watch(server, outcomes, broken)
        restarts = server.container.inspect("{{.RestartCount}}")
        reasons = [line for line in server.container.logs().splitlines() if REASON in line]
    since = [one for one in outcomes if one.ended > broken]
    lost = [one for one in since if one.result != 200]
    results = collections.Counter(str(one.result) for one in lost)
    lost_s = max((one.ended - broken for one in lost), default=0.0)
    slowest_s = max((one.ended - one.began for one in since), default=0.0)
    cells = [
        fault.name,
        str(len(since)),
        ", ".join(f"{count} x {result}" for result, count in sorted(results.items())) or "0",
        *(f"{seconds:.1f} s" for seconds in (lost_s, unhealthy_s, slowest_s)),
        restarts,
        reasons[-1].split(REASON)[1] if reasons else "",
    ]
    return f"| {' | '.join(cells)} |"


def _watch(server: Server, outcomes: list[Outcome], broken: float) -> float:
    """Return the seconds without health, once nothing has been lost for AFTER_S."""
    well_since, unhealthy_for, last = time.monotonic(), 0.0, time.monotonic()
    while True:
        well = server.is_healthy()
        now = time.monotonic()
        lost = [one for one in outcomes[-200:] if one.result != 200 and one.ended > last]
        if not well:
            unhealthy_for += now - last
        # The failures that the clients cause themselves never end.
        if not well or (lost and outcomes[-1].result != 200):
            well_since = now
        answered = outcomes and now - max(o.ended for o in outcomes[-50:]) < 1
        settled = now - well_since > AFTER_S and now - broken > MIN_S and answered
        if settled or now - broken > MAX_S:
            return unhealthy_for
        last = now
        time.sleep(0.1)


def main() -> None:
    """Parse the command line, measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    args = parser.parse_args()
    print(TABLE)
    try:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            models = _pack(Path(folder))
            for fault in [each for each in FAULTS if args.only in each.name]:
                print(measure(args.docker, args.image, models, fault), flush=True)
    except DockerError as error:
        sys.exit(f"benchmarks.faults: {error}")
    print(f"\n{machine()}, which the clients share with the container.")


def _pack(folder: Path) -> Path:
    """Pack the model that fails on request; return the folder of the archive."""
    weights, models = folder / "weights", folder / "models"
    weights.mkdir()
    (weights / "weights.txt").write_text("none\n")
    packed = archive.build("model", Path(__file__).with_name("faulty"), weights, models)
    for path, mode in ((folder, 0o755), (models, 0o755), (packed, 0o644)):
        path.chmod(mode)  # the container's user is another
    return models


if __name__ == "__main__":
    main()
