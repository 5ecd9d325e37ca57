"""Requests and the expected responses, as one table for the handler, TorchServe, the image and the function.

A valid request gets 200 and one prediction per instance. An invalid request gets a 4xx in Google's
error format; its message names the location of the error and what was expected.
"""

import json
from typing import Any, NamedTuple

from PIL import Image

from tests import images
from tests.http import JSON_TYPE

LABEL = "7"
BASE64 = images.image_base64(Image.new("L", (28, 28), 190))
INSTANCE = {"b64": BASE64}
SEVEN = images.image_base64(images.draw_seven())
"""Black on white: the toy's label is 9."""
ROWS = [[64] * 28] * 28
"""A dark image as numbers: the toy's label is 2."""
LINES, EVENTS = "application/x-ndjson", "text/event-stream"
PNG = images.encode_image(Image.new("L", (28, 28), 190))


class Case(NamedTuple):
    """A request and the expected response."""

    name: str
    body: bytes
    code: int
    expected: str
    """A part of the error message; with a 200 the predicted labels, such as "3,7"."""
    headers: dict[str, str] = JSON_TYPE
    stream_type: str = ""
    """The content type of the response, if it is a stream."""

    @property
    def response_type(self) -> str:
        """The content type of the response."""
        return self.stream_type or "application/json"


def accepted(name: str, labels: str, *instances: Any, **parameters: Any) -> Case:
    """Return a valid request."""
    return Case(name, images.request_body(*instances, **parameters), 200, labels)


def raw(name: str, code: int, expected: str, content_type: str, body: bytes) -> Case:
    """Return a request whose body is not JSON."""
    return Case(name, body, code, expected, {"Content-Type": content_type})


def streamed(name: str, labels: str, stream_type: str, body: bytes, **headers: str) -> Case:
    """Return a valid request for a stream."""
    return Case(name, body, 200, labels, JSON_TYPE | headers, stream_type)


def rejected(name: str, message: str, *instances: Any, **parameters: Any) -> Case:
    """Return a request with invalid instances or parameters."""
    return Case(name, images.request_body(*instances, **parameters), 400, message)


CASES = [
    accepted("an object with b64", LABEL, INSTANCE),
    accepted("the published tutorial's data and b64", LABEL, {"data": INSTANCE}),
    accepted("a base64 string as data", LABEL, {"data": BASE64}),
    accepted("an image object", LABEL, {"image": INSTANCE}),
    accepted("an image string", LABEL, {"image": BASE64}),
    accepted("an object with b64 and more", LABEL, INSTANCE | {"id": 7}),
    accepted("a bare base64 string", LABEL, BASE64),
    accepted("URL-safe base64", LABEL, BASE64.replace("+", "-").replace("/", "_")),
    accepted("base64 without padding", LABEL, BASE64.rstrip("=")),
    accepted("28 rows of 28 integers", "2", ROWS),
    accepted("28 rows of 28 fractions", "2", [[v + 0.5 for v in row] for row in ROWS]),
    accepted("the channel dimension first", "2", [ROWS]),
    accepted("rows as data", "2", {"data": ROWS}),
    accepted("a larger image", "9", SEVEN),
    accepted("instances of mixed formats", f"2,{LABEL},9", ROWS, INSTANCE, SEVEN),
    accepted("JPEG", "9", images.image_base64(images.draw_seven(), "JPEG")),
    accepted("WebP", "9", images.image_base64(images.draw_seven(), "WEBP")),
    accepted("top_k as the SDK sends it", LABEL, INSTANCE, top_k=2.0),
    Case(
        "parameters null", images.request_body(BASE64)[:-1] + b', "parameters": null}', 200, LABEL
    ),
    Case("not JSON", b"<xml/>", 400, "the body is not JSON"),
    Case("an empty body", b"", 400, "the body is not JSON"),
    Case("not UTF-8", b"\xff\xfe\xfd", 400, "the body is not JSON"),
    Case("a million arrays", b'{"instances": [' + b"[]," * 10**6 + b"[]]}", 400, "arrays and"),
    Case("nested ten thousand deep", b"[" * 10_000, 400, "nested too deeply"),
    Case("NaN", b'{"instances":[NaN]}', 400, "NaN is not a JSON number"),
    Case("Infinity", b'{"instances":[-Infinity]}', 400, "-Infinity is not a JSON number"),
    Case("an array instead of an object", b"[1]", 400, "expected an object"),
    Case("no instances", b'{"parameters":{}}', 400, "instances: missing"),
    Case(
        "instances not an array", b'{"instances":{"b64":""}}', 400, "instances: expected an array"
    ),
    Case("empty instances", b'{"instances":[]}', 400, "instances: expected at least one"),
    rejected("100,000 instances", "instances: expected at most 4096; got 100000", *[0] * 100_000),
    Case(
        "parameters not an object", b'{"instances":[1],"parameters":3}', 400, "parameters: expected"
    ),
    rejected("invalid base64", "instances[0]: not base64", {"b64": "!!"}),
    rejected("empty base64", "instances[0]: the base64 text is empty", {"b64": ""}),
    rejected(
        "base64 of another format",
        "instances[0]: not a PNG, JPEG or WebP image",
        "aGVsbG8gd29ybGQ=",
    ),
    rejected("an object with unknown keys", "instances[0]: expected an image as", {"x": 1}),
    rejected("null", "instances[0]: expected an image as", None),
    rejected("27 rows", "instances[0]: expected 28 rows of 28 numbers; got 27 rows", ROWS[1:]),
    rejected("a short row", "instances[0]: row 27: expected 28 numbers; got 1", [*ROWS[1:], [1]]),
    rejected(
        "strings as pixels",
        "row 0: expected numbers",
        [["x"] * 28, *ROWS[1:]],
    ),
    rejected(
        "the second of three instances invalid",
        "instances[1]: not base64",
        INSTANCE,
        {"b64": "*"},
        INSTANCE,
    ),
    rejected("every invalid instance is named", "instances[2]: ", {"b64": "*"}, INSTANCE, None),
    rejected(
        "a fractional top_k", "parameters.top_k: expected a whole number", INSTANCE, top_k=3.5
    ),
    rejected("top_k 0", "parameters.top_k: expected a whole number", INSTANCE, top_k=0),
    rejected("top_k true", "parameters.top_k: expected a whole number", INSTANCE, top_k=True),
    rejected("an unknown parameter", "parameters.topk: unknown parameter", INSTANCE, topk=3),
    rejected(
        "an unknown on_error", 'parameters.on_error: expected "return"', INSTANCE, on_error="x"
    ),
    raw("a raw PNG", 200, LABEL, "image/png", PNG),
    raw(
        "a raw JPEG",
        200,
        "9",
        "Image/JPEG; q=1",
        images.encode_image(images.draw_seven(), "JPEG"),
    ),
    raw("a raw body that is no image", 400, "instances[0]: not a PNG", "image/png", b"{}"),
    raw("an empty raw body", 400, "instances[0]: not a PNG", "image/png", b""),
    raw(
        "JSON of another type",
        415,
        "expected application/json, image/png, image/jpeg; got text/plain",
        "text/plain",
        images.request_body(INSTANCE),
    ),
    raw(
        "JSON as a form, as curl sends it",
        415,
        "got application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded",
        images.request_body(INSTANCE),
    ),
    streamed(
        "a stream as JSON lines",
        f"2,{LABEL}",
        LINES,
        images.request_body(ROWS, INSTANCE, stream=True),
    ),
    streamed(
        "a stream as server-sent events",
        f"2,{LABEL}",
        EVENTS,
        images.request_body(ROWS, INSTANCE),
        Accept=EVENTS,
    ),
    rejected(
        "a stream with an invalid instance", "instances[1]: expected", ROWS, None, stream=True
    ),
    accepted("explanations", f"2,{LABEL}", ROWS, INSTANCE, explain=True),
    rejected("an invalid instance to explain", "instances[1]: expected", ROWS, None, explain=True),
    rejected("explain 1", "parameters.explain: expected true or false", INSTANCE, explain=1),
    rejected("a streamed explanation", "not streamed", INSTANCE, explain=True, stream=True),
    rejected("stream 1", "parameters.stream: expected true or false", INSTANCE, stream=1),
]


def check_response(case: Case, code: int, body: str | bytes) -> None:
    """Assert that a response is the expected one of a case."""
    document = _join_stream(case, body) if case.stream_type and code == 200 else json.loads(body)
    assert code == case.code, document
    is_explained = b'"explain": true' in case.body
    if code == 200:
        assert list(document) == ["predictions"]
        predictions = document["predictions"]
        assert [p["label"] for p in predictions] == case.expected.split(",")
        for prediction in predictions:
            assert max(prediction["scores"].values()) == prediction["score"]
            assert prediction["scores"][prediction["label"]] == prediction["score"]
            assert ("gradients" in prediction) == is_explained
    else:
        error = document["error"]
        assert error["code"] == code
        assert error["status"] == "INVALID_ARGUMENT"
        assert case.expected in error["message"]
        assert "Traceback" not in error["message"]


def _join_stream(case: Case, body: str | bytes) -> dict[str, Any]:
    """Return the parts of a stream as predictions; the toy's has one for each instance."""
    text = body if isinstance(body, str) else body.decode()
    start, end = ("data: ", "\n\n") if case.stream_type == EVENTS else ("", "\n")
    assert text.endswith(end)
    chunks = text.removesuffix(end).split(end)
    assert all(chunk.startswith(start) for chunk in chunks)
    events = [json.loads(chunk.removeprefix(start)) for chunk in chunks]
    assert [event["instance"] for event in events] == list(range(len(events)))
    return {"predictions": [event["part"] for event in events]}
