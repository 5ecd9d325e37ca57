"""Put an image to Vertex AI's container contract, before deploying it costs twenty minutes."""

import argparse
import sys
from pathlib import Path

import pytest

from contract.vertex import RIGHTS

CLAUSES = Path(__file__).parent / "clauses"


def main() -> None:
    """Run the command line; the exit code is 0 where every clause is kept."""
    parser = argparse.ArgumentParser(prog="python -m contract", description=__doc__)
    parser.add_argument("image", help="any/image:tag that Docker has here")
    parser.add_argument(
        "--instances",
        type=Path,
        required=True,
        metavar="FILE",
        help='instances that the model understands: {"instances": [...]}, an array or JSON lines',
    )
    parser.add_argument(
        "--rights",
        choices=sorted(RIGHTS),
        default="vertex",
        help="of the container: vertex, as Vertex AI starts it; read-only, with a read-only root and a "
        "/tmp; least, also without capabilities, as user 10001, with 2 GB and 256 processes (%(default)s)",
    )
    parser.add_argument("--docker", default="docker", help="the client to use (%(default)s)")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the outcome as JUnit XML")
    parser.add_argument(
        "--ready-s",
        type=float,
        default=300,
        help="how long it may take to be healthy (%(default)s)",
    )
    parser.add_argument(
        "--liveness-s", type=float, default=40, help="how long until its port is open (%(default)s)"
    )
    parser.add_argument("--port", type=int, help="the one that the model is uploaded with, if any")
    parser.add_argument("--health-route", help="likewise")
    parser.add_argument("--predict-route", help="likewise")
    args = parser.parse_args()
    if not args.instances.is_file():
        sys.exit(f"contract: {args.instances} does not exist")
    options = [
        f"--image={args.image}",
        f"--instances={args.instances.resolve()}",
        f"--docker={args.docker}",
        f"--ready-s={args.ready_s}",
        f"--liveness-s={args.liveness_s}",
        f"--rights={args.rights}",
        *([f"--junit-xml={args.junit}"] if args.junit else []),
        *(
            f"--{name.replace('_', '-')}={value}"
            for name in ("port", "health_route", "predict_route")
            if (value := getattr(args, name))
        ),
    ]
    root = CLAUSES.parent.parent
    quiet = ["-q", "--tb=no", "--no-header", "-p", "no:cacheprovider", "--override-ini=addopts="]
    sys.exit(pytest.main([str(CLAUSES), f"--rootdir={root}", *quiet, *options]))


if __name__ == "__main__":
    main()
