"""A stock archive, served by stock TorchServe and by ours: the same answers, better errors."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import storage
from serving import artifact
from serving.layout import Layout
from tests.http import Endpoint, send_concurrently
from tests.images import ARCHIVE, image_base64, request_body
from tests.stock import archive as stock
from tests.torchserve.conftest import program, serving, stock_torchserve

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("stock")]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Return a folder with model.mar; its path is short, as unix sockets ask for."""
    with tempfile.TemporaryDirectory(prefix="mar-") as made:
        stock.pack(Path(made))
        yield Path(made)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Iterator[Endpoint]:
    """Serve the archive as Google's prebuilt images do: TorchServe's command and JSON envelope."""
    settings = ("service_envelope=json", "disable_token_authorization=true")
    with stock_torchserve(folder / "model.mar", SAME["one picture"], *settings) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def ours(folder: Path) -> Iterator[Endpoint]:
    """Serve the same archive as the container does."""
    with tempfile.TemporaryDirectory(prefix="store-") as store:
        taken = artifact.fetch(storage.open_storage(str(folder), print), ARCHIVE, Path(store))
        assert taken.stock
        assert taken.golden_request is None
        layout = Layout(workers=1, threads=1, batch_size=8, batch_delay_ms=50)
        with serving(taken.path, SAME["one picture"], layout) as endpoint:
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
def test_a_stock_archive_answers_as_stock_torchserve_does(
    theirs: Endpoint, ours: Endpoint, body: bytes
) -> None:
    expected, got = theirs.post(body), ours.post(body)
    assert expected.code == got.code == 200, (expected, got)
    assert json.loads(got.body) == json.loads(expected.body)
    assert got.headers["content-type"] == "application/json"


BETTER = {
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


@pytest.mark.parametrize(("body", "code", "reason"), BETTER.values(), ids=BETTER.keys())
def test_what_stock_torchserve_calls_unavailable_gets_a_reason(
    theirs: Endpoint, ours: Endpoint, body: bytes, code: int, reason: str
) -> None:
    got = ours.post(body)
    assert got.code == code, got
    assert reason in json.loads(got.body)["error"]["message"]
    if not reason.endswith("not base64"):  # which stock TorchServe takes for an empty picture
        assert theirs.post(body).code == 503


def test_one_bad_request_does_not_harm_the_others_of_its_batch(ours: Endpoint) -> None:
    good = SAME["three pictures"]
    answers = send_concurrently(ours, [good, request_body([1, 2, 3]), good, b"{", good], rounds=10)
    codes = [{answer.code for answer in client} for client in answers]
    assert codes == [{200}, {500}, {200}, {400}, {200}]
    alone = ours.post(good).body
    assert {answer.body for client in answers[::2] for answer in client} == {alone}


def test_make_migrate_says_that_it_works_and_shows_the_answer(folder: Path, tmp_path: Path) -> None:
    request_file = tmp_path / "request.json"
    request_file.write_bytes(SAME["one picture"])
    done = program("serving.stock", str(folder / "model.mar"), "--request", str(request_file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "works   handler mnist_handler.py: runs unchanged" in done.stdout
    assert f'{request_file} is answered: 200 {{"predictions": [{{"label": ' in done.stdout
    assert f"make serve STORAGE={folder}" in done.stdout


def test_make_migrate_says_why_an_archive_does_not_load(tmp_path: Path) -> None:
    handler = tmp_path / "broken_handler.py"
    handler.write_text(
        "class Handler:\n    def initialize(self, context):\n        1 / 0\n"
        "    def handle(self, data, context):\n        return data\n"
    )
    done = program("serving.stock", str(stock.pack(tmp_path, handler)))
    assert done.returncode == 1
    assert "FAILS   it does not load: the model cannot be loaded: ZeroDivisionError" in done.stdout
    assert "1 of 2 findings will not work without a change" in done.stderr
