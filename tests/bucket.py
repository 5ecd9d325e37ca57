"""Buckets for the tests: an emulator of Cloud Storage, and files in it."""

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
    """Run a storage emulator on an address of this machine, and yield its URL.

    It stores objects in memory, or as FOLDER/BUCKET/NAME, where a test can damage them.
    """
    port, env = find_free_port(), dict(os.environ)
    command = [
        str(Path(sys.executable).with_name("gcp-storage-emulator")),
        "start",
        f"--host={host}",
        f"--port={port}",
    ]
    if folder is None:
        command.append("--in-memory")
    else:
        env |= {"STORAGE_BASE": str(folder.parent), "STORAGE_DIR": folder.name}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
    ) as server:
        try:
            wait_for(lambda: is_port_open(port, host), 30, "the storage emulator")
            yield f"http://{host}:{port}"
        finally:
            server.kill()


def create_bucket(emulator: str, bucket: str, folder: str, *files: Path) -> str:
    """Create a bucket with files in a folder, and return the folder's URI."""
    with open_client(emulator) as storage:
        created = storage.create_bucket(bucket)
        for file in files:
            created.blob(f"{folder}/{file.name}").upload_from_filename(str(file))
    return f"gs://{bucket}/{folder}"


@contextlib.contextmanager
def open_client(emulator: str) -> Iterator[Client]:
    """Yield a client, and close it: the emulator serves one connection at a time."""
    storage = Client(
        project="test",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": emulator},
    )
    try:
        yield storage
    finally:
        storage.close()


def is_port_open(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a server accepts connections on a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
