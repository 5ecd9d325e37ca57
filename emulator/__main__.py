"""Run an emulator of Google's control plane on this machine, until Ctrl-C."""

import argparse
import logging
import os
import signal
import sys
import threading

from contract.docker import DockerError
from emulator.config import EmulatorConfig
from emulator.env import FOLDER, write_file
from emulator.errors import EmulatorError
from emulator.stack import running

PORT = 9470
HINT = """
In another terminal, for gcloud, docker and python -m deploy:

  eval "$(make emulator-env)"

and for the SDK: python -m emulator.sdk SCRIPT.py. Ctrl-C stops the emulator and removes all that it started."""
MAX_PORT = 65535 - 3


def parse_arguments() -> argparse.Namespace:
    """Parse the options of `python -m emulator`; print a warning for a deprecated one."""
    parser = argparse.ArgumentParser(prog="python -m emulator", description=__doc__)
    add, config = parser.add_argument, EmulatorConfig()
    default = "(default: %(default)s)"
    text = (
        "port of the control plane; dedicated endpoints, registry and storage have the next three"
    )
    add("--port", type=int, default=PORT, help=f"{text}; 0: free ports {default}")
    add("--project", default="emulator", help=f"project ID in the printed variables {default}")
    docker = os.environ.get("DOCKER", config.docker)
    add("--docker", default=docker, help=f"Docker client, name or path {default}")
    timeout = f"seconds that a deployed model may take to become healthy {default}"
    add("--ready-timeout", type=float, default=config.ready_timeout_s, metavar="S", help=timeout)
    add("--patience", type=float, help=argparse.SUPPRESS)  # the name in version 0.1
    add("--cpus", type=int, default=config.cpu_quota, help=f"quota of cores {default}")
    accelerators = f"quota of each accelerator type {default}"
    add("--accelerators", type=int, default=config.accelerator_quota, help=accelerators)
    text = (
        f"seconds after which a deployed model without traffic is scaled to zero, at most {default}"
    )
    add("--max-idle", type=float, default=config.max_idle_s, metavar="S", help=text)
    args = parser.parse_args()
    if not 0 <= args.port <= MAX_PORT:
        parser.error(f"--port: {args.port}: expected a port from 0 to {MAX_PORT}")
    if args.patience is not None:
        print("--patience is deprecated: use --ready-timeout", file=sys.stderr)
        args.ready_timeout = args.patience
    return args


def main() -> None:
    """Run the emulator until SIGINT or SIGTERM."""
    args = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = EmulatorConfig(
        docker=args.docker,
        ready_timeout_s=args.ready_timeout,
        max_idle_s=args.max_idle,
        cpu_quota=args.cpus,
        accelerator_quota=args.accelerators,
    )
    stopped = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stopped.set())
    try:
        with running(config, port=args.port, folder=FOLDER) as stack:
            write_file(stack.environment(args.project))
            print(HINT, flush=True)
            stopped.wait()
            print("stopping", flush=True)
    except (EmulatorError, DockerError) as error:
        if not stopped.is_set():
            sys.exit(f"emulator: {error}")


if __name__ == "__main__":
    main()
