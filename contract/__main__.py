"""Check an image against Vertex AI's container contract, before deploying it costs twenty minutes."""

import argparse
import sys
from pathlib import Path

from contract.suite import run
from contract.vertex import LIVENESS_S, RIGHTS, Options


def main() -> None:
    """Run the command line; the exit code is 0 if the image passes every check."""
    parser = argparse.ArgumentParser(prog="python -m contract", description=__doc__)
    add = parser.add_argument
    add("image", help="any/image:tag that Docker has here")
    add(
        "--instances",
        type=Path,
        required=True,
        metavar="FILE",
        help='instances that the model understands: {"instances": [...]}, an array or JSON lines',
    )
    add(
        "--rights",
        choices=sorted(RIGHTS),
        default="vertex",
        help="of the container: vertex, as Vertex AI starts it; read-only, with a read-only root and a "
        "/tmp; least, also without capabilities, as user 10001, with 2 GB and 256 processes (%(default)s)",
    )
    add("--docker", default="docker", help="the client to use (%(default)s)")
    add("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML")
    add("--ready-s", type=float, default=300, help="maximum time to become healthy (%(default)s)")
    add("--liveness-s", type=float, default=LIVENESS_S, help="until its port is open (%(default)s)")
    add("--port", type=int, help="the port that the model is uploaded with, if any")
    add("--health-route", help="the health route that it is uploaded with, if any")
    add("--predict-route", help="the predict route that it is uploaded with, if any")
    args = parser.parse_args()
    if not args.instances.is_file():
        sys.exit(f"contract: {args.instances} does not exist")
    sys.exit(run(Options(**vars(args))))


if __name__ == "__main__":
    main()
