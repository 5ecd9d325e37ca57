"""The function of a model: the endpoint's responses without the container."""

import concurrent.futures
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import functions_framework
import pytest
from flask.testing import FlaskClient

from functions.model_archive import create_function
from functions.packaging import assemble
from functions.upload import find_model_files
from project.model_folder import Model
from serving import archive
from storage.lazy import sha256
from tests import bucket, cases
from tests.functions.conftest import TOY, StartFunction, StartLive, load_function, run_make
from tests.http import JSON_TYPE
from tests.images import ROOT, labelled_images, request_body
from tests.images import TOY as TOY_FOLDER
from tests.wheels import write_wheel

pytestmark = pytest.mark.xdist_group("functions")
FILES = find_model_files(TOY)
STATEFUL = """
import time

import torch

def load(folder, device):
    return Stateful()

class Stateful:
    def preprocess(self, instance):
        return torch.tensor(float(instance))

    def inference(self, batch):
        self.state = batch
        time.sleep(0.05)
        return self.state

    def postprocess(self, output):
        return output
"""


@pytest.fixture(scope="module")
def model(emulator: str) -> Iterator[FlaskClient]:
    uri = bucket.create_bucket(emulator, "pictures", "models/toy", *FILES.values())
    with load_function("toy", STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator) as client:
        yield client


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_request_gets_the_response_of_the_table(model: FlaskClient, case: cases.Case) -> None:
    response = model.post("/", data=case.body, headers=case.headers)
    cases.check_response(case, response.status_code, response.text)
    assert response.headers["Content-Type"] == case.response_type


def test_on_error_return_replaces_the_prediction_of_a_bad_instance(model: FlaskClient) -> None:
    body = request_body(cases.INSTANCE, {"b64": "*"}, cases.INSTANCE, on_error="return")
    predictions = json.loads(model.post("/", data=body).text)["predictions"]
    assert [each.get("label") for each in predictions] == [cases.LABEL, None, cases.LABEL]
    assert predictions[1]["error"]["status"] == "INVALID_ARGUMENT"


def test_requests_at_once_do_not_change_the_state_of_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stateful"
    folder.mkdir()
    (folder / "model.py").write_text(STATEFUL)
    (folder / "requests.json").write_text('[{"instance": 1, "expected": 1.0}, {"instance": 2}]')
    model = Model(path=folder, name="stateful", output=tmp_path / "build")
    archive.build(model)
    function = create_function(model)
    find_model_files(function)
    monkeypatch.setenv("STORAGE_URI", str(function.files_folder))
    source = assemble(function, tmp_path / "functions") / "main.py"
    app = functions_framework.create_app(function.entry_point, str(source))  # type: ignore[no-untyped-call]

    def predict(instance: int) -> list[float]:
        response = app.test_client().post("/", json={"instances": [instance]})
        predictions: list[float] = json.loads(response.text)["predictions"]
        return predictions

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(predict, range(8))) == [[float(each)] for each in range(8)]


@pytest.mark.parametrize(
    ("method", "content_type", "code", "message"),
    [
        ("GET", "", 405, "predictions: POST"),
        ("PUT", "application/json", 405, "predictions: POST"),
        (
            "POST",
            "text/plain",
            415,
            "expected application/json, image/png, image/jpeg; got text/plain",
        ),
        ("POST", "application/x-www-form-urlencoded", 415, "got application/x-www-form-urlencoded"),
    ],
)
def test_other_method_or_type_gets_the_error_of_the_container(
    model: FlaskClient, method: str, content_type: str, code: int, message: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = model.open("/", method=method, data=cases.CASES[0].body, headers=headers)
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
        response = live("toy").send("POST", path, case.body, JSON_TYPE)
        cases.check_response(case, response.code, response.body)


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
def test_body_over_the_limit_of_the_container_gets_413(live: StartLive, chunked: bool) -> None:
    body = b" " * (11 << 20)
    response = live("toy").send("POST", "/", iter([body]) if chunked else body, JSON_TYPE)
    assert response.code == 413
    assert "limit of 10485760 bytes" in json.loads(response.body)["error"]["message"]


def test_concurrent_clients_get_their_own_responses(live: StartLive) -> None:
    bodies = [request_body(image) for image, _ in labelled_images(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(live("toy").post, bodies, timeout=120))
    assert [each.body for each in responses] == [live("toy").post(body).body for body in bodies]


def replace_bytes(name: str, pattern: bytes, new: bytes) -> Callable[[Path], object]:
    """Return a function that replaces bytes in a file of the model."""
    return lambda folder: (folder / name).write_bytes(
        re.sub(pattern, new, (folder / name).read_bytes(), count=1, flags=re.DOTALL)
    )


@pytest.mark.parametrize(
    ("damage", "pins", "message"),
    [
        (
            replace_bytes("requests.json", rb'"label": "\d"', b'"label": "x"'),
            [],
            "label: expected x, got 3",
        ),
        (replace_bytes("weights.safetensors", rb".{10}\Z", b""), [], "SafetensorError: "),
        (
            lambda folder: (folder / "weights.safetensors").unlink(),
            [],
            "/weights.safetensors: not found among",
        ),
        (replace_bytes("labels.json", rb"\[", b"[ "), None, "/labels.json: its SHA-256 is"),
        (bool, ["", "", "", "0" * 64], "/weights.safetensors: its SHA-256 is"),
        (bool, ["0" * 64] * 5, "MODEL_SHA256 has 5 checksums"),
    ],
    ids=["requests", "truncated", "missing", "changed", "other weights", "too many pins"],
)
def test_unusable_model_gets_503_with_the_reason(
    start: StartFunction,
    tmp_path: Path,
    damage: Callable[[Path], object],
    pins: list[str] | None,
    message: str,
) -> None:
    for file in FILES.values():
        shutil.copy(file, tmp_path)
    damage(tmp_path)
    if pins is None:
        pins = [sha256(file).upper() for file in FILES.values()]
    client = start("toy", STORAGE_URI=str(tmp_path), MODEL_SHA256=",".join(pins))
    response = client.post("/", data=cases.CASES[0].body)
    error = json.loads(response.text)["error"]
    assert (response.status_code, error["code"], error["status"]) == (503, 503, "UNAVAILABLE")
    assert error["message"].startswith("the model cannot be loaded: ")
    assert message in error["message"]


def test_functions_of_two_models_run_at_once_with_their_own_code_files_and_packages(
    live: StartLive, tmp_path: Path
) -> None:
    """One of them has a name with hyphens, a package, a file in a folder, and a late import."""
    folder = tmp_path / "shades-of-grey"
    shutil.copytree(TOY_FOLDER, folder)
    (folder / "words").mkdir()
    (folder / "labels.json").rename(folder / "words" / "labels.json")
    code = (folder / "model.py").read_text().replace('"labels.json"', '"words/labels.json"')
    lines = code.partition("        scores, classes")
    assert lines[1]
    late = '        if parameters == {"top_k": 5}:\n            import shades\n            return shades.VERSION\n'
    (folder / "model.py").write_text(lines[0] + late + lines[1] + lines[2])
    (folder / "shades.py").write_text("from names import VERSION\n")
    (folder / "requirements.txt").write_text("./wheels/names-1.0-py3-none-any.whl\n")
    (folder / "wheels").mkdir()
    write_wheel(folder / "wheels", "names", "1.0")
    body = request_body(cases.INSTANCE, top_k=5)
    try:
        with run_make("function", MODEL=str(folder)) as other:
            assert json.loads(other.post(body).body) == {"predictions": ["1.0"]}
            (prediction,) = json.loads(live("toy").post(body).body)["predictions"]
            assert prediction["label"] == cases.LABEL
    finally:
        for path in ("build/shades-of-grey", "build/functions/shades-of-grey"):
            shutil.rmtree(ROOT / path, ignore_errors=True)
