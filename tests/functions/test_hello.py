"""hello: what it is told, it says."""

import http.client
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.functions.conftest import framework
from tests.http import JSON_TYPE, Endpoint
from tests.pictures import ROOT


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    main = ROOT / "functions" / "hello" / "main.py"
    with framework(main, "hello", tmp_path_factory.mktemp("hello")) as endpoint:
        yield endpoint


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
@pytest.mark.parametrize("headers", [{}, JSON_TYPE], ids=["no type", "JSON"])
def test_it_says_its_message(
    hello: Endpoint, asked: str, body: bytes, said: str, headers: dict[str, str]
) -> None:
    method, path = asked.split()
    answer = hello.send(method, path, body, headers)
    assert (answer.code, answer.body) == (200, said)
    # A browser must not run what somebody's link made this function say.
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_body_that_curl_calls_a_form_is_read_all_the_same(hello: Endpoint) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert hello.post(b'{"message": "from curl -d"}', form).body == "from curl -d"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "the body is not JSON"),
        (b"message=hi", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[1]", "the body: expected an object"),
        (b'{"message": 5}', "message: expected a string; got 5"),
        (b'{"message": null}', "message: expected a string; got null"),
        (b'{"message": "\\ud800"}', "not to be written as UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_cannot_be_said_is_a_400_with_the_reason(
    hello: Endpoint, body: bytes, says: str
) -> None:
    answer = hello.post(body)
    assert answer.code == 400
    assert says in answer.body


def test_other_methods_are_a_405(hello: Endpoint) -> None:
    answer = hello.send("DELETE", "/")
    assert answer.code == 405
    assert answer.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("chunked", [False, True], ids=["its length announced", "in chunks"])
def test_a_body_beyond_the_limit_is_a_413_that_names_it(hello: Endpoint, chunked: bool) -> None:
    body = b" " * (3 << 20)
    answer = hello.send("POST", "/", iter([body, body]) if chunked else body)
    assert answer.code == 413
    assert "limit of 1048576 bytes" in answer.body


def test_who_hangs_up_harms_nobody(hello: Endpoint) -> None:
    connection = http.client.HTTPConnection(urlsplit(hello.url).netloc, timeout=10)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    connection.close()
    assert hello.send("GET", "/").body == "Hello World!"
