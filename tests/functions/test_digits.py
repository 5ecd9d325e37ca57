"""digits: what the endpoint answers, without the container."""

import concurrent.futures
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from functions.catalogue import DIGITS
from storage.fetched import sha256
from tests import bucket, wire
from tests.functions.conftest import Start, framework
from tests.http import JSON_TYPE, Endpoint
from tests.pictures import MODEL, ROOT, held_out, request

FILES = [MODEL / name for name in (*DIGITS.model, *DIGITS.optional)]


@pytest.fixture(scope="module")
def digits(emulator: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    uri = bucket.filled(emulator, "pictures", "models/digits", *FILES)
    with framework(
        ROOT / "functions" / "digits" / "main.py",
        "digits",
        tmp_path_factory.mktemp("digits"),
        STORAGE_URI=uri,
        STORAGE_EMULATOR_HOST=emulator,
    ) as endpoint:
        yield endpoint


@pytest.mark.parametrize("case", wire.CASES, ids=lambda case: case.name)
def test_it_keeps_the_wire_contract(digits: Endpoint, case: wire.Case) -> None:
    answer = digits.post(case.body)
    wire.check(case, answer.code, answer.body)
    assert answer.headers["content-type"] == "application/json"


def test_a_client_of_the_endpoint_s_path_needs_to_change_the_host_alone(digits: Endpoint) -> None:
    path = "/v1/projects/p/locations/us-central1/endpoints/1:predict"
    answer = digits.send("POST", path, wire.CASES[0].body, JSON_TYPE)
    wire.check(wire.CASES[0], answer.code, answer.body)


def test_a_bad_instance_fails_itself_alone_where_that_is_asked(digits: Endpoint) -> None:
    body = request(wire.INSTANCE, {"b64": "*"}, wire.INSTANCE, on_error="return")
    predictions = json.loads(digits.post(body).body)["predictions"]
    assert [one.get("label") for one in predictions] == [wire.LABEL, None, wire.LABEL]
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
    digits: Endpoint, method: str, kind: str, code: int, says: str
) -> None:
    answer = digits.send(method, "/", wire.CASES[0].body, {"Content-Type": kind} if kind else {})
    error = json.loads(answer.body)["error"]
    assert (answer.code, error["code"], error["status"]) == (code, code, "INVALID_ARGUMENT")
    assert says in error["message"]


@pytest.mark.parametrize("chunked", [False, True], ids=["its length announced", "in chunks"])
def test_a_request_larger_than_the_container_takes_is_refused(
    digits: Endpoint, chunked: bool
) -> None:
    body = b" " * (11 << 20)
    answer = digits.send("POST", "/", iter([body]) if chunked else body, JSON_TYPE)
    assert answer.code == 413
    assert "limit of 10485760 bytes" in json.loads(answer.body)["error"]["message"]


def test_many_clients_at_once_get_their_own_answers(digits: Endpoint) -> None:
    asked = held_out(24)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: digits.post(request(one[0])), asked, timeout=120))
    alone = [digits.post(request(one[0])).body for one in asked]
    assert [answer.body for answer in answers] == alone


def says_of(start: Start, emulator: str, uri: str, **environ: str) -> str:
    """Return the reason that a function gives which has no model."""
    asked = start("digits", STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator, **environ)
    answer = asked.post(wire.CASES[0].body)
    error = json.loads(answer.body)["error"]
    assert (answer.code, error["code"], error["status"]) == (503, 503, "UNAVAILABLE")
    assert error["message"].startswith("there is no model: ")
    return str(error["message"])


def changed(folder: Path, name: str, old: bytes, new: bytes) -> list[Path]:
    """Return the model's files, one of them with other words in it."""
    copies = [Path(shutil.copy(file, folder)) for file in FILES]
    content = (folder / name).read_bytes()
    assert old in content
    (folder / name).write_bytes(content.replace(old, new, 1))
    return copies


def test_weights_of_another_network_are_refused(
    start: Start, emulator: str, tmp_path: Path
) -> None:
    version = json.loads((MODEL / "model.json").read_text())["network_version"]
    old = f'"network_version": {version}'.encode()
    files = changed(tmp_path, "model.json", old, b'"network_version": 99')
    uri = bucket.filled(emulator, "another-network", "digits", *files)
    reason = says_of(start, emulator, uri)
    assert f"the weights are for network version 99, this code is version {version}" in reason


def test_weights_that_do_not_answer_their_golden_instance_are_refused(
    start: Start, emulator: str, tmp_path: Path
) -> None:
    other = next(digit for digit in "0123456789" if digit != wire.LABEL)
    old, new = (f'"label": "{label}"'.encode() for label in (wire.LABEL, other))
    uri = bucket.filled(
        emulator, "not-golden", "digits", *changed(tmp_path, "golden.json", old, new)
    )
    assert "golden instance: expected" in says_of(start, emulator, uri)


def test_weights_cut_short_are_refused(start: Start, emulator: str, tmp_path: Path) -> None:
    files = [Path(shutil.copy(file, tmp_path)) for file in FILES]
    files[0].write_bytes(files[0].read_bytes()[:-10])
    uri = bucket.filled(emulator, "cut-short", "digits", *files)
    assert "weights.safetensors is no safetensors file" in says_of(start, emulator, uri)


def test_missing_weights_are_named(start: Start, emulator: str) -> None:
    uri = bucket.filled(emulator, "weightless", "digits", *FILES[1:])
    assert f"{uri}/weights.safetensors: no such object" in says_of(start, emulator, uri)


def test_only_the_weights_that_were_deployed_are_loaded(start: Start, emulator: str) -> None:
    uri = bucket.filled(emulator, "pinned-weights", "digits", *FILES)
    reason = says_of(start, emulator, uri, MODEL_SHA256="0" * 64)
    assert f"its SHA-256 is {sha256(FILES[0])}" in reason


def test_labels_that_were_changed_in_the_bucket_are_refused(
    start: Start, emulator: str, tmp_path: Path
) -> None:
    pins = ",".join(sha256(MODEL / name) for name in DIGITS.model)
    files = changed(tmp_path, "model.json", b"{", b"{ ")
    uri = bucket.filled(emulator, "changed-labels", "digits", *files)
    assert f"{uri}/model.json: its SHA-256 is" in says_of(start, emulator, uri, MODEL_SHA256=pins)


def test_more_pins_than_files_are_refused(start: Start, emulator: str) -> None:
    uri = bucket.filled(emulator, "over-pinned", "digits", *FILES)
    reason = says_of(start, emulator, uri, MODEL_SHA256=",".join(["0" * 64] * 4))
    assert "MODEL_SHA256 has 4 of them" in reason
