"""knn: a scikit-learn classifier out of a bucket."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import skops.io
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import KNeighborsClassifier

from functions.knn import iris
from storage.fetched import sha256
from tests import bucket
from tests.functions.conftest import Start, framework
from tests.http import JSON_TYPE, Endpoint
from tests.pictures import ROOT

ASKS_JSON = JSON_TYPE | {"Accept": "application/json"}


@pytest.fixture(scope="module")
def knn(
    emulator: str, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    uri = bucket.filled(emulator, "irises", "models/knn", trained)
    with framework(
        ROOT / "functions" / "knn" / "main.py",
        "knn",
        tmp_path_factory.mktemp("knn"),
        STORAGE_URI=uri,
        STORAGE_EMULATOR_HOST=emulator,
    ) as endpoint:
        yield endpoint


def of(value: Any) -> bytes:
    return json.dumps({"input_data": value}).encode()


def test_training_prints_how_many_of_the_held_out_it_names(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "functions.knn.train", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert "9/10" in done.stdout
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
def test_it_names_the_class_in_words_and_in_json(knn: Endpoint, value: Any, species: int) -> None:
    assert knn.post(of(value)).body == f"Belongs to class: [{species}]"
    answer = knn.post(of(value), ASKS_JSON)
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == f'{{"prediction":[{species}]}}'


def test_a_browser_asks_in_the_query(knn: Endpoint) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    answer = knn.send("GET", "/?input_data=6.3,3.3,4.7,1.6", headers=browser)
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
def test_json_is_for_those_who_ask_for_it(knn: Endpoint, accept: str, is_json: bool) -> None:
    answer = knn.post(of("5,3,1,0"), JSON_TYPE | {"Accept": accept})
    assert (answer.body == '{"prediction":[0]}') is is_json


@pytest.mark.parametrize("body", [b"", b"{}", b'{"other": 1}', b" \n"])
def test_without_input_it_says_so(knn: Endpoint, body: bytes) -> None:
    answer = knn.post(body)
    assert (answer.code, answer.body) == (200, "No input data received")


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
def test_what_is_no_flower_is_a_400_with_the_reason(knn: Endpoint, value: Any, says: str) -> None:
    answer = knn.post(of(value))
    assert answer.code == 400
    assert answer.body.startswith("input_data: ")
    assert says in answer.body
    told = knn.post(of(value), ASKS_JSON)
    assert told.code == 400
    assert json.loads(told.body) == {"error": {"code": 400, "message": answer.body}}


@pytest.mark.parametrize(
    ("body", "says"), [(b"{", "not JSON"), (b'"5,3,1,0"', "expected an object")]
)
def test_what_is_no_request_is_a_400(knn: Endpoint, body: bytes, says: str) -> None:
    answer = knn.post(body)
    assert answer.code == 400
    assert says in answer.body


def test_a_digit_string_of_a_million_is_refused_without_being_computed(knn: Endpoint) -> None:
    answer = knn.post(b'{"input_data": [1, 2, 3, ' + b"9" * 900_000 + b"]}")
    assert answer.code == 400


def says_of(start: Start, emulator: str, uri: str, **environ: str) -> str:
    """Return the reason that a function gives which has no model."""
    asked = start("knn", STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator, **environ)
    answer = asked.post(of("5,3,1,0"))
    assert answer.code == 503
    assert answer.body.startswith("there is no model: ")
    assert "Traceback" not in answer.body
    assert asked.post(of("5,3,1")).code == 400  # it lives
    return answer.body


class Stranger(KNeighborsClassifier):  # type: ignore[misc]  # sklearn is untyped
    """A type that skops knows nothing of."""


def forged(folder: Path, what: str) -> Path:
    """Write a file that is not the function's model."""
    file = folder / iris.FILE
    model = KNeighborsClassifier().fit([[0] * 4] * 5, [0] * 5)
    documents: dict[str, object] = {
        "another version": {"version": 2, "scikit-learn": "1.9.1", "model": model},
        "another scikit-learn": {"version": 1, "scikit-learn": "0.24.2", "model": model},
        "another model": model,
        "another classifier": {
            "version": 1,
            "scikit-learn": "1.9.1",
            "model": DummyClassifier().fit([[0] * 4], [0]),
        },
        "another flower": {
            "version": 1,
            "scikit-learn": "1.9.1",
            "model": KNeighborsClassifier().fit([[0] * 3] * 5, [0] * 5),
        },
        "a stranger": {
            "version": 1,
            "scikit-learn": "1.9.1",
            "model": Stranger().fit([[0] * 4] * 5, [0] * 5),
        },
    }
    if what == "a pickle":
        file.write_bytes(b"\x80\x04cposix\nsystem\n(S'touch /tmp/owned'\ntR.")
    else:
        skops.io.dump(documents[what], file)
    return file


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("another version", "is of version 2, this function is for version 1"),
        ("another scikit-learn", "was trained with scikit-learn 0.24.2, this function has"),
        ("another model", "is of version None"),
        ("another classifier", "holds no KNeighborsClassifier of 4 features"),
        ("another flower", "holds no KNeighborsClassifier of 4 features"),
        ("a stranger", "Untrusted types"),
        ("a pickle", "cannot be read"),
    ],
)
def test_a_file_that_is_not_its_model_is_refused(
    start: Start, emulator: str, tmp_path: Path, what: str, says: str
) -> None:
    name = f"forged-{what.replace(' ', '-')}"
    uri = bucket.filled(emulator, name, "knn", forged(tmp_path, what))
    assert says in says_of(start, emulator, uri)


def test_a_missing_bucket_is_named(start: Start, emulator: str) -> None:
    reason = says_of(start, emulator, "gs://no-such-bucket/knn")
    assert "gs://no-such-bucket/knn: " in reason
    assert "does the bucket exist?" in reason


def test_a_missing_object_is_named(start: Start, emulator: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("x")
    uri = bucket.filled(emulator, "without-a-model", "knn", tmp_path / "other.txt")
    assert f"{uri}/knn.skops: no such object" in says_of(start, emulator, uri)


def test_an_empty_folder_is_named(start: Start, emulator: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("x")
    bucket.filled(emulator, "elsewhere", "there", tmp_path / "other.txt")
    assert "there is nothing in it" in says_of(start, emulator, "gs://elsewhere/here")


def test_where_it_was_never_told_of_a_bucket_it_says_what_to_set(start: Start) -> None:
    answer = start("knn").post(of("5,3,1,0"))
    assert answer.code == 503
    assert "STORAGE_URI is not set" in answer.body


def test_only_the_file_that_was_deployed_is_loaded(
    start: Start, emulator: str, trained: Path
) -> None:
    uri = bucket.filled(emulator, "pinned", "knn", trained)
    right = sha256(trained)
    reason = says_of(start, emulator, uri, MODEL_SHA256="0" * 64)
    assert f"its SHA-256 is {right}, MODEL_SHA256 says {'0' * 64}" in reason
    good = start("knn", STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator, MODEL_SHA256=right.upper())
    assert good.post(of("5,3,1,0")).code == 200


def test_what_arrives_damaged_is_refused(start: Start, tmp_path: Path, trained: Path) -> None:
    with bucket.emulated(folder=tmp_path / "disk") as emulator:
        uri = bucket.filled(emulator, "damaged", "knn", trained)
        file = tmp_path / "disk" / "damaged" / "knn" / iris.FILE
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        reason = says_of(start, emulator, uri)
    assert f"{uri}/knn.skops: " in reason
    assert "CRC32C" in reason or "checksum" in reason.lower()


def test_a_bucket_that_comes_back_is_asked_again(
    start: Start, emulator: str, trained: Path
) -> None:
    asked = start("knn", STORAGE_URI="gs://made-later/knn", STORAGE_EMULATOR_HOST=emulator)
    assert asked.post(of("5,3,1,0")).code == 503
    bucket.filled(emulator, "made-later", "knn", trained)
    assert asked.post(of("5,3,1,0")).code == 200


def test_it_is_fetched_once(start: Start, tmp_path: Path, trained: Path) -> None:
    with bucket.emulated() as emulator:
        uri = bucket.filled(emulator, "once", "knn", trained)
        asked = start("knn", STORAGE_URI=uri, STORAGE_EMULATOR_HOST=emulator)
        assert asked.post(of("5,3,1,0")).code == 200
    # The bucket is gone, the model stays.
    assert asked.post(of("6.3,3.3,4.7,1.6")).body == "Belongs to class: [1]"
    log = next(tmp_path.glob("knn-*.log")).read_text()
    assert log.count("fetched ") == 1
