"""Functions loaded into this process, and one of each started with make as a user starts it."""

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import functions_framework
import pytest
from flask import Flask
from flask.testing import FlaskClient

from functions.knn import iris, train
from serving.torchserve import find_free_port
from tests import bucket
from tests.http import Endpoint, wait_for
from tests.images import ROOT

VARIABLES = ("STORAGE_URI", "MODEL_SHA256", "STORAGE_EMULATOR_HOST")
StartFunction = Callable[..., FlaskClient]
StartLive = Callable[[str], Endpoint]


@contextlib.contextmanager
def load_function(name: str, **environ: str) -> Iterator[FlaskClient]:
    """Load a function with these variables and yield its client; its model is not fetched yet."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.delenv(variable, raising=False)
        for variable, value in environ.items():
            patch.setenv(variable, value)
        main = str(ROOT / "functions" / name / "main.py")
        app: Flask = functions_framework.create_app(name, main)  # type: ignore[no-untyped-call]
        yield app.test_client()


@pytest.fixture
def start() -> Iterator[StartFunction]:
    """Return `load_function` for one test."""
    with contextlib.ExitStack() as stack:
        yield lambda name, **environ: stack.enter_context(load_function(name, **environ))


@contextlib.contextmanager
def run_make(name: str, storage: str = "", **environ: str) -> Iterator[Endpoint]:
    """Run `make function-NAME` and yield its URL; then send Ctrl-C and check that it ends."""
    port = find_free_port()
    command = ["make", f"function-{name}", f"PORT={port}", f"STORAGE={storage}"]
    inherited = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=inherited | environ,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as make:
        try:
            wait_for(
                lambda: make.poll() is not None or bucket.is_port_open(port),
                120,
                f"function-{name}",
            )
            yield Endpoint(f"http://127.0.0.1:{port}/")
        finally:
            # A terminal sends SIGINT to the whole process group in its foreground.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(make.pid, signal.SIGINT)
            printed, _ = make.communicate(timeout=30)
    assert f"http://127.0.0.1:{port}/" in printed
    assert "stopped" in printed
    assert "Traceback" not in printed
    assert not bucket.is_port_open(port)


@pytest.fixture(scope="session")
def emulator() -> Iterator[str]:
    """Yield the URL of a storage emulator."""
    with bucket.storage_emulator() as url:
        yield url


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a classifier that was trained with seed 0."""
    file = tmp_path_factory.mktemp("knn") / iris.FILE
    iris.save(train.train(0)[0], file)
    return file


@pytest.fixture(scope="session")
def live(emulator: str, trained: Path) -> Iterator[StartLive]:
    """Yield a function that starts `make function-NAME` at its first call, and returns its endpoint."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(name: str) -> Endpoint:
            if name != "knn":
                return stack.enter_context(run_make(name))
            uri = bucket.create_bucket(emulator, "irises", "models/knn", trained)
            return stack.enter_context(run_make(name, uri, STORAGE_EMULATOR_HOST=emulator))

        yield start
