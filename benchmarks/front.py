"""What the front door costs: the same request over nginx, and straight to TorchServe's socket.

Both are asked from inside one container, in turn, block by block, so that what else the machine
does falls on both. The client is Python's and the same for both; what is quoted is the
difference of the medians.
"""

import argparse
import json
import subprocess
from pathlib import Path

from benchmarks import report
from benchmarks.container import PORT, PREDICT, Container

INSIDE = """
import glob, http.client, json, socket, statistics, sys, threading, time
rounds, count, clients, port, route = *map(int, sys.argv[1:5]), sys.argv[5]
folder = glob.glob("/tmp/serving-*")[0]
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX); self.sock.connect(folder + "/torchserve.sock")
import zipfile
archive = glob.glob("/opt/model-store/*.mar")[0]
name = archive.rsplit("/", 1)[1][:-4]
body = zipfile.ZipFile(archive).read("golden-request.json")
ways = {
    "nginx": lambda: (http.client.HTTPConnection("127.0.0.1", port), route),
    "straight": lambda: (Unix("localhost"), "/predictions/" + name),
}
took = {way: [] for way in ways}; spans = {way: [] for way in ways}
def client(way, into):
    connection, path = ways[way]()
    for _ in range(count):
        began = time.perf_counter()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse(); response.read()
        assert response.status == 200, response.status
        into.append(time.perf_counter() - began)
    connection.close()
for turn in range(rounds + 1):
    for way in (list(ways) if turn % 2 else list(ways)[::-1]):
        into = []
        threads = [threading.Thread(target=client, args=(way, into)) for _ in range(clients)]
        began = time.perf_counter()
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        if turn:  # the first warms up
            took[way].append(statistics.median(into) * 1000)
            spans[way].append(len(into) / (time.perf_counter() - began))
print(json.dumps({"ms": took, "per_s": spans}))
"""


def median(values: list[float]) -> float:
    """Return the middle one."""
    return sorted(values)[len(values) // 2]


def spread(values: list[float]) -> str:
    """Return the median and the quartiles."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return f"{median(values):.2f} ({ordered[quarter]:.2f} to {ordered[-1 - quarter]:.2f})"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.front",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each (%(default)s)")
    parser.add_argument(
        "--to", type=Path, default="docs/container.md", help="its table is replaced (%(default)s)"
    )
    args = parser.parse_args()
    lines = [
        "| clients | over nginx, ms | straight, ms | difference, ms | requests/s over nginx "
        "against straight |",
        "|---|---|---|---|---|",
    ]
    container = Container(args.docker, args.image, "--memory", "2g")
    try:
        container.wait_until_healthy()
        for clients, count in ((1, 200), (8, 50)):
            ask = [str(n) for n in (args.rounds, count, clients, PORT)]
            printed = container.run(
                "exec",
                container.name,
                "/opt/venv/bin/python",
                "-c",
                INSIDE,
                *ask,
                PREDICT,
                timeout_s=300,
            )
            found = json.loads(printed)
            over, straight = found["ms"]["nginx"], found["ms"]["straight"]
            apart = [a - b for a, b in zip(over, straight, strict=True)]
            rate = [
                a / b
                for a, b in zip(found["per_s"]["nginx"], found["per_s"]["straight"], strict=True)
            ]
            lines.append(
                f"| {clients} | {spread(over)} | {spread(straight)} | {spread(apart)} "
                f"| {spread(rate)} |"
            )
            print(lines[-1], flush=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"benchmarks.front: {error}\n{error.stderr}") from None
    finally:
        container.remove()
    note = f"Medians of {args.rounds} blocks, quartiles in brackets; {report.machine()}."
    report.replace(args.to, "front", "\n".join([*lines, "", note]))


if __name__ == "__main__":
    main()
