"""What a function needs: its start to the first answer, an answer after it, and its memory.

Each function's own source runs under functions-framework in a container with the processor and the
memory that it would be given, its model in a storage emulator, in turn with the others and with the
image. What Google adds before that (a machine, the image's transfer) cannot be measured here.
"""

import argparse
import base64
import concurrent.futures
import http.client
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from benchmarks import report
from benchmarks.container import PREDICT, Client, Container
from benchmarks.workloads import BUILD, DIGITS
from functions import source
from functions.catalogue import FUNCTIONS, Function
from handler import envelope
from serving import artifact

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "functions.md"
START_S, ANSWERS = 180.0, 50
PIECES = """
import pathlib, re
total = 0
for file in pathlib.Path("/proc").glob("[0-9]*/smaps_rollup"):
    try:
        total += int(re.search(r"^Pss: +([0-9]+)", file.read_text(), re.M)[1])
    except (OSError, TypeError):
        pass
print(total)
"""


class Given(NamedTuple):
    """A function, and what it is given; the image where it is none."""

    name: str
    cpu: str
    memory: str

    def __str__(self) -> str:
        return f"{self.name}, {self.cpu} cpu, {self.memory}"


class Round(NamedTuple):
    """One start."""

    start_s: float
    """From the container's start to the first right answer, its 0.3 s for Docker included."""
    answer_ms: float
    """The median of the answers after it, one client."""
    memory_mb: float
    """The most that its processes held while its heaviest requests ran side by side."""


def configurations() -> list[Given]:
    """Return what is measured: each function as it is deployed, with less, and with more."""
    chosen = [Given(each.name, each.cpu, each.memory) for each in FUNCTIONS.values()]
    others = [
        Given("hello", "0.17", "256Mi"),
        Given("knn", "0.33", "512Mi"),
        Given("digits", "1", "1Gi"),
        Given("digits", "2", "2Gi"),
        Given("the image", "1", "2Gi"),
    ]
    return chosen + others


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.functions", description=__doc__)
    parser.add_argument("image", help="its Python runs the functions; it is measured beside them")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    args = parser.parse_args()
    found: dict[Given, list[Round | str]] = {}
    with _emulator() as url:
        for function in FUNCTIONS.values():
            source.lay_out(function)
            _install(function)
            if function.model:
                _upload(function, url)
        for turn in range(args.rounds):
            asked = configurations()
            for given in asked[turn % len(asked) :] + asked[: turn % len(asked)]:
                outcome = _round(args, given, url)
                found.setdefault(given, []).append(outcome)
                print(f"{turn + 1}/{args.rounds}  {given}: {outcome}", flush=True)
    table = _table({given: found[given] for given in configurations()})
    BUILD.mkdir(parents=True, exist_ok=True)
    written = {
        str(given): [r if isinstance(r, str) else r._asdict() for r in rounds]
        for given, rounds in found.items()
    }
    (BUILD / "functions.json").write_text(json.dumps(written, indent=2) + "\n")
    report.replace(PAGE, "functions", table)
    print(table)


def _table(found: dict[Given, list[Round | str]]) -> str:
    lines = [
        f"Medians on {report.machine()}; a start's range in brackets.",
        "",
        "| | CPU | memory | start to first answer | an answer | memory held at most |",
        "|---|---|---|---|---|---|",
    ]
    for given, rounds in found.items():
        good = [each for each in rounds if isinstance(each, Round)]
        cells = ["", "", "too little: it ended each time"]
        if good:
            starts, answers, memory = zip(*good, strict=True)
            cells = [
                f"{statistics.median(starts):.1f} s ({min(starts):.1f} to {max(starts):.1f})",
                f"{statistics.median(answers):.1f} ms",
                f"{max(memory):.0f} MB",
            ]
            if ended := len(rounds) - len(good):
                cells[2] = f"too little: it ended {ended} of {len(rounds)} times"
        lines.append(f"| {given.name} | {given.cpu} | {given.memory} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _round(args: argparse.Namespace, given: Given, emulator: str) -> Round | str:
    limits = [
        f"--cpus={given.cpu}",
        f"--memory={_bytes(given.memory)}",
        f"--memory-swap={_bytes(given.memory)}",
    ]
    if given.name == "the image":
        return _image(args, limits)
    port, function = _free_port(), FUNCTIONS[given.name]
    environ = {
        "PORT": str(port),
        "STORAGE_EMULATOR_HOST": emulator,
        "STORAGE_URI": f"gs://functions/{function.name}",
        "PYTHONPATH": "/site",
        "PYTHONDONTWRITEBYTECODE": "1",
        "THREADS": str(function.concurrency),
    }
    command = [
        args.docker,
        "run",
        "--detach",
        "--network",
        "host",
        *limits,
        "--entrypoint",
        "/usr/bin/python3",
        "--volume",
        f"{_site(function)}:/site:ro",
        "--volume",
        f"{(ROOT / source.BUILD / function.name).resolve()}:/workspace:ro",
        "--workdir",
        "/workspace",
        *(word for name, value in environ.items() for word in ("--env", f"{name}={value}")),
        args.image,
        "-m",
        "functions_framework",
        "--target",
        function.name,
        "--host",
        "127.0.0.1",
    ]
    began = time.monotonic()
    name = _said(command)
    try:
        body = _body(function.name)
        return _measured(args, Asked(name, began, lambda sent: _post(port, sent), body, function))
    finally:
        _said([args.docker, "rm", "--force", name])


def _image(args: argparse.Namespace, limits: list[str]) -> Round | str:
    began = time.monotonic()
    container = Container(args.docker, args.image, *limits)
    try:
        address, body = container.address(), artifact.golden_request(DIGITS) or b""

        def ask(sent: bytes) -> int | str:
            return Client(address, 60).ask(PREDICT, sent)

        return _measured(args, Asked(container.name, began, ask, body, FUNCTIONS["digits"]))
    finally:
        container.remove()


class Asked(NamedTuple):
    """A server in a container."""

    name: str
    """The container's."""
    began: float
    ask: Callable[[bytes], int | str]
    body: bytes
    """A small request."""
    function: Function


def _measured(args: argparse.Namespace, asked: Asked) -> Round | str:
    while asked.ask(asked.body) != 200:
        if _said([args.docker, "inspect", "--format", "{{.State.Running}}", asked.name]) != "true":
            return "ended"
        if time.monotonic() - asked.began > START_S:
            sys.exit(f"no answer within {START_S:.0f} s: docker logs {asked.name}")
        time.sleep(0.02)
    start_s = time.monotonic() - asked.began
    answers = []
    for _ in range(ANSWERS):
        sent = time.monotonic()
        asked.ask(asked.body)
        answers.append(1000 * (time.monotonic() - sent))
    held, over = [_held(args, asked.name)], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            held.append(_held(args, asked.name))

    watcher = threading.Thread(target=watch)
    watcher.start()
    at_once = asked.function.concurrency
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        heavy = list(pool.map(asked.ask, [_heavy(asked.function.name)] * (2 * at_once)))
    over.set()
    watcher.join()
    if any(each != 200 for each in heavy):
        return f"ended under load: {heavy}"
    return Round(start_s, statistics.median(answers), max(held))


def _held(args: argparse.Namespace, name: str) -> float:
    done = subprocess.run(
        [args.docker, "exec", name, "/usr/bin/python3", "-c", PIECES],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return int(done.stdout or 0) / 1000


def _body(name: str) -> bytes:
    if name == "digits":
        return artifact.golden_request(DIGITS) or b""
    return {"hello": b'{"message": "x"}', "knn": b'{"input_data": "5,3,1,0"}'}[name]


def _heavy(name: str) -> bytes:
    """Return the request that takes the most memory: for digits, all that one may hold."""
    if name != "digits":
        return _body(name)
    file = io.BytesIO()
    Image.new("RGBA", (4000, 3000)).save(file, "PNG")  # the most pixels that are decoded at once
    small = json.loads(_body(name))["instances"][0]
    count = min(envelope.MOST_INSTANCES - 1, 9_000_000 // len(json.dumps(small)))
    largest = {"b64": base64.b64encode(file.getvalue()).decode()}
    return json.dumps({"instances": [largest, *[small] * count]}).encode()


def _post(port: int, body: bytes) -> int | str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


@contextmanager
def _emulator() -> Iterator[str]:
    port = _free_port()
    program = str(Path(sys.executable).with_name("gcp-storage-emulator"))
    command = [
        program,
        "start",
        "--in-memory",
        "--host=127.0.0.1",
        f"--port={port}",
        "--default-bucket=functions",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until = time.monotonic() + 30
            while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < until:
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def _site(function: Function) -> Path:
    return (BUILD / "functions" / function.name).resolve()


def _install(function: Function) -> None:
    """Install what a function requires, and nothing else: what is there is imported, too."""
    ready, wanted = _site(function) / "ready", (function.folder / "requirements.txt").read_text()
    if ready.is_file() and ready.read_text() == wanted:
        return
    print(f"installing what {function.name} requires", flush=True)
    shutil.rmtree(_site(function), ignore_errors=True)
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--target",
        str(_site(function)),
        "--requirement",
        str(function.folder / "requirements.txt"),
    ]
    subprocess.run(words, check=True, timeout=1800)
    ready.write_text(wanted)


def _upload(function: Function, emulator: str) -> None:
    words = [
        sys.executable,
        "-m",
        "functions",
        "upload",
        function.name,
        "--storage",
        f"gs://functions/{function.name}",
    ]
    subprocess.run(
        words,
        check=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ | {"STORAGE_EMULATOR_HOST": emulator},
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _bytes(memory: str) -> str:
    return str(int(memory[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[memory[-2:]])


def _said(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=120
    ).stdout.strip()


if __name__ == "__main__":
    main()
