"""hello: what it is told, it says."""

import http.client
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from flask.testing import FlaskClient

from tests.functions.conftest import Live, in_process
from tests.http import JSON_TYPE

pytestmark = pytest.mark.xdist_group("functions")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def hello() -> Iterator[FlaskClient]:
    with in_process("hello") as client:
        yield client


@pytest.mark.parametrize(
    ("asked", "body", "said"),
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
def test_it_says_its_message(
    hello: FlaskClient, asked: str, body: bytes, said: str, headers: dict[str, str]
) -> None:
    method, path = asked.split()
    answer = hello.open(path, method=method, data=body, headers=headers)
    assert (answer.status_code, answer.text) == (200, said)
    # A browser must not run what somebody's link made this function say.
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "the body is not JSON"),
        (b"message=hi", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[1]", "the body: expected an object"),
        (b'{"message": 5}', "message: expected a string; got 5"),
        (b'{"message": null}', "message: expected a string; got null"),
        (b'{"message": "\\ud800"}', "cannot be encoded as UTF-8"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="nested"),
        # Refused without being computed.
        pytest.param(b"[" + b"9" * 900_000 + b"]", "the body is not JSON", id="a million digits"),
    ],
)
def test_what_cannot_be_said_is_a_400_with_the_reason(
    hello: FlaskClient, body: bytes, says: str
) -> None:
    answer = hello.post("/", data=body, headers=JSON_TYPE)
    assert answer.status_code == 400
    assert says in answer.text


def test_other_methods_are_a_405(hello: FlaskClient) -> None:
    answer = hello.delete("/")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, POST")


@pytest.mark.parametrize("chunked", [False, True], ids=["its length announced", "in chunks"])
def test_a_body_beyond_the_limit_is_a_413_that_names_it(live: Live, chunked: bool) -> None:
    body = b" " * (3 << 20)
    answer = live("hello").send("POST", "/", iter([body, body]) if chunked else body, FORM)
    assert answer.code == 413
    assert "limit of 1048576 bytes" in answer.body


def test_who_hangs_up_harms_nobody(live: Live) -> None:
    connection = http.client.HTTPConnection(urlsplit(live("hello").url).netloc, timeout=10)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    connection.close()
    assert live("hello").post(b'{"message": "still here"}', FORM).body == "still here"
