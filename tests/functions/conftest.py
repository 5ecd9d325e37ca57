"""Functions, started as a user starts them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from functions.knn import iris, train
from serving.torchserve import free_port
from tests import bucket
from tests.http import Endpoint, wait_for
from tests.pictures import ROOT

Start = Callable[..., Endpoint]
FRAMEWORK = str(Path(sys.executable).with_name("functions-framework"))


@contextlib.contextmanager
def framework(main: Path, target: str, cwd: Path, **environ: str) -> Iterator[Endpoint]:
    """Run functions-framework on a main.py and give its URL."""
    port = free_port()
    left = {k: v for k, v in os.environ.items() if k not in ("STORAGE_URI", "MODEL_SHA256")}
    command = [
        FRAMEWORK,
        f"--source={main}",
        f"--target={target}",
        "--host=127.0.0.1",
        f"--port={port}",
    ]
    log = cwd / f"{target}-{port}.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=cwd, env=left | environ, stdout=output, stderr=output
        ) as process,
    ):
        try:
            endpoint = Endpoint(f"http://127.0.0.1:{port}/")
            wait_for(lambda: process.poll() is not None or _answers(port), 60, target)
            assert process.poll() is None, log.read_text()
            yield endpoint
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(port: int) -> bool:
    # The framework's own 404: nothing of the function is asked.
    with contextlib.suppress(OSError):
        return Endpoint(f"http://127.0.0.1:{port}/").send("GET", "/robots.txt").code == 404
    return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts one of ours, from another folder, as its README says."""
    with contextlib.ExitStack() as stack:

        def _start(name: str, **environ: str) -> Endpoint:
            main = ROOT / "functions" / name / "main.py"
            return stack.enter_context(framework(main, name, tmp_path, **environ))

        yield _start


@pytest.fixture(scope="session")
def emulator() -> Iterator[str]:
    """Give the URL of a storage emulator."""
    with bucket.emulated() as url:
        yield url


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the classifier that seed 0 gives."""
    file = tmp_path_factory.mktemp("knn") / iris.FILE
    iris.save(train.train(0)[0], file)
    return file
