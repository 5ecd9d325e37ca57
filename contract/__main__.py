"""Check an image against Vertex AI's container contract in seconds, without deploying it."""

import argparse
import sys
from pathlib import Path

from contract.docker import Docker, DockerError
from contract.suite import run
from contract.vertex import FORMATS, LIVENESS_TIMEOUT_S, SANDBOXES, Options, read_examples

OLD_SANDBOXES = {"vertex": "vertex", "read-only": "read-only", "least": "restricted"}
"""The values of --rights, the old name of --sandbox."""


def main() -> None:
    """Parse the options and run the checks; the exit code is 0 if none fails."""
    parser = argparse.ArgumentParser(prog="python -m contract", description=__doc__)
    add = parser.add_argument
    add("image", help="the image, HOST/NAME:TAG, which must be on this machine")
    text = f"valid requests for the model: {FORMATS}"
    add("--instances", type=Path, required=True, metavar="FILE", help=text)
    text = (
        "the container's isolation. vertex: as on Vertex AI; read-only: a read-only root file system "
        "and 1 GB of /tmp; restricted: read-only, and also no capabilities, no new privileges, user 10001, "
        "2 GB of memory, 256 processes (default: %(default)s)"
    )
    add("--sandbox", choices=sorted(SANDBOXES), default="vertex", help=text)
    add("--rights", choices=sorted(OLD_SANDBOXES), help=argparse.SUPPRESS)
    add("--docker", default="docker", help="the Docker client (default: %(default)s)")
    add("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML")
    text = "maximum seconds until the server is healthy (default: %(default)s)"
    add("--ready-s", type=float, default=300, metavar="SECONDS", help=text)
    text = "maximum seconds until the port is open (default: %(default)s)"
    add("--liveness-s", type=float, default=LIVENESS_TIMEOUT_S, metavar="SECONDS", help=text)
    add("--port", type=int, help="the port that the model is uploaded with (default: random)")
    add("--health-route", help="the health route of the upload (default: random)")
    add("--predict-route", help="the predict route of the upload (default: random)")
    args = parser.parse_args()
    options = vars(args)
    if old_name := options.pop("rights"):
        options["sandbox"] = OLD_SANDBOXES[old_name]
        print(
            f"contract: --rights (make: RIGHTS) is deprecated: use --sandbox {options['sandbox']} (SANDBOX)",
            file=sys.stderr,
        )
    try:
        read_examples(args.instances)
        Docker(args.docker)("image", "inspect", "--format", "{{.Id}}", args.image)
    except ValueError as error:
        sys.exit(f"contract: --instances: {error}")
    except DockerError as error:
        reason = str(error).rpartition("\n")[2]
        sys.exit(f"contract: the image {args.image} cannot be inspected: {reason}")
    sys.exit(run(Options(**options)))


if __name__ == "__main__":
    main()
