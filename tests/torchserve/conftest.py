"""A TorchServe for the tests of this folder."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving import artifact, java, local, machine, probe, torchserve
from tests.http import Endpoint
from tests.pictures import ARCHIVE


@contextmanager
def serving(archive: Path) -> Iterator[Endpoint]:
    """Serve an archive on a free port for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="ts-") as run:
        address = f"http://127.0.0.1:{torchserve.free_port()}"
        layout = machine.Layout(workers=2, threads=1, batch_delay_ms=20)
        settings = torchserve.Settings(archive, Path(run), layout, address)
        server = torchserve.Server(settings, java.find(), print)
        try:
            local.wait_until_ready(server, probe.asking(settings, artifact.golden_request(archive)))
            yield Endpoint(f"{address}/predictions/{archive.stem}")
        finally:
            server.stop()


@pytest.fixture(scope="session")
def digits() -> Iterator[Endpoint]:
    """Serve the digits archive."""
    with serving(ARCHIVE) as endpoint:
        yield endpoint
