"""The wire contract as one table, for the core, the real TorchServe and the image alike.

A request that can be read: 200 and one prediction per instance. One that cannot: its own
4xx in Google's error shape, whose message says where and what was expected.
"""

import json
from typing import Any, NamedTuple

from tests import images

INSTANCE, LABEL = {"b64": ""}, ""
if (images.MODEL / "golden.json").exists():
    golden = json.loads((images.MODEL / "golden.json").read_text())
    INSTANCE, LABEL = golden["instance"], golden["expected"]["label"]
BASE64 = INSTANCE["b64"]
SEVEN = images.encoded(images.seven())
ROWS = [list(images.seven(28, paper=0, ink=255).tobytes()[28 * y : 28 * y + 28]) for y in range(28)]


class Case(NamedTuple):
    """One request and what must come back."""

    name: str
    body: bytes
    code: int
    says: str
    """A part of the error's message; for a 200 the labels that are read, as "3,7"."""


def good(name: str, labels: str, *instances: Any, **parameters: Any) -> Case:
    """Return a request that is answered."""
    return Case(name, images.request(*instances, **parameters), 200, labels)


def bad(name: str, says: str, *instances: Any, **parameters: Any) -> Case:
    """Return a request that is refused for its instances or parameters."""
    return Case(name, images.request(*instances, **parameters), 400, says)


CASES = [
    good("an object with b64", LABEL, INSTANCE),
    good("the published tutorial's data and b64", LABEL, {"data": INSTANCE}),
    good("a base64 string as data", LABEL, {"data": BASE64}),
    good("an image object", LABEL, {"image": INSTANCE}),
    good("an image string", LABEL, {"image": BASE64}),
    good("an object with b64 and more", LABEL, INSTANCE | {"id": 7}),
    good("a bare base64 string", LABEL, BASE64),
    good("URL-safe base64", LABEL, BASE64.replace("+", "-").replace("/", "_")),
    good("base64 without padding", LABEL, BASE64.rstrip("=")),
    good("28 rows of 28 integers", "7", ROWS),
    good("28 rows of 28 fractions", "7", [[v / 255 for v in row] for row in ROWS]),
    good("a channel first", "7", [ROWS]),
    good("rows as data", "7", {"data": ROWS}),
    good("black on white", "7", SEVEN),
    good("mixed kinds in one request", f"7,{LABEL},7", ROWS, INSTANCE, SEVEN),
    good("JPEG", "7", images.encoded(images.seven(), "JPEG")),
    good("WebP", "7", images.encoded(images.seven(), "WEBP")),
    good("top_k as the SDK sends it", LABEL, INSTANCE, top_k=2.0),
    Case("parameters null", images.request(BASE64)[:-1] + b', "parameters": null}', 200, LABEL),
    Case("no JSON", b"<xml/>", 400, "the body is not JSON"),
    Case("an empty body", b"", 400, "the body is not JSON"),
    Case("no UTF-8", b"\xff\xfe\xfd", 400, "the body is not JSON"),
    Case("a million arrays", b'{"instances": [' + b"[]," * 10**6 + b"[]]}", 400, "arrays and"),
    Case("nested ten thousand deep", b"[" * 10_000, 400, "nested too deeply"),
    Case("NaN", b'{"instances":[NaN]}', 400, "NaN is no JSON number"),
    Case("Infinity", b'{"instances":[-Infinity]}', 400, "-Infinity is no JSON number"),
    Case("an array", b"[1]", 400, "expected an object"),
    Case("no instances", b'{"parameters":{}}', 400, "instances: missing"),
    Case("instances no array", b'{"instances":{"b64":""}}', 400, "instances: expected an array"),
    Case("no instance", b'{"instances":[]}', 400, "instances: expected one or more"),
    bad("100,000 instances", "100000 of them; the limit is 4096", *[0] * 100_000),
    Case("parameters no object", b'{"instances":[1],"parameters":3}', 400, "parameters: expected"),
    bad("base64 that is not", "instances[0]: not base64", {"b64": "!!"}),
    bad("empty base64", "instances[0]: the base64 text is empty", {"b64": ""}),
    bad("no picture", "instances[0]: not a PNG, JPEG or WebP picture", "aGVsbG8gd29ybGQ="),
    bad("an object of another kind", "instances[0]: expected a picture as", {"x": 1}),
    bad("null", "instances[0]: expected a picture as", None),
    bad("27 rows", "instances[0]: expected 28 rows of 28 numbers; got 27 rows", ROWS[1:]),
    bad("a short row", "instances[0]: row 27: expected 28 numbers; got 1", [*ROWS[1:], [1]]),
    bad(
        "words for pixels",
        "row 0: expected numbers up to 1,000,000; got a string",
        [["x"] * 28, *ROWS[1:]],
    ),
    bad("the second of three", "instances[1]: not base64", INSTANCE, {"b64": "*"}, INSTANCE),
    bad("every bad one is named", "instances[2]: ", {"b64": "*"}, INSTANCE, None),
    bad("half a top_k", "parameters.top_k: expected a whole number", INSTANCE, top_k=3.5),
    bad("no top_k", "parameters.top_k: expected a whole number", INSTANCE, top_k=0),
    bad("top_k true", "parameters.top_k: expected a whole number", INSTANCE, top_k=True),
    bad("a parameter misspelt", "parameters.topk is not known", INSTANCE, topk=3),
    bad("an unknown on_error", 'parameters.on_error: expected "return"', INSTANCE, on_error="x"),
]


def check(case: Case, code: int, body: str | bytes) -> None:
    """Assert that an answer keeps what the case promises."""
    answer = json.loads(body)
    assert code == case.code, answer
    if code == 200:
        assert list(answer) == ["predictions"]
        predictions = answer["predictions"]
        assert [p["label"] for p in predictions] == case.says.split(",")
        for prediction in predictions:
            assert max(prediction["scores"].values()) == prediction["score"]
            assert prediction["scores"][prediction["label"]] == prediction["score"]
    else:
        error = answer["error"]
        assert error["code"] == code
        assert error["status"] == "INVALID_ARGUMENT"
        assert case.says in error["message"]
        assert "Traceback" not in error["message"]
