"""Break a running container in every way there is, under load, and write down what it cost.

Each fault gets a container of its own, as Vertex would run it: restarted where it ends by
itself. Eight clients ask without a pause, each on a connection that it keeps, from before the fault
until the container has been healthy for a while again.
"""

import argparse
import collections
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import report
from benchmarks.container import PREDICT, Client, Container, healthy

ROOT = Path(__file__).resolve().parent.parent
BEFORE_S, AFTER_S, MOST_S = 3.0, 5.0, 150.0
CLIENTS = 8
TMP_MB = 96
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
    while time.monotonic() < ends:  # what others give back is taken too
        try:
            file.write(bytes(1 << 16))
        except OSError:
            time.sleep(0.01)
os.unlink("/tmp/filled")
"""


class Outcome(NamedTuple):
    """What one request came to; times in seconds."""

    began: float
    took: float
    result: int | str


class Load:
    """Clients that ask without a pause until told to stop."""

    def __init__(self, host: str, bodies: Callable[[int], bytes]) -> None:
        """`bodies` gives the request for a number that rises."""
        self.outcomes: list[Outcome] = []
        self._host, self._bodies = host, bodies
        self._stop = threading.Event()
        self._clients = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]

    def _ask(self, number: int) -> None:
        client = Client(self._host, 90)
        while not self._stop.is_set():
            began = time.monotonic()
            result = client.ask(PREDICT, self._bodies(number))
            self.outcomes.append(Outcome(began, time.monotonic() - began, result))
            number += CLIENTS
            if result == 503 or isinstance(result, str):
                time.sleep(0.1)  # as a client that was told to try again

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Ask for as long as the block lasts, and until each has its answer."""
        for client in self._clients:
            client.start()
        try:
            yield
        finally:
            self._stop.set()
            for client in self._clients:
                client.join(120)


def number(index: int) -> bytes:
    """Return a request for one instance."""
    return json.dumps({"instances": [index % 1000]}).encode()


def large(index: int) -> bytes:
    """Return a request that nginx has to lay down in /tmp while it arrives."""
    return number(index) + b" " * 900_000


def one_in_fifty_raises(index: int) -> bytes:
    """Return a request that fails for every fiftieth index."""
    return json.dumps({"instances": ["raise" if index % 50 == 0 else index % 1000]}).encode()


class Fault(NamedTuple):
    """A way to break it."""

    name: str
    commit: Callable[[Container, str], None]
    bodies: Callable[[int], bytes] = number


def _kill(what: str) -> Callable[[Container, str], None]:
    return lambda container, _host: container.python(KILL, what)


def _send(instance: str) -> Callable[[Container, str], None]:
    def commit(_container: Container, host: str) -> None:
        body = json.dumps({"instances": [instance]}).encode()
        client = Client(host, 90)
        threading.Thread(target=client.ask, args=(PREDICT, body), daemon=True).start()

    return commit


FAULTS = [
    Fault("kill -9 one worker", _kill("model_service_worker")),
    Fault("kill -9 the JVM", _kill("org.pytorch.serve.ModelServer")),
    Fault("kill -9 nginx", _kill("nginx: master")),
    Fault("kill -9 nginx's worker process", _kill("nginx: worker")),
    Fault("/tmp is full for 10 s", lambda container, _host: container.python(FILL)),
    Fault("the same, requests of 900 kB", lambda container, _host: container.python(FILL), large),
    Fault("a request that takes all memory of a 2 GB cgroup", _send("hog")),
    Fault("one instance in fifty raises", lambda _container, _host: None, one_in_fifty_raises),
    Fault("a request that hangs", _send("hang")),
]


class Result(NamedTuple):
    """What a fault cost; times in seconds."""

    fault: str
    asked: int
    """Requests from the fault on."""
    lost: dict[str, int]
    """Those without predictions, by what they got."""
    lost_for: float
    """From the fault to the end of the last request that was lost."""
    unhealthy_for: float
    """How long the health route did not say 200."""
    slowest: float
    restarts: int
    said: str
    """The container's own reason for its end."""


def measure(docker: str, image: str, models: Path, fault: Fault) -> Result:
    """Start a container, break it under load, and watch it until it is well again."""
    container = Container(
        docker,
        image,
        "--restart",
        "on-failure",
        "--read-only",
        "--cap-drop",
        "ALL",
        "--tmpfs",
        f"/tmp:size={TMP_MB}m",
        "--memory",
        "2g",
        "--memory-swap",
        "2g",
        "--volume",
        f"{models}:/mnt/models:ro",
        "--env",
        "AIP_STORAGE_URI=/mnt/models",
    )
    try:
        container.wait_until_healthy()
        host = container.address()
        load = Load(host, fault.bodies)
        with load.running():
            time.sleep(BEFORE_S)
            broken = time.monotonic()
            fault.commit(container, host)
            unhealthy_for = _watch(host, load, broken)
        return _result(fault.name, load.outcomes, broken, unhealthy_for, container)
    finally:
        container.remove()


def _watch(host: str, load: Load, broken: float) -> float:
    """Return the seconds without health, once all has been well for AFTER_S."""
    well_since, unhealthy_for, last = time.monotonic(), 0.0, time.monotonic()
    while True:
        well = healthy(host)
        now = time.monotonic()
        lost = [o for o in load.outcomes[-200:] if o.result != 200 and o.began + o.took > last]
        if not well:
            unhealthy_for += now - last
        # What the clients provoke themselves goes on for ever.
        if not well or (lost and load.outcomes[-1].result != 200):
            well_since = now
        answered = load.outcomes and now - max(o.began + o.took for o in load.outcomes[-50:]) < 1
        if now - well_since > AFTER_S and now - broken > 15 and answered:
            return unhealthy_for
        if now - broken > MOST_S:
            return unhealthy_for
        last = now
        time.sleep(0.1)


def _result(
    name: str, outcomes: list[Outcome], broken: float, unhealthy_for: float, container: Container
) -> Result:
    since = [one for one in outcomes if one.began + one.took > broken]
    lost = [one for one in since if one.result != 200]
    said = container.last_words()
    return Result(
        name,
        len(since),
        dict(collections.Counter(str(one.result) for one in lost)),
        max((one.began + one.took - broken for one in lost), default=0.0),
        unhealthy_for,
        max((one.took for one in since), default=0.0),
        container.restarts(),
        said[-1] if said else "",
    )


def table(results: list[Result]) -> str:
    """Write the results as Markdown."""
    lines = [
        "| fault | asked | not answered | losses end after | health not 200 for | slowest request "
        "| restarts | last line |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        lost = ", ".join(f"{count} x {what}" for what, count in sorted(one.lost.items())) or "0"
        lines.append(
            f"| {one.fault} | {one.asked} | {lost} | {one.lost_for:.1f} s "
            f"| {one.unhealthy_for:.1f} s | {one.slowest:.1f} s | {one.restarts} "
            f"| {one.said.removeprefix('cannot serve: ')} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--only", default="", help="the faults with this in their name")
    parser.add_argument(
        "--to", type=Path, default="docs/container.md", help="its table is replaced (%(default)s)"
    )
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o755)
        _pack(Path(folder))
        for fault in FAULTS:
            if args.only in fault.name:
                print(f"{fault.name} ...", flush=True)
                results.append(measure(args.docker, args.image, Path(folder), fault))
                print(f"  {results[-1]}", flush=True)
    report.replace(args.to, "faults", table(results))
    print(f"\n{table(results)}\n\nwritten to {args.to}")


def _pack(folder: Path) -> None:
    empty = folder / "weights"
    empty.mkdir()
    (empty / "weights.txt").write_text("none\n")
    pack = [
        sys.executable,
        "-m",
        "serving.archive",
        "--name",
        "model",
        "--model",
        str(ROOT / "benchmarks" / "faulty"),
        "--weights",
        str(empty),
        "--store",
        str(folder),
    ]
    subprocess.run(pack, cwd=ROOT, check=True, timeout=300, stdout=subprocess.DEVNULL)
    (folder / "model.mar").chmod(0o644)


if __name__ == "__main__":
    main()
