"""Functions: in this process for what they answer, and one of each started as a user starts it."""

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
Start = Callable[..., FlaskClient]
Live = Callable[[str], Endpoint]


@contextlib.contextmanager
def in_process(name: str, **environ: str) -> Iterator[FlaskClient]:
    """Load a function with these variables and give a client of it; a model is fetched when asked for."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.delenv(variable, raising=False)
        for variable, value in environ.items():
            patch.setenv(variable, value)
        main = str(ROOT / "functions" / name / "main.py")
        app: Flask = functions_framework.create_app(name, main)  # type: ignore[no-untyped-call]
        yield app.test_client()


@pytest.fixture
def start() -> Iterator[Start]:
    """Return `in_process` for one test."""
    with contextlib.ExitStack() as stack:
        yield lambda name, **environ: stack.enter_context(in_process(name, **environ))


@contextlib.contextmanager
def made(name: str, storage: str = "", **environ: str) -> Iterator[Endpoint]:
    """Run `make function-NAME` as a user does and give its URL; then press Ctrl-C, and see it end."""
    port = find_free_port()
    words = ["make", f"function-{name}", f"PORT={port}", f"STORAGE={storage}"]
    left = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=left | environ,
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
            # As a terminal does: to all that runs in its foreground.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(make.pid, signal.SIGINT)
            printed, _ = make.communicate(timeout=30)
    assert f"http://127.0.0.1:{port}/" in printed
    assert "stopped" in printed
    assert "Traceback" not in printed
    assert not bucket.is_port_open(port)


@pytest.fixture(scope="session")
def emulator() -> Iterator[str]:
    """Give the URL of a storage emulator."""
    with bucket.storage_emulator() as url:
        yield url


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the classifier that seed 0 gives."""
    file = tmp_path_factory.mktemp("knn") / iris.FILE
    iris.save(train.train(0)[0], file)
    return file


@pytest.fixture(scope="session")
def live(emulator: str, trained: Path) -> Iterator[Live]:
    """Return a function that gives one of ours as it runs on a user's machine, started once."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def running(name: str) -> Endpoint:
            if name != "knn":
                return stack.enter_context(made(name))
            uri = bucket.create_bucket(emulator, "irises", "models/knn", trained)
            return stack.enter_context(made(name, uri, STORAGE_EMULATOR_HOST=emulator))

        yield running
