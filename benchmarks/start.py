"""From nothing to the first right answer, and what the image weighs.

A container of the image is started until it predicts; beside it, in turn, a container of the same
image in which one process imports torch, loads the model and predicts once: both pay for Docker.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.container import PREDICT, START_S, Client, Container
from benchmarks.workloads import BUILD, DIGITS
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
TORCH, JAVA = "/opt/venv/lib/python3.11/site-packages/torch", "/opt/jre"


class Start(NamedTuple):
    """Seconds."""

    ours: float
    bare: float


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--base", default="debian:bookworm-slim", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    args = parser.parse_args()
    starts = [Start(_ours(args), _bare(args)) for _ in range(args.rounds)]
    ours, bare = (statistics.median(times) for times in zip(*starts, strict=True))
    sizes = _sizes(args)
    document = {
        "start_s": {
            "ours": round(ours, 2),
            "bare": round(bare, 2),
            "ours_over_bare": round(ours / bare, 2),
        },
        "image_mb": sizes,
    }
    (BUILD / "start.json").write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


def _ours(args: argparse.Namespace) -> float:
    began = time.monotonic()
    container = Container(args.docker, args.image)
    try:
        client = Client(container.address(), 10)
        body = artifact.golden_request(DIGITS)
        while client.ask(PREDICT, body) != 200:
            if time.monotonic() - began > START_S:
                sys.exit(f"no answer within {START_S:.0f} s: docker run {args.image} says why")
            time.sleep(0.02)
        return time.monotonic() - began
    finally:
        container.remove()


def _bare(args: argparse.Namespace) -> float:
    began = time.monotonic()
    subprocess.run(
        [
            args.docker,
            "run",
            "--rm",
            "--entrypoint",
            "/opt/venv/bin/python",
            args.image,
            "-c",
            BARE,
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return time.monotonic() - began


def _sizes(args: argparse.Namespace) -> dict[str, float]:
    """Return megabytes of the image, its parts, and what it is measured against."""

    def of(image: str) -> float:
        return int(_said(args, "image", "inspect", "--format", "{{.Size}}", image)) / 1e6

    def under(*folders: str) -> float:
        du = _said(
            args, "run", "--rm", "--user", "0", "--entrypoint", "du", args.image, "-scB1", *folders
        )
        return int(du.splitlines()[-1].split()[0]) / 1e6

    base, kept, java = of(args.base), under(TORCH), under(JAVA)
    image, whole = of(args.image), sum(each.stat().st_size for each in _installed()) / 1e6
    return {
        "image": round(image),
        "base": round(base),
        "torch as pip installs it": round(whole),
        "torch": round(kept),
        "java": round(java),
        "other packages": round(under("/opt/venv") - kept),
        "nginx and python": round(under("/usr", "/var", "/etc") - base),
        "ours": round(under("/app", "/opt/model-store", "/opt/netty"), 1),
        "image_over_base_torch_java": round(image / (base + whole + java), 3),
    }


def _installed() -> list[Path]:
    """Return the files of torch in this environment, bytecode and all."""
    folder = Path(torch.__file__).parent
    return [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]


def _said(args: argparse.Namespace, *words: str) -> str:
    done = subprocess.run(
        [args.docker, *words], check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout.strip()


if __name__ == "__main__":
    BUILD.mkdir(parents=True, exist_ok=True)
    main()
