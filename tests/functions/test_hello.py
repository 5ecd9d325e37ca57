"""hello: returns the message of the request."""

import http.client
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from flask.testing import FlaskClient

from tests.functions.conftest import StartLive, load_function
from tests.http import JSON_TYPE

pytestmark = pytest.mark.xdist_group("functions")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def hello() -> Iterator[FlaskClient]:
    with load_function("hello") as client:
        yield client


@pytest.mark.parametrize(
    ("request_line", "body", "text"),
    [
        ("GET /", b"", "Hello World!"),
        ("POST /", b"", "Hello World!"),
        ("POST /", b"{}", "Hello World!"),
        ("GET /?message=hi%20there", b"", "hi there"),
        ("POST /?message=query", b'{"message": "body"}', "query"),
        ("POST /any/path", b'{"message":"Good day to you sir!"}', "Good day to you sir!"),
        ("POST /", '{"message": "Grüß Gott, 世界"}'.encode(), "Grüß Gott, 世界"),
        ("GET /?message=%3Cscript%3E", b"", "<script>"),
    ],
)
@pytest.mark.parametrize("headers", [{}, JSON_TYPE, FORM], ids=["no type", "JSON", "as curl -d"])
def test_message_is_returned(
    hello: FlaskClient, request_line: str, body: bytes, text: str, headers: dict[str, str]
) -> None:
    method, path = request_line.split()
    response = hello.open(path, method=method, data=body, headers=headers)
    assert (response.status_code, response.text) == (200, text)
    # A browser must not run a script that a link contains as the message.
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"message=hi", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[1]", "the body: expected an object"),
        (b'{"message": 5}', "message: expected a string; got 5"),
        (b'{"message": null}', "message: expected a string; got null"),
        (b'{"message": "\\ud800"}', "cannot be encoded as UTF-8"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="nested"),
        # Rejected without converting the digits to a number.
        pytest.param(b"[" + b"9" * 900_000 + b"]", "the body is not JSON", id="a million digits"),
    ],
)
def test_invalid_message_gets_400_with_the_reason(
    hello: FlaskClient, body: bytes, message: str
) -> None:
    response = hello.post("/", data=body, headers=JSON_TYPE)
    assert response.status_code == 400
    assert message in response.text


def test_other_method_gets_405(hello: FlaskClient) -> None:
    response = hello.delete("/")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD, POST")


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
def test_body_over_the_limit_gets_413_with_the_limit(live: StartLive, chunked: bool) -> None:
    body = b" " * (3 << 20)
    response = live("hello").send("POST", "/", iter([body, body]) if chunked else body, FORM)
    assert response.code == 413
    assert "limit of 1048576 bytes" in response.body


def test_disconnected_client_does_not_affect_the_next_request(live: StartLive) -> None:
    connection = http.client.HTTPConnection(urlsplit(live("hello").url).netloc, timeout=10)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    connection.close()
    assert live("hello").post(b'{"message": "still here"}', FORM).body == "still here"
