"""Buckets for the tests: a storage emulator, and files in it."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from serving.torchserve import find_free_port
from tests.http import wait_for


@contextlib.contextmanager
def storage_emulator(host: str = "127.0.0.1", folder: Path | None = None) -> Iterator[str]:
    """Run a storage emulator at an address of this machine and give its URL.

    In FOLDER/BUCKET/NAME lie the objects, where they can be damaged; without one, in memory.
    """
    port, environ = find_free_port(), dict(os.environ)
    command = [
        str(Path(sys.executable).with_name("gcp-storage-emulator")),
        "start",
        f"--host={host}",
        f"--port={port}",
    ]
    if folder is None:
        command.append("--in-memory")
    else:
        environ |= {"STORAGE_BASE": str(folder.parent), "STORAGE_DIR": folder.name}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ
    ) as server:
        try:
            wait_for(lambda: is_port_open(port, host), 30, "the storage emulator")
            yield f"http://{host}:{port}"
        finally:
            server.kill()


def create_bucket(emulator: str, bucket: str, folder: str, *files: Path) -> str:
    """Put files into a folder of a new bucket and return its URI."""
    with open_client(emulator) as storage:
        made = storage.create_bucket(bucket)
        for file in files:
            made.blob(f"{folder}/{file.name}").upload_from_filename(str(file))
    return f"gs://{bucket}/{folder}"


@contextlib.contextmanager
def open_client(emulator: str) -> Iterator[Client]:
    """Give a client, and close it: the emulator hears one connection at a time."""
    made = Client(
        project="test",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": emulator},
    )
    try:
        yield made
    finally:
        made.close()


def is_port_open(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether something accepts connections at a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
