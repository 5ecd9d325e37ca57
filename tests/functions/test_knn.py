"""knn: a scikit-learn classifier that is fetched from a bucket."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import skops.io
from flask.testing import FlaskClient
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import KNeighborsClassifier

from functions.knn import iris, train
from tests import bucket
from tests.functions.conftest import StartFunction, StartLive, load_function
from tests.http import JSON_TYPE

pytestmark = pytest.mark.xdist_group("functions")
ACCEPT_JSON = {"Accept": "application/json"}
FLOWER = b'{"input_data": "5,3,1,0"}'


@pytest.fixture(scope="module")
def knn(trained: Path) -> Iterator[FlaskClient]:
    with load_function("knn", STORAGE_URI=str(trained.parent)) as client:
        yield client


def body(value: Any) -> bytes:
    return json.dumps({"input_data": value}).encode()


def test_training_prints_the_accuracy_on_held_out_flowers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--out", str(tmp_path)])
    train.main()
    assert "9/10" in capsys.readouterr().out
    assert iris.load(tmp_path).predict([[5, 3, 1, 0]]) == [0]


@pytest.mark.parametrize(
    ("value", "species"),
    [
        ("5,3,1,0", 0),
        (" 5 , 3.0, 1e0,0 ", 0),
        ([6.3, 3.3, 4.7, 1.6], 1),
        (["6.3", "3.3", "4.7", "1.6"], 1),
        (["7.7", 2.6, 6.9, "2.3"], 2),
        ([5, 3, 1, 0], 0),
    ],
)
def test_prediction_is_returned_as_a_sentence_or_as_json(
    knn: FlaskClient, value: Any, species: int
) -> None:
    assert knn.post("/", data=body(value)).text == f"Belongs to class: [{species}]"
    response = knn.post("/", data=body(value), headers=ACCEPT_JSON)
    assert response.headers["Content-Type"] == "application/json"
    assert response.text == f'{{"prediction":[{species}]}}'


def test_browser_gets_a_sentence_for_a_query(live: StartLive) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    response = live("knn").send("GET", "/?input_data=6.3,3.3,4.7,1.6", headers=browser)
    assert (response.code, response.body) == (200, "Belongs to class: [1]")


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("*/*", False),
        ("text/plain", False),
        ("application/json;q=0.5, text/plain", False),
        ("application/json, text/plain, */*", True),
        ("application/json;q=0.9, */*;q=0.8", True),
        ("application/*", True),
    ],
)
def test_json_is_returned_only_to_clients_that_prefer_it(
    knn: FlaskClient, accept: str, is_json: bool
) -> None:
    response = knn.post("/", data=FLOWER, headers=JSON_TYPE | {"Accept": accept})
    assert (response.text == '{"prediction":[0]}') is is_json


@pytest.mark.parametrize("data", [b"", b"{}", b'{"other": 1}', b" \n"])
def test_missing_input_gets_a_message(knn: FlaskClient, data: bytes) -> None:
    response = knn.post("/", data=data)
    assert (response.status_code, response.text) == (200, "No input data received")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "got an empty string"),
        (" ", "got an empty string"),
        ([], "got an empty array"),
        ("5,3,1", "got 3"),
        ([1, 2, 3, 4, 5], "got 5"),
        ("5,3,1,", "petal width: expected a number; got ''"),
        ("5,3,one,0", "petal length: expected a number; got 'one'"),
        (["5", "3", "1", ""], "petal width: expected a number; got ''"),
        (["5", "3", "1", "1_0"], "petal width: expected a number; got '1_0'"),
        (["5", "3", "1", "nan"], "petal width: expected a number; got 'nan'"),
        (["5", "3", "1", "\u0661"], "petal width: expected a number; got "),
        ([5, 3, 1, float("nan")], "petal width: expected a finite number"),
        ([5, 3, 1, "1e999"], "petal width: expected a finite number"),
        ([5, 3, 1, 10**400], "petal width: expected a finite number"),
        ([5, 3, 1, True], "petal width: expected a number; got boolean"),
        ([5, 3, 1, None], "petal width: expected a number; got null"),
        ([[5, 3, 1, 0]], "got 1"),
        ([[5], [3], [1], [0]], "sepal length: expected a number; got array"),
        (5, "got number"),
        (True, "got boolean"),
        (None, "got null"),
        ({"0": 5}, "got object"),
    ],
)
def test_invalid_input_gets_400_with_the_reason(knn: FlaskClient, value: Any, message: str) -> None:
    response = knn.post("/", data=body(value))
    assert response.status_code == 400
    assert response.text.startswith("input_data: ")
    assert message in response.text
    as_json = knn.post("/", data=body(value), headers=ACCEPT_JSON)
    assert as_json.status_code == 400
    assert as_json.json == {"error": {"code": 400, "message": response.text}}


def get_reason(start: StartFunction, uri: str, emulator: str, **environ: str) -> str:
    """Return the text of the 503 of a function without a model."""
    client = start("knn", STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator, **environ)
    response = client.post("/", data=FLOWER)
    assert response.status_code == 503
    assert response.text.startswith("the model cannot be loaded: ")
    assert "Traceback" not in response.text
    assert client.post("/", data=body("5,3,1")).status_code == 400  # it still runs
    return response.text


class UnknownType(KNeighborsClassifier):  # type: ignore[misc]  # sklearn is untyped
    """A type that skops does not trust."""


def document(model: object, version: int = 1, made_with: str = "1.9.1") -> dict[str, object]:
    """Return the content of a model file."""
    return {"version": version, "scikit-learn": made_with, "model": model}


GOOD = KNeighborsClassifier().fit([[0] * 4] * 5, [0] * 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (document(GOOD, version=2), "has version 2, expected 1"),
        (document(GOOD, made_with="0.24.2"), "was trained with scikit-learn 0.24.2, expected"),
        (GOOD, "has version None"),
        (document(DummyClassifier().fit([[0] * 4], [0])), "has no KNeighborsClassifier of 4"),
        (
            document(KNeighborsClassifier().fit([[0] * 3] * 5, [0] * 5)),
            "has no KNeighborsClassifier of 4 features",
        ),
        (document(UnknownType().fit([[0] * 4] * 5, [0] * 5)), "Untrusted types"),
        (b"\x80\x04cposix\nsystem\n(S'touch /tmp/owned'\ntR.", "cannot be read"),
    ],
    ids=["version", "scikit-learn", "bare", "classifier", "3 features", "unknown type", "a pickle"],
)
def test_unusable_model_file_gets_503_with_the_reason(
    start: StartFunction, tmp_path: Path, content: object, message: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / iris.FILE).write_bytes(content)
    else:
        skops.io.dump(content, tmp_path / iris.FILE)
    assert message in get_reason(start, str(tmp_path), "")


def test_missing_files_and_buckets_are_reported(
    start: StartFunction, emulator: str, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("x")
    uri = bucket.create_bucket(emulator, "without-a-model", "knn", tmp_path / "other.txt")
    assert "STORAGE_URI is not set" in get_reason(start, "", emulator)
    assert f"{uri}/knn.skops: not found among" in get_reason(start, uri, emulator)
    empty = "gs://without-a-model/here"
    assert "no objects found" in get_reason(start, empty, emulator)
    reason = get_reason(start, "gs://no-such-bucket/knn", emulator)
    assert "gs://no-such-bucket/knn: " in reason
    assert "does the bucket exist?" in reason


def test_damaged_download_is_rejected(start: StartFunction, tmp_path: Path, trained: Path) -> None:
    with bucket.storage_emulator(folder=tmp_path / "disk") as emulator:
        uri = bucket.create_bucket(emulator, "damaged", "knn", trained)
        file = tmp_path / "disk" / "damaged" / "knn" / iris.FILE
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        reason = get_reason(start, uri, emulator)
    assert f"{uri}/knn.skops: " in reason
    assert "CRC32C" in reason or "checksum" in reason.lower()


def test_model_is_fetched_once_the_bucket_exists_and_then_kept(
    start: StartFunction, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bucket.storage_emulator() as emulator:
        knn = start("knn", STORAGE_URI="gs://made-later/knn", STORAGE_EMULATOR_HOST=emulator)
        assert knn.post("/", data=FLOWER).status_code == 503
        bucket.create_bucket(emulator, "made-later", "knn", trained)
        assert knn.post("/", data=FLOWER).status_code == 200
    # The bucket is gone; the loaded model is still used.
    assert knn.post("/", data=body("6.3,3.3,4.7,1.6")).text == "Belongs to class: [1]"
    assert capsys.readouterr().out.count("fetched ") == 1
