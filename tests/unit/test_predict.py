"""make predict, for models whose instances are texts, objects and pictures, against a server that records."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from PIL import Image

from project.model_folder import Model
from serving import predict
from serving.predict import PredictError
from tests.http import serve_app, serve_cut_stream
from tests.images import encode_image

RECEIVED: list[Any] = []
ERROR = {"error": {"code": 500, "status": "INTERNAL", "message": "instances[0]: stream failed"}}


@pytest.fixture
def url() -> Iterator[str]:
    """Serve predictions: as many as there are instances, unless the request asks for another answer."""
    app = flask.Flask(__name__)
    RECEIVED.clear()

    @app.post("/predictions/m")
    def answer() -> flask.Response:
        if not flask.request.is_json:
            RECEIVED.append((flask.request.content_type, flask.request.get_data()))
            return flask.jsonify({"predictions": ["raw"]})
        RECEIVED.append(flask.request.get_json())
        if RECEIVED[-1].get("parameters", {}).get("stream"):
            events = ({"instance": 0, "part": each} for each in RECEIVED[-1]["instances"])
            lines = (json.dumps(each if each["part"] != 13 else ERROR) + "\n" for each in events)
            return flask.Response(lines, content_type="application/x-ndjson")
        if fault := RECEIVED[-1].get("parameters", {}).get("fault"):
            return flask.Response(fault, 200)
        return flask.jsonify({"predictions": [{"n": 1}] * len(RECEIVED[-1]["instances"])})

    with serve_app(app) as address:
        yield f"http://{address}/predictions/m"


def make_model(folder: Path, *rows: dict[str, Any]) -> Model:
    model = Model(path=folder, name="m", output=folder / "build")
    model.build.mkdir(parents=True)
    model.requests.write_text(json.dumps(rows))
    return model


@pytest.mark.parametrize(
    "row",
    [
        {"instance": "a text", "expected": 1},
        {"instance": {"age": 3, "name": "x"}, "parameters": {"k": 2}, "tolerance": 0.1},
        {"instance": [1.5, None]},
    ],
    ids=["a text", "a row of a table with parameters", "numbers"],
)
def test_request_of_any_model_is_sent_with_its_parameters_and_printed(
    tmp_path: Path, url: str, row: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(tmp_path, row)
    predict.main(["--url", url], model)
    expected = {"instances": [row["instance"]]}
    if "parameters" in row:
        expected["parameters"] = row["parameters"]
    assert [expected] == RECEIVED
    printed = capsys.readouterr().out
    assert printed.startswith(f'{json.dumps(row["instance"])}\n{{\n  "n": 1\n}}\n')
    assert printed.endswith(" ms\n")


def test_file_with_a_request_is_sent_as_it_is(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"instances": ["a", "b"], "parameters": {"k": 1}}
    (tmp_path / "request.json").write_text(json.dumps(body))
    predict.main(["--url", url, "--request", str(tmp_path / "request.json")], make_model(tmp_path))
    assert [body] == RECEIVED
    assert capsys.readouterr().out.count('"n": 1') == 2


def test_picture_replaces_the_one_in_the_request_wherever_it_is(tmp_path: Path, url: str) -> None:
    model = make_model(tmp_path, {"instance": {"image": {"b64": "AAAA"}, "id": 3}})
    picture = encode_image(Image.new("RGB", (40, 30), "red"), "JPEG")
    (tmp_path / "my picture.jpg").write_bytes(picture)
    predict.main(["--url", url, "--picture", str(tmp_path / "my picture.jpg")], model)
    sent = {"image": {"b64": base64.b64encode(picture).decode()}, "id": 3}
    assert [{"instances": [sent]}] == RECEIVED


def test_picture_that_the_request_has_already_is_sent(tmp_path: Path, url: str) -> None:
    picture = encode_image(Image.new("RGB", (40, 30), "red"), "JPEG")
    instance = {"b64": base64.b64encode(picture).decode()}
    (tmp_path / "same.jpg").write_bytes(picture)
    model = make_model(tmp_path, {"instance": instance})
    predict.main(["--url", url, "--picture", str(tmp_path / "same.jpg")], model)
    assert [{"instances": [instance]}] == RECEIVED


def test_truncated_picture_is_printed_as_text(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = encode_image(Image.new("L", (400, 300), 9))[:-40]
    model = make_model(tmp_path, {"instance": {"b64": base64.b64encode(cut).decode()}})
    predict.main(["--url", url], model)
    assert capsys.readouterr().out.startswith('{"b64": "')


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("--request", "[1]", 'expected {"instances": [...]} as JSON'),
        ("--request", '{"instances": 3}', 'expected {"instances": [...]} as JSON'),
        ("--request", None, "file: No such file or directory"),
        ("--picture", None, "file: No such file or directory"),
        ("--picture", "x", "m takes no picture: set REQUEST=file with a request"),
    ],
)
def test_wrong_file_is_one_sentence(
    tmp_path: Path, name: str, content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "file").write_text(content)
    model = make_model(tmp_path, {"instance": "a text"})
    with pytest.raises(SystemExit, match="predict: ") as ended:
        predict.main(["--url", "http://127.0.0.1:1/", name, str(tmp_path / "file")], model)
    assert reason in str(ended.value)


def test_model_that_was_not_packed_says_what_to_run(tmp_path: Path) -> None:
    model = Model(path=tmp_path, name="m", output=tmp_path / "build")
    with pytest.raises(PredictError, match=r"requests\.json does not exist; run: make archive"):
        predict.choose_request(model)


@pytest.mark.parametrize("fault", ["<html>", '{"predictions": []}', "[1]"])
def test_answer_without_predictions_is_reported(url: str, fault: str) -> None:
    with pytest.raises(PredictError, match="expected 1 predictions, got "):
        predict.predict(url, {"instances": [1], "parameters": {"fault": fault}})


def test_picture_is_sent_raw_with_its_type(tmp_path: Path, url: str) -> None:
    model = make_model(tmp_path, {"instance": {"b64": "AAAA"}})
    (tmp_path / "a.jpg").write_bytes(b"a picture")
    predict.main(["--url", url, "--picture", str(tmp_path / "a.jpg"), "--raw"], model)
    assert RECEIVED == [("image/jpeg", b"a picture")]


def test_raw_without_a_picture_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        predict.main(["--raw"], make_model(tmp_path))
    assert "--raw needs --picture" in capsys.readouterr().err


def test_parts_of_a_stream_are_printed(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "request.json").write_text('{"instances": ["The", " end", {"n": 1}]}')
    arguments = ["--url", url, "--request", str(tmp_path / "request.json"), "--stream"]
    predict.main(arguments, make_model(tmp_path))
    assert RECEIVED[0]["parameters"] == {"stream": True}
    printed = capsys.readouterr().out
    assert printed.startswith('The end{"n": 1}\n')
    assert printed.endswith(" ms to the first part\n")


def test_explanation_is_requested_with_the_parameters_of_the_request(
    tmp_path: Path, url: str
) -> None:
    model = make_model(tmp_path, {"instance": {"n": 1}, "parameters": {"k": 1}})
    predict.main(["--url", url, "--explain"], model)
    assert RECEIVED[0]["parameters"] == {"k": 1, "explain": True}


def test_error_at_the_end_of_a_stream_is_reported(url: str) -> None:
    with pytest.raises(PredictError, match=r": instances\[0\]: stream failed"):
        predict.print_stream(url, {"instances": ["a", 13]})


def test_stream_that_is_cut_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        serve_cut_stream(b'{"instance": 0, "part": "a"}\n') as address,
        pytest.raises(PredictError, match="the stream was interrupted"),
    ):
        predict.print_stream(f"http://{address}/p", {"instances": [1]})
    assert capsys.readouterr().out == "a"
