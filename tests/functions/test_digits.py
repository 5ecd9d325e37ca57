"""digits: the endpoint's responses without the container."""

import concurrent.futures
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from functions.registry import DIGITS
from storage.lazy import sha256
from tests import bucket, cases
from tests.functions.conftest import StartFunction, StartLive, load_function
from tests.http import JSON_TYPE
from tests.images import TOY, labelled_images, request_body

pytestmark = pytest.mark.xdist_group("functions")
FILES = [TOY / name for name in DIGITS.model]


@pytest.fixture(scope="module")
def digits(emulator: str) -> Iterator[FlaskClient]:
    uri = bucket.create_bucket(emulator, "pictures", "models/digits", *FILES)
    with load_function("digits", STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator) as client:
        yield client


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_request_gets_the_response_of_the_table(digits: FlaskClient, case: cases.Case) -> None:
    response = digits.post("/", data=case.body, headers=JSON_TYPE)
    cases.check_response(case, response.status_code, response.text)
    assert response.headers["Content-Type"] == "application/json"


def test_on_error_return_replaces_the_prediction_of_a_bad_instance(digits: FlaskClient) -> None:
    body = request_body(cases.INSTANCE, {"b64": "*"}, cases.INSTANCE, on_error="return")
    predictions = json.loads(digits.post("/", data=body).text)["predictions"]
    assert [each.get("label") for each in predictions] == [cases.LABEL, None, cases.LABEL]
    assert predictions[1]["error"]["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("method", "content_type", "code", "message"),
    [
        ("GET", "", 405, "predictions: POST"),
        ("PUT", "application/json", 405, "predictions: POST"),
        ("POST", "text/plain", 415, "expected Content-Type: application/json"),
        ("POST", "application/x-www-form-urlencoded", 415, "expected Content-Type"),
    ],
)
def test_other_method_or_type_gets_the_error_of_the_container(
    digits: FlaskClient, method: str, content_type: str, code: int, message: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = digits.open("/", method=method, data=cases.CASES[0].body, headers=headers)
    error = json.loads(response.text)["error"]
    assert (response.status_code, error["code"], error["status"]) == (
        code,
        code,
        "INVALID_ARGUMENT",
    )
    assert message in error["message"]


def test_path_of_the_endpoint_is_accepted(
    live: StartLive,
) -> None:
    path = "/v1/projects/p/locations/us-central1/endpoints/1:predict"
    for case in (cases.CASES[0], cases.CASES[-1]):
        response = live("digits").send("POST", path, case.body, JSON_TYPE)
        cases.check_response(case, response.code, response.body)


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
def test_body_over_the_limit_of_the_container_gets_413(live: StartLive, chunked: bool) -> None:
    body = b" " * (11 << 20)
    response = live("digits").send("POST", "/", iter([body]) if chunked else body, JSON_TYPE)
    assert response.code == 413
    assert "limit of 10485760 bytes" in json.loads(response.body)["error"]["message"]


def test_concurrent_clients_get_their_own_responses(live: StartLive) -> None:
    bodies = [request_body(image) for image, _ in labelled_images(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(live("digits").post, bodies, timeout=120))
    assert [each.body for each in responses] == [live("digits").post(body).body for body in bodies]


def replace_bytes(name: str, pattern: bytes, new: bytes) -> Callable[[Path], object]:
    """Return a function that replaces bytes in a file of the model."""
    return lambda folder: (folder / name).write_bytes(
        re.sub(pattern, new, (folder / name).read_bytes(), count=1, flags=re.DOTALL)
    )


@pytest.mark.parametrize(
    ("damage", "pins", "message"),
    [
        (
            replace_bytes("model.json", rb'"network_version": \d+', b'"network_version": 99'),
            [],
            "the weights are for network version 99, this code has version ",
        ),
        (
            replace_bytes("golden.json", rb'"label": "\d"', b'"label": "x"'),
            [],
            "golden instance: label: expected",
        ),
        (
            replace_bytes("weights.safetensors", rb".{10}\Z", b""),
            [],
            "weights.safetensors is damaged or not a safetensors file",
        ),
        (
            lambda folder: (folder / "weights.safetensors").unlink(),
            [],
            "/weights.safetensors: not found among",
        ),
        (replace_bytes("model.json", b"{", b"{ "), None, "/model.json: its SHA-256 is"),
        (bool, ["0" * 64], "/weights.safetensors: its SHA-256 is"),
        (bool, ["0" * 64] * 4, "MODEL_SHA256 has 4 checksums"),
    ],
    ids=["network", "golden", "truncated", "missing", "changed", "other weights", "too many pins"],
)
def test_unusable_model_gets_503_with_the_reason(
    start: StartFunction,
    tmp_path: Path,
    damage: Callable[[Path], object],
    pins: list[str] | None,
    message: str,
) -> None:
    for file in FILES:
        shutil.copy(file, tmp_path)
    damage(tmp_path)
    if pins is None:
        pins = [sha256(TOY / name).upper() for name in DIGITS.model]
    client = start("digits", STORAGE_URI=str(tmp_path), MODEL_SHA256=",".join(pins))
    response = client.post("/", data=cases.CASES[0].body)
    error = json.loads(response.text)["error"]
    assert (response.status_code, error["code"], error["status"]) == (503, 503, "UNAVAILABLE")
    assert error["message"].startswith("the model cannot be loaded: ")
    assert message in error["message"]
