"""The worker's messages, compared with those that TorchServe's own code reads and writes."""

import json
import logging
import socket
import struct
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from ts.context import Context, RequestProcessor
from ts.protocol.otf_message_handler import create_predict_response, retrieve_msg
from ts.service import Service

from serving.worker.serving_worker import logs, messages, process

REQUESTS = [
    ("one", {"host": "localhost"}, {"body": b'{"instances": [1]}'}),
    ("two", {}, {"body": b"\0" * 300_000, "also": b""}),
]


def encode_text(content: str | bytes) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("!i", len(content)) + content


def encode_batch() -> bytes:
    """Return REQUESTS as Java sends them."""
    end, parts = struct.pack("!i", -1), [messages.PREDICT]
    for request_id, headers, data in REQUESTS:
        header_parts = (encode_text(part) for pair in headers.items() for part in pair)
        parts += [encode_text(request_id), *header_parts, end]
        for name, value in data.items():
            parts += [encode_text(name), encode_text("application/json"), encode_text(value)]
        parts.append(end)
    return b"".join([*parts, end])


def receive(content: bytes) -> socket.socket:
    """Return a connection that receives the content and is then closed."""
    java, ours = socket.socketpair()

    def send() -> None:
        with java:
            java.sendall(content)

    threading.Thread(target=send, daemon=True).start()
    return ours


def test_batch_is_parsed_as_torchserve_parses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")  # as Java sets it
    with receive(encode_batch()) as connection:
        _, batch = retrieve_msg(connection)
    headers, data, ids = Service.retrieve_data_for_inference(batch)
    with receive(encode_batch() * 2) as connection:
        received = messages.Messages(connection)
        for _ in range(2):
            assert received.read_command() == messages.PREDICT
            got_ids, got_headers, got_data = received.read_requests()
            assert dict(enumerate(got_ids)) == ids
            assert got_data == data
            properties = [request.get_request_properties() for request in got_headers]
            assert properties == [request.get_request_properties() for request in headers]
        with pytest.raises(messages.FrontendDisconnectedError):
            received.read_command()


@pytest.mark.parametrize(
    "bodies",
    [["a", b"bc"], [{"not": "text"}, "a"], ["\u00e9", ""]],
    ids=["text and bytes", "an object", "not ascii"],
)
def test_batch_is_answered_as_torchserve_answers_it(bodies: list[Any]) -> None:
    ids = ["one", "two"]
    expected = create_predict_response(
        bodies, dict(enumerate(ids)), "Prediction success", 200, answered_context()
    )
    assert messages.encode_responses(answered_context(), ids, bodies) == bytes(expected)


def answered_context() -> Context:
    """Return a context in which a handler has set statuses and headers."""
    context = Context("model", "/", {}, 2, None, "0.12.0")
    context.request_processor = [RequestProcessor({}), RequestProcessor({})]
    context.set_response_content_type(0, "application/json")
    context.set_response_status(400, "Bad Request", 1)
    context.set_response_header(1, "X-Why", "because")
    return context


@pytest.mark.parametrize(
    ("raised", "code"),
    [(MemoryError(), 507), (RuntimeError("CUDA out of memory"), 507), (ValueError("no"), 503)],
)
def test_handler_error_is_answered_as_torchserve_answers_it(raised: Exception, code: int) -> None:
    answer = predict(raised)
    message = "Out of resources" if code == 507 else "Prediction failed"
    assert answer == bytes(create_predict_response(None, {0: "one"}, message, code))


@pytest.mark.parametrize("bodies", ["a", [], ["a", "b"]])
def test_wrong_number_of_responses_from_a_handler_gets_503(bodies: Any) -> None:
    answer = predict(bodies)
    assert struct.unpack("!i", answer[:4]) == (503,)


def predict(outcome: Any) -> bytes:
    """Answer one request with a handler that raises or returns the outcome."""
    context = Context("model", "/", {}, 1, None, "0.12.0")
    context.metrics = SimpleNamespace()
    handle = Mock(side_effect=[outcome])
    service = SimpleNamespace(context=context, cl_socket=None, _entry_point=handle)
    return process._predict(service, ["one"], [RequestProcessor({})], [{}])


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (logging.INFO, "two lines"),
        (
            logging.ERROR,
            {"severity": "ERROR", "message": "two\nlines", "requests": ["7"], "trace": "t"},
        ),
    ],
)
def test_warnings_and_errors_are_logged_as_json_with_their_request_and_trace(
    level: int, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [RequestProcessor({"X-Request-Id": "7", "X-Trace": "t"}), RequestProcessor({})]
    monkeypatch.setattr(logs.JsonFormatter, "requests", requests)
    record = logging.LogRecord("name", level, "file", 1, "two\nlines", None, None)
    line = logs.JsonFormatter("%(message)s").format(record)
    assert (line if level == logging.INFO else json.loads(line)) == expected


def test_handler_of_an_older_archive_reports_its_timings_too() -> None:
    context = SimpleNamespace()
    service = SimpleNamespace(context=context, set_cl_socket=lambda _: None)

    class LoadedWorker(process.Worker):
        def __init__(self) -> None:
            """Create no socket."""

        def load_model(self, _: Any) -> tuple[Any, str, int]:
            return service, "loaded", 200

    load = [messages.LOAD, *map(encode_text, ("model", "/model"))]
    load += [struct.pack("!i", 1), encode_text("handler"), struct.pack("!i", -1)]
    load += [encode_text(""), b"\0"]
    java, connection = socket.socketpair()
    java.sendall(b"".join(load))
    java.shutdown(socket.SHUT_WR)
    with java, connection, pytest.raises(messages.FrontendDisconnectedError):
        LoadedWorker().handle_connection(connection)
    assert context.tell_stages == context.on_timings
