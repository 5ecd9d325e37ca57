"""Stand in for Google's control plane on this machine, until Ctrl-C."""

import argparse
import logging
import os
import signal
import sys
import threading

from emulator.config import EmulatorConfig
from emulator.stack import MissingProgramError, running


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m emulator", description=__doc__)
    add = parser.add_argument
    add("--port", type=int, default=0, help="of the control plane (default: a free one)")
    add("--project", default="rehearsal", help="in the printed variables (%(default)s)")
    add("--docker", default=os.environ.get("DOCKER", "docker"), help="the client (%(default)s)")
    patience = "how long a model may take to get healthy (%(default)s)"
    add(
        "--patience", type=float, default=EmulatorConfig.ready_timeout_s, metavar="S", help=patience
    )
    add("--cpus", type=int, default=EmulatorConfig.cpus, help="the quota of cores (%(default)s)")
    accelerators = "the quota of each accelerator (%(default)s)"
    add("--accelerators", type=int, default=EmulatorConfig.accelerators, help=accelerators)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = EmulatorConfig(
        docker=args.docker,
        ready_timeout_s=args.patience,
        cpus=args.cpus,
        accelerators=args.accelerators,
    )
    over = threading.Event()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: over.set())
    try:
        with running(config, port=args.port) as stage:
            print("\nIn another terminal:\n")
            for name, value in stage.environment(args.project).items():
                print(f"  export {name}={value}")
            print("\nCtrl-C ends it, and every container that it started.", flush=True)
            over.wait()
    except MissingProgramError as error:
        sys.exit(f"rehearsal: {error}")


if __name__ == "__main__":
    main()
