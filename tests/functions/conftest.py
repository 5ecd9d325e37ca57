"""Functions loaded into this process, and one of each started with make as a user starts it."""

import contextlib
import functools
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import functions_framework
import pytest
from flask import Flask
from flask.testing import FlaskClient

from functions.knn import iris, train
from functions.model_archive import create_function
from functions.packaging import assemble
from functions.registry import FUNCTIONS
from project.model_folder import find_model
from serving.torchserve import find_free_port
from tests import bucket
from tests.http import Endpoint, wait_for
from tests.images import ROOT

TOY = create_function(find_model("tests/toy"))
EVERY = FUNCTIONS | {TOY.name: TOY}
"""The functions by name; that of the tests' model for those of all models."""
VARIABLES = ("STORAGE_URI", "MODEL_SHA256", "STORAGE_EMULATOR_HOST")
StartFunction = Callable[..., FlaskClient]
StartLive = Callable[[str], Endpoint]


@contextlib.contextmanager
def load_function(name: str, **environ: str) -> Iterator[FlaskClient]:
    """Load a function with these variables and yield its client; its model is not fetched yet."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as build:
        for variable in VARIABLES:
            patch.delenv(variable, raising=False)
        for variable, value in environ.items():
            patch.setenv(variable, value)
        source = assemble(EVERY[name], Path(build)) / "main.py"
        create_app = functions_framework.create_app
        app: Flask = create_app(EVERY[name].entry_point, str(source))  # type: ignore[no-untyped-call]
        yield app.test_client()


@pytest.fixture
def start() -> Iterator[StartFunction]:
    """Return `load_function` for one test."""
    with contextlib.ExitStack() as stack:
        yield lambda name, **environ: stack.enter_context(load_function(name, **environ))


@contextlib.contextmanager
def run_make(target: str, storage: str = "", **environ: str) -> Iterator[Endpoint]:
    """Run `make TARGET` and yield its URL; then send Ctrl-C and check that it ends."""
    port = find_free_port()
    command = ["make", target, f"PORT={port}", f"STORAGE={storage}"]
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
                target,
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
    """Yield a function that starts make at its first call for a function, and returns its endpoint."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(name: str) -> Endpoint:
            if name == TOY.name:
                return stack.enter_context(run_make("function"))
            if name == "hello":
                return stack.enter_context(run_make("function-hello"))
            uri = bucket.create_bucket(emulator, "irises", "models/knn", trained)
            return stack.enter_context(
                run_make("function-knn", uri, STORAGE_EMULATOR_HOST=emulator)
            )

        yield start
