"""The process that Java starts as a worker: has the fork server fork the worker, or becomes it.

Java waits for this process, reads its output and kills it; so it ends with the forked worker, and the worker with
it.
"""

import contextlib
import json
import os
import socket
import sys


def main() -> None:
    """Run a worker until it ends."""
    address = os.environ.pop("FORK_SERVER", "")
    # torchrun's processes are ranks of one worker: they import torch according to these variables.
    if address and "LOCAL_RANK" not in os.environ and run_forked(address):
        sys.exit(1)
    from .process import main as run_worker  # noqa: PLC0415  imports torch

    run_worker()


def run_forked(address: str) -> bool:
    """Have a worker forked and wait for its end; return False if there is no fork server."""
    request = {
        "arguments": sys.argv,
        "path": sys.path,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(address)
            socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
            if not connection.recv(16):
                return False
        except OSError:
            return False
        with contextlib.suppress(ConnectionResetError):
            connection.recv(1)  # returns when the worker has ended
    return True
