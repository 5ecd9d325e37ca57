"""Fixtures: models that the handler serves over HTTP, pages for them, and a browser."""

import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flask
import pytest
import torch
from selenium.webdriver import Chrome

from authoring.page.server import create_server
from authoring.page.targets import Endpoint, LocalServer
from handler import envelope
from handler.batch import predict_batch
from handler.errors import RequestError
from handler.loading import load_model
from tests.http import serve_app
from tests.images import ARCHIVE, TOY
from tests.page.browser import Page, open_chromium
from tests.programs import require_programs

ECHO = Path(__file__).parent / "echo"


@contextmanager
def serve_task(task: Any, name: str) -> Iterator[str]:
    """Serve a task as TorchServe's worker does, one request in a batch; yield the URL of its predict route."""
    app = flask.Flask(__name__)

    @app.post(f"/predictions/{name}")
    def predict() -> flask.Response:
        try:
            request: Any = envelope.parse_body(flask.request.get_data())
        except RequestError as error:
            request = error
        [response] = predict_batch(task, [request])
        content = response.chunks or response.body
        return flask.Response(content, response.code, content_type=response.content_type)

    with serve_app(app) as address:
        yield f"http://{address}/predictions/{name}"


@contextmanager
def serve_page(archive: Path, url: str) -> Iterator[str]:
    """Serve the page of an archive; yield its address."""
    endpoint = Endpoint(archive.stem, "my-project", "us-central1")
    server = create_server(0, archive.stem, archive, LocalServer(url, endpoint))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def write_archive(folder: Path, name: str, **documents: Any) -> Path:
    """Write the parts of an archive that the page reads."""
    path = folder / f"{name}.mar"
    with zipfile.ZipFile(path, "w") as archive:
        for document, content in documents.items():
            archive.writestr(f"{document}.json", json.dumps(content))
    return path


@pytest.fixture(scope="session")
def toy_page() -> Iterator[str]:
    """Serve the page of the toy."""
    task = load_model(TOY, torch.device("cpu"))
    with serve_task(task, "toy") as url, serve_page(ARCHIVE, url) as address:
        yield address


@pytest.fixture(scope="session")
def echo_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the page of the model that predicts what its instance contains."""
    task = load_model(ECHO, torch.device("cpu"))
    documents = {"schema": {"x-labels": task.labels, "x-streams": True}}
    documents["requests"] = json.loads((ECHO / "requests.json").read_text())
    archive = write_archive(tmp_path_factory.mktemp("echo"), "echo", **documents)
    with serve_task(task, "echo") as url, serve_page(archive, url) as address:
        yield address


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Start Debian's Chromium without a window; skip the test if it is not installed."""
    require_programs("chromium", "chromedriver")
    with open_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def toy(chromium: Chrome, toy_page: str) -> Page:
    """Open the page of the toy."""
    return Page(chromium, toy_page)


@pytest.fixture
def echo(chromium: Chrome, echo_page: str) -> Page:
    """Open the page of the model that predicts what its instance contains."""
    return Page(chromium, echo_page)
