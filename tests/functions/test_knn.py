"""knn: a scikit-learn classifier out of a bucket."""

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
from tests.functions.conftest import Live, Start, in_process
from tests.http import JSON_TYPE

pytestmark = pytest.mark.xdist_group("functions")
ASKS_JSON = {"Accept": "application/json"}
FLOWER = b'{"input_data": "5,3,1,0"}'


@pytest.fixture(scope="module")
def knn(trained: Path) -> Iterator[FlaskClient]:
    with in_process("knn", STORAGE_URI=str(trained.parent)) as client:
        yield client


def of(value: Any) -> bytes:
    return json.dumps({"input_data": value}).encode()


def test_training_prints_how_many_of_the_held_out_it_names(
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
def test_it_names_the_class_in_words_and_in_json(
    knn: FlaskClient, value: Any, species: int
) -> None:
    assert knn.post("/", data=of(value)).text == f"Belongs to class: [{species}]"
    answer = knn.post("/", data=of(value), headers=ASKS_JSON)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.text == f'{{"prediction":[{species}]}}'


def test_a_browser_asks_in_the_query(live: Live) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    answer = live("knn").send("GET", "/?input_data=6.3,3.3,4.7,1.6", headers=browser)
    assert (answer.code, answer.body) == (200, "Belongs to class: [1]")


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
def test_json_is_for_those_who_ask_for_it(knn: FlaskClient, accept: str, is_json: bool) -> None:
    answer = knn.post("/", data=FLOWER, headers=JSON_TYPE | {"Accept": accept})
    assert (answer.text == '{"prediction":[0]}') is is_json


@pytest.mark.parametrize("body", [b"", b"{}", b'{"other": 1}', b" \n"])
def test_without_input_it_says_so(knn: FlaskClient, body: bytes) -> None:
    answer = knn.post("/", data=body)
    assert (answer.status_code, answer.text) == (200, "No input data received")


@pytest.mark.parametrize(
    ("value", "says"),
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
def test_what_is_no_flower_is_a_400_with_the_reason(
    knn: FlaskClient, value: Any, says: str
) -> None:
    answer = knn.post("/", data=of(value))
    assert answer.status_code == 400
    assert answer.text.startswith("input_data: ")
    assert says in answer.text
    told = knn.post("/", data=of(value), headers=ASKS_JSON)
    assert told.status_code == 400
    assert told.json == {"error": {"code": 400, "message": answer.text}}


def says_of(start: Start, uri: str, emulator: str, **environ: str) -> str:
    """Return the reason that a function gives which has no model."""
    client = start("knn", STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator, **environ)
    answer = client.post("/", data=FLOWER)
    assert answer.status_code == 503
    assert answer.text.startswith("the model cannot be loaded: ")
    assert "Traceback" not in answer.text
    assert client.post("/", data=of("5,3,1")).status_code == 400  # it lives
    return answer.text


class Stranger(KNeighborsClassifier):  # type: ignore[misc]  # sklearn is untyped
    """A type that skops knows nothing of."""


def document(model: object, version: int = 1, made_with: str = "1.9.1") -> dict[str, object]:
    """Return what a file of the function's holds."""
    return {"version": version, "scikit-learn": made_with, "model": model}


GOOD = KNeighborsClassifier().fit([[0] * 4] * 5, [0] * 5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (document(GOOD, version=2), "has version 2, expected 1"),
        (document(GOOD, made_with="0.24.2"), "was trained with scikit-learn 0.24.2, expected"),
        (GOOD, "has version None"),
        (document(DummyClassifier().fit([[0] * 4], [0])), "has no KNeighborsClassifier of 4"),
        (
            document(KNeighborsClassifier().fit([[0] * 3] * 5, [0] * 5)),
            "has no KNeighborsClassifier of 4 features",
        ),
        (document(Stranger().fit([[0] * 4] * 5, [0] * 5)), "Untrusted types"),
        (b"\x80\x04cposix\nsystem\n(S'touch /tmp/owned'\ntR.", "cannot be read"),
    ],
    ids=["version", "scikit-learn", "bare", "classifier", "3 features", "a stranger", "a pickle"],
)
def test_a_file_that_is_not_its_model_is_refused(
    start: Start, tmp_path: Path, content: object, says: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / iris.FILE).write_bytes(content)
    else:
        skops.io.dump(content, tmp_path / iris.FILE)
    assert says in says_of(start, str(tmp_path), "")


def test_what_is_missing_in_the_bucket_is_named(
    start: Start, emulator: str, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("x")
    uri = bucket.create_bucket(emulator, "without-a-model", "knn", tmp_path / "other.txt")
    assert "STORAGE_URI is not set" in says_of(start, "", emulator)
    assert f"{uri}/knn.skops: not found among" in says_of(start, uri, emulator)
    empty = "gs://without-a-model/here"
    assert "no objects found" in says_of(start, empty, emulator)
    reason = says_of(start, "gs://no-such-bucket/knn", emulator)
    assert "gs://no-such-bucket/knn: " in reason
    assert "does the bucket exist?" in reason


def test_what_arrives_damaged_is_refused(start: Start, tmp_path: Path, trained: Path) -> None:
    with bucket.storage_emulator(folder=tmp_path / "disk") as emulator:
        uri = bucket.create_bucket(emulator, "damaged", "knn", trained)
        file = tmp_path / "disk" / "damaged" / "knn" / iris.FILE
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        reason = says_of(start, uri, emulator)
    assert f"{uri}/knn.skops: " in reason
    assert "CRC32C" in reason or "checksum" in reason.lower()


def test_it_is_fetched_when_the_bucket_has_come_back_and_then_kept(
    start: Start, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bucket.storage_emulator() as emulator:
        knn = start("knn", STORAGE_URI="gs://made-later/knn", STORAGE_EMULATOR_HOST=emulator)
        assert knn.post("/", data=FLOWER).status_code == 503
        bucket.create_bucket(emulator, "made-later", "knn", trained)
        assert knn.post("/", data=FLOWER).status_code == 200
    # The bucket is gone, the model stays.
    assert knn.post("/", data=of("6.3,3.3,4.7,1.6")).text == "Belongs to class: [1]"
    assert capsys.readouterr().out.count("fetched ") == 1
