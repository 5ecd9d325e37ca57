"""Run an emulator of Google's control plane on this machine, until Ctrl-C."""

import argparse
import logging
import os
import signal
import sys
import threading

from emulator.config import EmulatorConfig
from emulator.errors import EmulatorError
from emulator.stack import running


def parse_arguments() -> argparse.Namespace:
    """Parse the options of `python -m emulator`; print a warning for a deprecated one."""
    parser = argparse.ArgumentParser(prog="python -m emulator", description=__doc__)
    add, config = parser.add_argument, EmulatorConfig()
    default = "(default: %(default)s)"
    add("--port", type=int, default=0, help="port of the control plane (default: a free one)")
    add("--project", default="emulator", help=f"project ID in the printed variables {default}")
    docker = os.environ.get("DOCKER", config.docker)
    add("--docker", default=docker, help=f"Docker client, name or path {default}")
    timeout = f"seconds that a deployed model may take to become healthy {default}"
    add("--ready-timeout", type=float, default=config.ready_timeout_s, metavar="S", help=timeout)
    add("--patience", type=float, help=argparse.SUPPRESS)  # the name in version 0.1
    add("--cpus", type=int, default=config.cpu_quota, help=f"quota of cores {default}")
    accelerators = f"quota of each accelerator type {default}"
    add("--accelerators", type=int, default=config.accelerator_quota, help=accelerators)
    args = parser.parse_args()
    if not 0 <= args.port <= 65535:
        parser.error(f"--port: {args.port}: expected a port from 0 to 65535")
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
        cpu_quota=args.cpus,
        accelerator_quota=args.accelerators,
    )
    stopped = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stopped.set())
    try:
        with running(config, port=args.port) as stack:
            print("\nIn another terminal:\n")
            for name, value in stack.environment(args.project).items():
                print(f"  export {name}={value}")
            print("\nCtrl-C stops the emulator and every container that it started.", flush=True)
            stopped.wait()
    except EmulatorError as error:
        sys.exit(f"emulator: {error}")


if __name__ == "__main__":
    main()
