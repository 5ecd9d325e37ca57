"""digits: what the endpoint answers, without the container."""

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
from tests.functions.conftest import Live, Start, in_process
from tests.http import JSON_TYPE
from tests.images import MODEL, held_out, request_body

pytestmark = pytest.mark.xdist_group("functions")
FILES = [MODEL / name for name in (*DIGITS.model, *DIGITS.optional)]


@pytest.fixture(scope="module")
def digits(emulator: str) -> Iterator[FlaskClient]:
    uri = bucket.create_bucket(emulator, "pictures", "models/digits", *FILES)
    with in_process("digits", STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator) as client:
        yield client


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_it_keeps_the_wire_contract(digits: FlaskClient, case: cases.Case) -> None:
    answer = digits.post("/", data=case.body, headers=JSON_TYPE)
    cases.check_response(case, answer.status_code, answer.text)
    assert answer.headers["Content-Type"] == "application/json"


def test_a_bad_instance_fails_itself_alone_where_that_is_asked(digits: FlaskClient) -> None:
    body = request_body(cases.INSTANCE, {"b64": "*"}, cases.INSTANCE, on_error="return")
    predictions = json.loads(digits.post("/", data=body).text)["predictions"]
    assert [one.get("label") for one in predictions] == [cases.LABEL, None, cases.LABEL]
    assert predictions[1]["error"]["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("method", "kind", "code", "says"),
    [
        ("GET", "", 405, "predictions: POST"),
        ("PUT", "application/json", 405, "predictions: POST"),
        ("POST", "text/plain", 415, "expected Content-Type: application/json"),
        ("POST", "application/x-www-form-urlencoded", 415, "expected Content-Type"),
    ],
)
def test_what_is_no_prediction_gets_the_container_s_answer(
    digits: FlaskClient, method: str, kind: str, code: int, says: str
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = digits.open("/", method=method, data=cases.CASES[0].body, headers=headers)
    error = json.loads(answer.text)["error"]
    assert (answer.status_code, error["code"], error["status"]) == (code, code, "INVALID_ARGUMENT")
    assert says in error["message"]


def test_a_client_of_the_endpoint_s_path_needs_to_change_the_host_alone(
    live: Live,
) -> None:
    path = "/v1/projects/p/locations/us-central1/endpoints/1:predict"
    for case in (cases.CASES[0], cases.CASES[-1]):
        answer = live("digits").send("POST", path, case.body, JSON_TYPE)
        cases.check_response(case, answer.code, answer.body)


@pytest.mark.parametrize("chunked", [False, True], ids=["its length announced", "in chunks"])
def test_a_request_larger_than_the_container_takes_is_refused(live: Live, chunked: bool) -> None:
    body = b" " * (11 << 20)
    answer = live("digits").send("POST", "/", iter([body]) if chunked else body, JSON_TYPE)
    assert answer.code == 413
    assert "limit of 10485760 bytes" in json.loads(answer.body)["error"]["message"]


def test_many_clients_at_once_get_their_own_answers(live: Live) -> None:
    bodies = [request_body(picture) for picture, _ in held_out(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(live("digits").post, bodies, timeout=120))
    assert [each.body for each in answers] == [live("digits").post(body).body for body in bodies]


def edited(name: str, pattern: bytes, new: bytes) -> Callable[[Path], object]:
    """Return a function that replaces bytes in one of the model's files."""
    return lambda folder: (folder / name).write_bytes(
        re.sub(pattern, new, (folder / name).read_bytes(), count=1, flags=re.DOTALL)
    )


@pytest.mark.parametrize(
    ("spoil", "pins", "says"),
    [
        (
            edited("model.json", rb'"network_version": \d+', b'"network_version": 99'),
            [],
            "the weights are for network version 99, this code has version ",
        ),
        (
            edited("golden.json", rb'"label": "\d"', b'"label": "x"'),
            [],
            "golden instance: expected",
        ),
        (
            edited("weights.safetensors", rb".{10}\Z", b""),
            [],
            "weights.safetensors is damaged or not a safetensors file",
        ),
        (
            lambda folder: (folder / "weights.safetensors").unlink(),
            [],
            "/weights.safetensors: not found among",
        ),
        (edited("model.json", b"{", b"{ "), None, "/model.json: its SHA-256 is"),
        (bool, ["0" * 64], "/weights.safetensors: its SHA-256 is"),
        (bool, ["0" * 64] * 4, "MODEL_SHA256 has 4 checksums"),
    ],
    ids=["network", "golden", "cut short", "missing", "changed", "other weights", "too many pins"],
)
def test_a_model_that_is_not_this_function_s_is_a_503_with_the_reason(
    start: Start, tmp_path: Path, spoil: Callable[[Path], object], pins: list[str] | None, says: str
) -> None:
    for file in FILES:
        shutil.copy(file, tmp_path)
    spoil(tmp_path)
    if pins is None:
        pins = [sha256(MODEL / name).upper() for name in DIGITS.model]
    client = start("digits", STORAGE_URI=str(tmp_path), MODEL_SHA256=",".join(pins))
    answer = client.post("/", data=cases.CASES[0].body)
    error = json.loads(answer.text)["error"]
    assert (answer.status_code, error["code"], error["status"]) == (503, 503, "UNAVAILABLE")
    assert error["message"].startswith("the model cannot be loaded: ")
    assert says in error["message"]
