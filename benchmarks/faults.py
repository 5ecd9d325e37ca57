"""Break a running container in every known way, under load, and print what each fault cost.

Each fault gets a container of its own, as Vertex AI would run it: restarted when it ends. Eight
clients send requests without a pause, each on a connection that it keeps, from before the fault
until the container has been healthy for a while again. They are clients of this program, because
wrk and its like do not record when each failed request began and ended.
"""

import argparse
import collections
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

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


class Load:
    """Clients that send requests without a pause while the block runs."""

    def __init__(self, host: str, body: Callable[[int], bytes]) -> None:
        """`body` returns the request for a number that rises."""
        self.outcomes: list[Outcome] = []
        self._host, self._body = host, body
        self._stop = threading.Event()
        self._clients = [threading.Thread(target=self._send, args=(n,)) for n in range(CLIENTS)]

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self._clients:
            client.join(120)

    def _send(self, number: int) -> None:
        client = Client(self._host, 90)
        while not self._stop.is_set():
            began = time.monotonic()
            result = client.send(PREDICT, self._body(number))
            self.outcomes.append(Outcome(began, time.monotonic(), result))
            number += CLIENTS
            if result == 503 or isinstance(result, str):
                time.sleep(0.1)  # as a client that was told to try again


def number(index: int) -> bytes:
    """Return a request for one instance."""
    return json.dumps({"instances": [index % 1000]}).encode()


def large(index: int) -> bytes:
    """Return a request that nginx buffers in /tmp while it arrives."""
    return number(index) + b" " * 900_000


def one_in_fifty_raises(index: int) -> bytes:
    """Return a request that fails for every fiftieth index."""
    return json.dumps({"instances": ["raise" if index % 50 == 0 else index % 1000]}).encode()


class Fault(NamedTuple):
    """A way to break a container."""

    name: str
    inject: Callable[[Server], None]
    body: Callable[[int], bytes] = number


def _run(program: str, *arguments: str) -> Callable[[Server], None]:
    def inject(server: Server) -> None:
        server.container.exec(PYTHON, "-c", program, *arguments, detach=True)

    return inject


def _send(instance: str) -> Callable[[Server], None]:
    def inject(server: Server) -> None:
        body = json.dumps({"instances": [instance]}).encode()
        client = Client(server.host, 90)
        threading.Thread(target=client.send, args=(PREDICT, body), daemon=True).start()

    return inject


FAULTS = [
    Fault("kill -9 one worker", _run(KILL, "model_service_worker")),
    Fault("kill -9 the JVM", _run(KILL, "org.pytorch.serve.ModelServer")),
    Fault("kill -9 nginx", _run(KILL, "nginx: master")),
    Fault("kill -9 nginx's worker process", _run(KILL, "nginx: worker")),
    Fault("/tmp is full for 10 s", _run(FILL)),
    Fault("the same, requests of 900 kB", _run(FILL), large),
    Fault("a request that takes all memory of a 2 GB cgroup", _send("hog")),
    Fault("one instance in fifty raises", lambda _server: None, one_in_fifty_raises),
    Fault("a request that hangs", _send("hang")),
]


class Result(NamedTuple):
    """What a fault cost; times in seconds."""

    fault: str
    sent: int
    """Requests from the fault on."""
    lost: dict[str, int]
    """Those without predictions, by what they got."""
    lost_for: float
    """From the fault to the end of the last request that was lost."""
    unhealthy_for: float
    """How long the health route did not answer 200."""
    slowest: float
    restarts: int
    reason: str
    """The container's own reason for its last end."""

    def line(self) -> str:
        """Return the line of a Markdown table."""
        lost = ", ".join(f"{count} x {what}" for what, count in sorted(self.lost.items())) or "0"
        times = (f"{seconds:.1f} s" for seconds in self[3:6])
        return f"| {' | '.join([self.fault, str(self.sent), lost, *times])} | {self.restarts} | {self.reason} |"


def measure(docker: str, tag: str, models: Path, fault: Fault) -> Result:
    """Start a container, break it under load, and watch it until it is healthy again."""
    model = ("--volume", f"{models}:/mnt/models:ro", "--env", "AIP_STORAGE_URI=/mnt/models")
    with image.running(docker, tag, *LIMITS, *RIGHTS, *model) as server:
        image.wait_until_healthy(server)
        with Load(server.host, fault.body) as load:
            time.sleep(BEFORE_S)
            broken = time.monotonic()
            fault.inject(server)
            unhealthy_for = _watch(server, load, broken)
        since = [one for one in load.outcomes if one.ended > broken]
        lost = [one for one in since if one.result != 200]
        lines = [line for line in server.container.logs().splitlines() if REASON in line]
        return Result(
            fault.name,
            len(since),
            dict(collections.Counter(str(one.result) for one in lost)),
            max((one.ended - broken for one in lost), default=0.0),
            unhealthy_for,
            max((one.ended - one.began for one in since), default=0.0),
            int(server.container.inspect("{{.RestartCount}}")),
            lines[-1].split(REASON)[1] if lines else "",
        )


def _watch(server: Server, load: Load, broken: float) -> float:
    """Return the seconds without health, once nothing has been lost for AFTER_S."""
    well_since, unhealthy_for, last = time.monotonic(), 0.0, time.monotonic()
    while True:
        well = server.is_healthy()
        now = time.monotonic()
        lost = [one for one in load.outcomes[-200:] if one.result != 200 and one.ended > last]
        if not well:
            unhealthy_for += now - last
        # The failures that the clients cause themselves never end.
        if not well or (lost and load.outcomes[-1].result != 200):
            well_since = now
        answered = load.outcomes and now - max(o.ended for o in load.outcomes[-50:]) < 1
        settled = now - well_since > AFTER_S and now - broken > MIN_S and answered
        if settled or now - broken > MAX_S:
            return unhealthy_for
        last = now
        time.sleep(0.1)


def main() -> None:
    """Parse the command line, measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    args = parser.parse_args()
    print(
        "| fault | sent | not answered | losses end after | health not 200 for | slowest request "
        "| restarts | last line |\n|---|---|---|---|---|---|---|---|"
    )
    try:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            models = _pack(Path(folder))
            for fault in FAULTS:
                if args.only in fault.name:
                    print(measure(args.docker, args.image, models, fault).line(), flush=True)
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
