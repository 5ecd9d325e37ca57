"""A stock archive in stock TorchServe and here: the same answers, better errors."""

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import storage
from project.model_folder import find_model
from serving import archive as packing
from serving import artifact
from serving.layout import Layout
from tests.http import Endpoint, send_concurrently
from tests.images import ARCHIVE, ROOT, image_base64, request_body
from tests.stock import archive as stock
from tests.torchserve.conftest import program, serving, stock_torchserve

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("stock")]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Return a folder with model.mar; its path is short, as unix sockets require."""
    with tempfile.TemporaryDirectory(prefix="mar-") as made:
        stock.pack(Path(made))
        yield Path(made)


@pytest.fixture(scope="module")
def stock_server(folder: Path) -> Iterator[Endpoint]:
    """Serve the archive as Google's prebuilt images do: TorchServe's command and JSON envelope."""
    settings = ("service_envelope=json", "disable_token_authorization=true")
    with stock_torchserve(folder / "model.mar", SAME["one picture"], *settings) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def our_server(folder: Path) -> Iterator[Endpoint]:
    """Serve the same archive as the container does."""
    with tempfile.TemporaryDirectory(prefix="store-") as store:
        fetched = artifact.fetch(storage.open_storage(str(folder), print), ARCHIVE, Path(store))
        assert fetched.stock
        assert fetched.golden_request is None
        layout = Layout(workers=1, threads=1, batch_size=8, batch_delay_ms=50)
        with serving(fetched.path, SAME["one picture"], layout) as endpoint:
            yield endpoint


def picture(shade: int, mode: str = "L", size: tuple[int, int] = (28, 28)) -> str:
    image = Image.new(mode, size, shade)
    image.paste(0, (4, 4, 10, 20))
    return image_base64(image)


ROW = [[(x * y) % 7 / 7 for x in range(28)] for y in range(28)]
SAME = {
    "one picture": request_body({"b64": picture(200)}),
    "three pictures": request_body(*({"b64": picture(shade)} for shade in (40, 120, 250))),
    "a large picture in colour": request_body({"b64": picture(90, "RGB", (300, 200))}),
    "pictures under a name": request_body(
        {"data": {"b64": picture(70)}}, {"data": {"b64": picture(9)}}
    ),
    "base64 in lines": request_body({"b64": "\n".join([picture(66)[:40], picture(66)[40:]])}),
    "rows of numbers": request_body(ROW, ROW),
    "numbers under a name": request_body({"data": ROW}),
    "parameters that stock TorchServe drops": request_body({"b64": picture(3)}, k=3.0),
}


@pytest.mark.parametrize("body", SAME.values(), ids=SAME.keys())
def test_stock_archive_answers_as_in_stock_torchserve(
    stock_server: Endpoint, our_server: Endpoint, body: bytes
) -> None:
    expected, got = stock_server.post(body), our_server.post(body)
    assert expected.code == got.code == 200, (expected, got)
    assert json.loads(got.body) == json.loads(expected.body)
    assert got.headers["content-type"] == "application/json"


def test_explanations_are_those_of_stock_torchserve(
    stock_server: Endpoint, our_server: Endpoint
) -> None:
    pictures = [{"b64": picture(shade)} for shade in (40, 250)]
    explanations = Endpoint(stock_server.url.replace("/predictions/", "/explanations/"))
    expected = explanations.post(request_body(*pictures))
    got = our_server.post(request_body(*pictures, explain=True))
    assert expected.code == got.code == 200, (expected, got)
    assert json.loads(got.body) == json.loads(expected.body)
    assert len(json.loads(got.body)["predictions"][0]) == 28


def test_prediction_exception_is_answered_as_in_stock_torchserve(
    stock_server: Endpoint, our_server: Endpoint
) -> None:
    body = request_body({"data": "unknown customer"})
    expected, got = stock_server.post(body), our_server.post(body)
    assert expected.code == got.code == 404, (expected, got)
    assert json.loads(expected.body)["message"] == "unknown customer"
    assert json.loads(got.body)["error"]["message"] == "unknown customer"


ERRORS = {
    "no JSON": (b"{", 400, "not JSON"),
    "no instances": (b"{}", 400, "instances: missing"),
    "an empty array": (b'{"instances": []}', 400, "empty array"),
    "not base64": (request_body({"b64": "!!"}), 400, r"instances[0].b64: not base64"),
    "cut base64": (request_body({"b64": picture(1)}, {"b64": "abcde"}), 400, "instances[1].b64"),
    "base64 that is a number": (request_body({"data": {"b64": 3}}), 400, "instances[0].data.b64"),
    "mixed kinds": (request_body({"b64": picture(1)}, 3), 400, "instances[1]: expected an object"),
    "no picture": (request_body({"b64": "AAAA"}), 400, "not an image"),
    "a wrong shape": (request_body([1, 2, 3]), 500, "handler failed: RuntimeError"),
}


@pytest.mark.parametrize(("body", "code", "reason"), ERRORS.values(), ids=ERRORS.keys())
def test_503_of_stock_torchserve_is_an_error_with_a_reason(
    stock_server: Endpoint, our_server: Endpoint, body: bytes, code: int, reason: str
) -> None:
    got = our_server.post(body)
    assert got.code == code, got
    assert reason in json.loads(got.body)["error"]["message"]
    if not reason.endswith("not base64"):  # stock TorchServe decodes it to an empty image
        assert stock_server.post(body).code == 503


def test_bad_request_does_not_affect_others_in_its_batch(our_server: Endpoint) -> None:
    good = SAME["three pictures"]
    answers = send_concurrently(
        our_server, [good, request_body([1, 2, 3]), good, b"{", good], rounds=10
    )
    codes = [{answer.code for answer in client} for client in answers]
    assert codes == [{200}, {500}, {200}, {400}, {200}]
    alone = our_server.post(good).body
    assert {answer.body for client in answers[::2] for answer in client} == {alone}


NO_DOCKER = ("--docker", "no-docker")
"""Options with which make migrate finds no Docker engine."""


def test_migrate_without_docker_reports_that_the_archive_works_and_prints_the_answer(
    folder: Path, tmp_path: Path
) -> None:
    request_file = tmp_path / "request.json"
    request_file.write_bytes(SAME["one picture"])
    arguments = (str(folder / "model.mar"), "--request", str(request_file))
    done = program("serving.stock", *arguments, *NO_DOCKER)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (ROOT / "docs" / "migration.md").read_text()
    lines = re.findall("^(?:works   handler|The archive works|  cloud: ) .*", page, re.MULTILINE)
    for line in lines:
        assert line.partition(" (torch-model-archiver")[0] in done.stdout
    assert f'{request_file}: the response is 200 {{"predictions": [{{"label": ' in done.stdout
    assert "on this machine, with only the packages of the image" in done.stdout
    assert f"make serve STORAGE={folder}" in done.stdout


def test_migrate_without_docker_offers_an_archive_only_what_the_image_has(tmp_path: Path) -> None:
    handler = tmp_path / "curious_handler.py"
    handler.write_text(CURIOUS_HANDLER)
    request_file = tmp_path / "request.json"
    request_file.write_text('{"instances": [1]}')
    archive = str(stock.pack(tmp_path, handler))
    done = program("serving.stock", archive, "--request", str(request_file), "--json", *NO_DOCKER)
    assert done.returncode == 0, done.stdout + done.stderr
    response = json.loads(done.stdout)["trial"]["response"]
    assert json.loads(response["body"]) == {"predictions": [[True, False, None, []]]}


CURIOUS_HANDLER = """
import importlib.util, os, shutil

class Handler:
    def initialize(self, context):
        modules = ("google.cloud.storage", "sklearn")
        found = [importlib.util.find_spec(module) is not None for module in modules]
        self.found = [*found, shutil.which("gcc"), os.listdir(os.path.expanduser("~"))]

    def handle(self, data, context):
        return [self.found for _ in data]
"""


def test_migrate_reports_why_an_archive_does_not_load(tmp_path: Path) -> None:
    handler = tmp_path / "broken_handler.py"
    handler.write_text(
        "class Handler:\n    def initialize(self, context):\n        raise RuntimeError('no weights')\n"
        "    def handle(self, data, context):\n        return data\n"
    )
    done = program("serving.stock", str(stock.pack(tmp_path, handler)), *NO_DOCKER)
    assert done.returncode == 1
    reason = "the model cannot be loaded: RuntimeError: no weights (broken_handler.py:3)"
    assert f"FAILS   it does not load: {reason}" in done.stdout
    assert f"The archive needs a change: it does not load: {reason}" in done.stdout


def test_migrate_exits_with_2_for_a_missing_file(folder: Path) -> None:
    for arguments in (("",), ("missing.mar",), (str(folder / "model.mar"), "--request", "no")):
        assert program("serving.stock", *arguments).returncode == 2


def test_stock_archive_is_packed_as_a_model_and_served_under_its_name(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "old-model.mar").write_bytes((folder / "model.mar").read_bytes())
    model = find_model(str(folder / "old-model.mar"))
    model = dataclasses.replace(model, output=tmp_path)
    packing.build(model)
    opened = artifact.open_archive(model.archive)
    assert opened.stock
    with serving(model.archive, SAME["one picture"]) as endpoint:
        assert endpoint.url.endswith("/predictions/old-model")
        response = endpoint.post(SAME["three pictures"])
    assert response.code == 200
    assert len(json.loads(response.body)["predictions"]) == 3
