"""Measure the time from the start of an image to the first correct prediction, and its size.

The bare process is measured in turn with it: a Python process that loads the same archive and predicts, without
container and server.
"""

import argparse
import json
import subprocess
import sys
import time
from http import HTTPStatus
from typing import Any

import requests

from benchmarks import image
from benchmarks.answers import find_error
from benchmarks.errors import AnswerError, BenchmarkError, StartError
from benchmarks.image import START_TIMEOUT_S, Server
from benchmarks.load import first_body
from benchmarks.options import positive_int
from benchmarks.results import quartiles, write_json
from benchmarks.workloads import BUILD, Workload, select_workload
from contract.docker import Docker, DockerError
from project.model_folder import add_model_option

PARTS = {
    "torch": ["/opt/venv/lib/python3.11/site-packages/torch"],
    "torch and other packages": ["/opt/venv"],
    "Java": ["/opt/jre"],
    "Debian, nginx and Python": ["/usr", "/var", "/etc"],
    "TorchServe": ["/opt/torchserve"],
    "ours": ["/app", "/opt/model-store"],
}

BARE = """
import json, pathlib, sys
from benchmarks import bare
from handler.json_output import encode_prediction
task = bare.load(pathlib.Path(sys.argv[1]))
[predictions] = bare.predict(task, [json.loads(sys.stdin.readline())])
print(encode_prediction(predictions))
"""
"""The program of the bare process."""


def main() -> None:
    """Parse the options, measure, print the results and write them to build/bench."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("image", help="the image to measure")
    add_model_option(parser)
    add("--docker", default="docker", help="the Docker client (default: %(default)s)")
    add("--rounds", type=positive_int, default=7, help="starts (default: %(default)s)")
    args = parser.parse_args()
    try:
        results = _measure(args, select_workload(args.model))
        sizes = _measure_sizes_mb(Docker(args.docker), args.image)
    except (BenchmarkError, DockerError) as error:
        sys.exit(f"benchmarks.startup: {error}")
    file = write_json("startup", {**results, "image_mb": sizes}, BUILD)
    print(f"{file.read_text()}{file}")


def _measure(args: argparse.Namespace, workload: Workload) -> dict[str, Any]:
    """Return the medians of the starts of the image and of the bare process, and of their ratios."""
    body = first_body(workload.write_bodies(1))
    _, expected = start_bare(workload, body)  # the first one reads the files from the disk
    starts = [
        (_measure_start_s(args, body, expected), start_bare(workload, body)[0])
        for _ in range(args.rounds)
    ]
    low, ratio, high = quartiles([ours_s / bare_s for ours_s, bare_s in starts])
    ours_s, bare_s = (quartiles(column)[1] for column in zip(*starts, strict=True))
    return {
        "start_s": round(ours_s, 2),
        "bare_s": round(bare_s, 2),
        "start_over_bare": round(ratio, 2),
        "quartiles": [round(low, 2), round(high, 2)],
    }


def start_bare(workload: Workload, body: bytes) -> tuple[float, list[Any]]:
    """Return the time from the start of the bare process to its predictions, and these; raise StartError."""
    command = [str(workload.python), "-c", BARE, str(workload.folder)]
    started = time.monotonic()
    done = subprocess.run(
        command, input=body, capture_output=True, timeout=START_TIMEOUT_S, check=False
    )
    elapsed_s = time.monotonic() - started
    if done.returncode:
        raise StartError(f"the bare process failed: {done.stderr.decode()[-500:]}")
    predictions: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return elapsed_s, predictions


def _measure_start_s(args: argparse.Namespace, body: bytes, expected: list[Any]) -> float:
    """Return the time from `docker run` to the first correct prediction."""

    def predicts(server: Server) -> bool:
        return is_correct(server.url, body, expected)

    started = time.monotonic()
    with image.running(args.docker, args.image, is_ready=predicts):
        return time.monotonic() - started


def is_correct(url: str, body: bytes, expected: list[Any]) -> bool:
    """Return whether a server answers; raise AnswerError if the predictions are not the expected ones."""
    with requests.Session() as session:
        session.trust_env = False  # requests to a container must bypass a proxy
        try:
            headers = {"Content-Type": "application/json"}
            response = session.post(url, body, headers=headers, timeout=10)
        except requests.RequestException:
            return False
    if response.status_code != HTTPStatus.OK:
        return False
    if error := find_error([response.json().get("predictions")], [expected]):
        raise AnswerError(f"the image was not built from this model: {error}")
    return True


def _measure_sizes_mb(docker: Docker, tag: str) -> dict[str, float]:
    """Return the sizes of the image and of its parts."""
    sizes = {"image": int(docker("image", "inspect", "--format", "{{.Size}}", tag)) / 1e6}
    for name, folders in PARTS.items():
        du = docker("run", "--rm", "--user", "0", "--entrypoint", "du", tag, "-scB1", *folders)
        sizes[name] = int(du.splitlines()[-1].split()[0]) / 1e6
    return {name: round(size, 1) for name, size in sizes.items()}


if __name__ == "__main__":
    main()
