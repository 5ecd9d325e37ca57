"""Measure the image's start to its first right answer, and its size."""

import argparse
import statistics
import sys
import time

from benchmarks import image
from benchmarks.image import PREDICT, Client, Server
from benchmarks.results import save
from benchmarks.workloads import BUILD, DIGITS
from contract.docker import Docker, DockerError
from serving import artifact

PARTS = {
    "torch": ["/opt/venv/lib/python3.11/site-packages/torch"],
    "torch and other packages": ["/opt/venv"],
    "Java": ["/opt/jre"],
    "Debian, nginx and Python": ["/usr", "/var", "/etc"],
    "TorchServe": ["/opt/torchserve"],
    "ours": ["/app", "/opt/model-store"],
}


def main() -> None:
    """Parse the command line, measure, print the figures and write them to build/bench."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    args = parser.parse_args()
    try:
        starts_s = [_start_s(args) for _ in range(args.rounds)]
        sizes = _sizes(Docker(args.docker), args.image)
    except DockerError as error:
        sys.exit(f"benchmarks.startup: {error}")
    start_s = round(statistics.median(starts_s), 2)
    file = save("start", {"start_s": start_s, "image_mb": sizes}, BUILD)
    print(f"{file.read_text()}{file}")


def _start_s(args: argparse.Namespace) -> float:
    """Return the seconds from `docker run` to the first right answer."""
    body = artifact.read_golden_request(DIGITS)

    def predicts(server: Server) -> bool:
        return Client(server.host, 10).send(PREDICT, body) == 200

    began = time.monotonic()
    with image.running(args.docker, args.image, is_ready=predicts):
        return time.monotonic() - began


def _sizes(docker: Docker, tag: str) -> dict[str, float]:
    """Return megabytes of the image and of its parts."""
    sizes = {"image": int(docker("image", "inspect", "--format", "{{.Size}}", tag)) / 1e6}
    for name, folders in PARTS.items():
        du = docker("run", "--rm", "--user", "0", "--entrypoint", "du", tag, "-scB1", *folders)
        sizes[name] = int(du.splitlines()[-1].split()[0]) / 1e6
    return {name: round(megabytes, 1) for name, megabytes in sizes.items()}


if __name__ == "__main__":
    main()
