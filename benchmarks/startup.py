"""Measure an image's time from its start to the first correct prediction, and its size."""

import argparse
import statistics
import sys
import time

from benchmarks import image
from benchmarks.errors import BenchmarkError
from benchmarks.image import PREDICT, Server
from benchmarks.load import Client, first_body
from benchmarks.options import positive_int
from benchmarks.results import write_json
from benchmarks.workloads import BUILD, select_workload
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


def main() -> None:
    """Parse the options, measure, print the results and write them to build/bench."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    add = parser.add_argument
    add("image", help="the image to measure")
    add_model_option(parser)
    add("--docker", default="docker", help="the Docker client (default: %(default)s)")
    add("--rounds", type=positive_int, default=7, help="starts (default: %(default)s)")
    args = parser.parse_args()
    try:
        body = first_body(select_workload(args.model).write_bodies(1))
        times_s = [_measure_start_s(args, body) for _ in range(args.rounds)]
        sizes = _measure_sizes_mb(Docker(args.docker), args.image)
    except (BenchmarkError, DockerError) as error:
        sys.exit(f"benchmarks.startup: {error}")
    start_s = round(statistics.median(times_s), 2)
    file = write_json("startup", {"start_s": start_s, "image_mb": sizes}, BUILD)
    print(f"{file.read_text()}{file}")


def _measure_start_s(args: argparse.Namespace, body: bytes) -> float:
    """Return the time from `docker run` to the first correct prediction."""

    def predicts(server: Server) -> bool:
        return Client(server.base_url, 10).send(PREDICT, body) == 200

    started = time.monotonic()
    with image.running(args.docker, args.image, is_ready=predicts):
        return time.monotonic() - started


def _measure_sizes_mb(docker: Docker, tag: str) -> dict[str, float]:
    """Return the sizes of the image and of its parts."""
    sizes = {"image": int(docker("image", "inspect", "--format", "{{.Size}}", tag)) / 1e6}
    for name, folders in PARTS.items():
        du = docker("run", "--rm", "--user", "0", "--entrypoint", "du", tag, "-scB1", *folders)
        sizes[name] = int(du.splitlines()[-1].split()[0]) / 1e6
    return {name: round(size, 1) for name, size in sizes.items()}


if __name__ == "__main__":
    main()
