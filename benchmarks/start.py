"""Measure the image's start to its first right answer, and its size.

A container of the image is started until it predicts; beside it, in turn, a container of the same
image in which one process imports torch, loads the model and predicts once.
"""

import argparse
import statistics
import sys
import time

from benchmarks import image
from benchmarks.image import PREDICT, PYTHON, START_TIMEOUT_S, Client
from benchmarks.results import save
from benchmarks.workloads import BUILD, DIGITS
from contract.docker import Docker, DockerError
from serving import artifact

BARE = """
import glob, json, pathlib, sys, zipfile
zipfile.ZipFile(glob.glob("/opt/model-store/*.mar")[0]).extractall("/tmp/archive")
sys.path.insert(0, "/tmp/archive")
import torch
torch.set_num_threads(1)
from model.task import load
task = load(pathlib.Path("/tmp/archive"), torch.device("cpu"))
with torch.inference_mode():
    row = task.inference(task.preprocess(task.golden.instance).unsqueeze(0))[0]
print(json.dumps(task.postprocess(row, {})))
"""
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    args = parser.parse_args()
    docker = Docker(args.docker)
    try:
        starts = [(_ours(args), _bare(docker, args.image)) for _ in range(args.rounds)]
        sizes = _sizes(docker, args.image)
    except DockerError as error:
        sys.exit(f"benchmarks.start: {error}")
    ours, bare = (statistics.median(times) for times in zip(*starts, strict=True))
    start_s = {"ours": ours, "bare": bare, "ours_over_bare": ours / bare}
    rounded = {name: round(value, 2) for name, value in start_s.items()}
    file = save("start", {"start_s": rounded, "image_mb": sizes}, BUILD)
    print(f"{file.read_text()}{file}")


def _ours(args: argparse.Namespace) -> float:
    body = artifact.golden_request(DIGITS)
    began = time.monotonic()
    with image.running(args.docker, args.image, healthy=False) as server:
        client = Client(server.host, 10)
        while client.send(PREDICT, body) != 200:
            if time.monotonic() - began > START_TIMEOUT_S:
                sys.exit(f"no answer within {START_TIMEOUT_S} s:\n{server.container.logs(tail=5)}")
            time.sleep(0.02)
        return time.monotonic() - began


def _bare(docker: Docker, tag: str) -> float:
    began = time.monotonic()
    docker("run", "--rm", "--entrypoint", PYTHON, tag, "-c", BARE)
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
